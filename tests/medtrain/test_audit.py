"""The audit: what betrays the label or misleads is found, and what does neither is not."""

import json
import shutil

import cv2
import numpy as np
import pytest

from medtrain import survey as survey_module
from medtrain.audit import predictability
from medtrain.dataset import examine
from medtrain.layout import find_samples
from medtrain.recipe import Data
from medtrain.survey import HASH_BITS, Facts, near_pairs, survey


@pytest.fixture
def audited(tmp_path, spec):
    """Returns the findings of a kind in the test's folder."""

    def look(kind, **settings):
        return [found for found in examine(tmp_path, Data(**settings), spec, 0).findings if found.kind == kind]

    return look


def test_nothing_is_found_where_nothing_is_wrong(tmp_path, fill, spec):
    assert examine(fill(tmp_path), Data(), spec, 0).findings == ()


def test_exact_copies_are_counted_whatever_their_format(tmp_path, fill, put, audited):
    fill(tmp_path)
    shutil.copyfile(tmp_path / "a/0.png", tmp_path / "a/x.png")
    put(tmp_path / "a/y.bmp", 0)  # the picture of a/0.png
    put(tmp_path / "b/z.png", 1005)  # and of b/5.png
    (copies,) = audited("duplicates")
    assert copies.severity == "note"
    assert copies.count == 3
    assert copies.message == "3 images are exact copies of another (2 pictures)"
    assert copies.examples == ("a/0.png = a/x.png = a/y.bmp", "b/5.png = b/z.png")


def test_a_gray_picture_is_the_same_in_one_channel_and_in_three(tmp_path, save, smooth, spec):
    save(tmp_path / "a/gray.png", smooth(1))
    save(tmp_path / "a/rgb.png", np.dstack([smooth(1)] * 3))
    save(tmp_path / "a/tinted.png", np.dstack([smooth(1), smooth(1), smooth(1) + 1]))
    save(tmp_path / "b/flat.png", smooth(1).reshape(32, 128))
    gray, rgb, tinted, flat = survey(find_samples(tmp_path, Data()).samples, spec)
    assert gray.pixels == rgb.pixels
    assert gray.sha256 != rgb.sha256
    assert len({gray.pixels, tinted.pixels, flat.pixels}) == 3
    assert [facts.mode for facts in (gray, rgb, tinted)] == ["gray8", "rgb8", "rgb8"]
    assert [facts.size for facts in (gray, flat)] == ["64x64", "128x32"]


def shortcuts(findings):
    """Return which attributes were found to predict the label, and how grave that is."""
    return {finding.message.split(" alone")[0]: finding.severity for finding in findings}


def test_a_format_that_betrays_the_label_is_found(tmp_path, fill, audited):
    fill(tmp_path, classes=("a",))
    fill(tmp_path, classes=("b",), start=500, suffix=".jpg")
    findings = audited("shortcut")
    # The name ends in the format; no network sees it.
    assert shortcuts(findings) == {"the file format": "warning", "the file name": "note"}
    assert findings[0].message.endswith("tells the label (100% right, 50% by the commonest)")
    assert findings[0].count == 40


def test_formats_that_both_classes_have_betray_nothing(tmp_path, fill, audited):
    fill(tmp_path, count=10)
    fill(tmp_path, count=10, start=500, suffix=".jpg")
    assert audited("shortcut") == []


def test_a_size_that_betrays_the_label_is_found(tmp_path, put, audited):
    for i in range(20):
        put(tmp_path / f"a/{i}.png", i, size=(9, 11))
        put(tmp_path / f"b/{i}.png", 100 + i, size=(10, 12) if i else (9, 11))
    assert shortcuts(audited("shortcut")) == {"the size": "warning"}


def test_sizes_that_occur_once_betray_nothing(tmp_path, put, audited):
    for i in range(20):
        put(tmp_path / f"a/{i}.png", i, size=(9, 11 + i))
        put(tmp_path / f"b/{i}.png", 100 + i, size=(10, 11 + i))
    assert audited("shortcut") == []


def test_a_pixel_mode_that_betrays_the_label_is_found(tmp_path, fill, save, audited):
    fill(tmp_path, classes=("a",))
    for i in range(20):
        save(tmp_path / f"b/{i}.png", np.random.default_rng(i).integers(0, 256, (9, 11), dtype=np.uint8))
    assert shortcuts(audited("shortcut")) == {"the pixel mode": "warning"}


def test_a_name_that_betrays_the_label_is_noted(tmp_path, put, audited):
    for i in range(20):
        put(tmp_path / f"a/patient {i}.png", i)
        put(tmp_path / f"b/Control_{i}.png", 100 + i)
    assert shortcuts(audited("shortcut")) == {"the file name": "note"}


def test_shortcuts_are_sought_in_each_root_by_itself(tmp_path, fill, audited):
    # All CT are PNG and mostly `a`, all MRI JPEG and mostly `b`: within neither does the format tell.
    for root, suffix, counts in (("CT", ".png", {"a": 20, "b": 10}), ("MRI", ".jpg", {"a": 10, "b": 20})):
        for k, (label, count) in enumerate(counts.items()):
            fill(tmp_path / root, classes=(label,), count=count, start=100 * k + len(root) * 1000, suffix=suffix)
    assert audited("shortcut", roots=("CT", "MRI")) == []
    for path in (tmp_path / "MRI/a").iterdir():
        cv2.imwrite(str(path.with_suffix(".bmp")), cv2.imread(str(path)))
        path.unlink()
    assert shortcuts(audited("shortcut", roots=("CT", "MRI"))) == {
        "the file format": "warning",
        "the file name": "note",
    }
    assert all(found.message.endswith(" in MRI") for found in audited("shortcut", roots=("CT", "MRI")))


def test_where_one_class_is_all_there_is_to_see_nothing_betrays_it(tmp_path, fill, audited):
    for path in (fill(tmp_path) / "b").iterdir():
        path.write_bytes(b"no picture")
    assert audited("shortcut") == []


@pytest.mark.parametrize(
    ("values", "labels", "known", "guessed"),
    [
        ("", "", 0, 0),
        ("xxxyyy", "aaabbb", 1, 1 / 2),
        ("xyxyxy", "aabbab", 0, 1 / 2),
        ("xxxxxx", "aaabbb", 0, 1 / 2),  # each time the others have one `a` or `b` less
        ("xxxx", "aaab", 3 / 4, 3 / 4),
        ("xxx", "aab", 0, 2 / 3),  # less one `a` they are equal: not right
        ("pqrs", "aaab", 3 / 4, 3 / 4),  # once each: as good as no value
        ("pqrs", "aabb", 0, 1 / 2),
        ("xxy", "aab", 2 / 3, 2 / 3),
        ("xxyyz", "aabbb", 4 / 5, 3 / 5),  # less `z` the rest is equal
        ("xxyyzbb", "aabbcbb", 6 / 7, 4 / 7),
        ("xx", "aa", 1, 1),
    ],
)
def test_how_well_a_value_predicts_a_label_is_counted_without_the_sample_itself(values, labels, known, guessed):
    assert predictability(list(values), list(labels)) == pytest.approx((known, guessed))


@pytest.mark.parametrize(("few", "told"), [(6, True), (7, False)])
def test_a_class_three_times_as_frequent_as_another_is_told(tmp_path, fill, audited, few, told):
    fill(tmp_path, classes=("a", "c"), count=18)
    fill(tmp_path, classes=("b",), count=few, start=500)
    findings = audited("imbalance")
    assert [(found.severity, found.message) for found in findings] == (
        [("warning", "18 images of 'a', 6 of 'b'")] if told else []
    )


@pytest.fixture
def distinct(tmp_path, save, smooth):
    """Train and test folders of soft pictures, no two of them alike."""
    for i in range(12):
        for k, folder in enumerate(("train/a", "train/b", "test/a", "test/b")):
            save(tmp_path / folder / f"{i}.png", smooth(100 * k + i))
    return tmp_path


def test_a_look_alike_in_another_split_is_found(distinct, save, smooth, audited):
    save(distinct / "test/a/copy.jpg", smooth(0) + 8)  # brighter, and lossy
    (alike,) = audited("near-duplicates")
    assert alike.severity == "warning"
    assert alike.examples == ("test/a/copy.jpg ~ train/a/0.png",)
    assert alike.message == "1 pairs of images look alike; 2 images have a look-alike in another split"


def test_a_look_alike_in_the_same_split_is_only_noted(distinct, save, smooth, audited):
    save(distinct / "train/a/copy.jpg", smooth(0) + 8)
    (alike,) = audited("near-duplicates", near_duplicates=True)
    assert (alike.severity, alike.count) == ("note", 1)


def test_an_exact_copy_is_no_look_alike(distinct, save, smooth, audited):
    save(distinct / "train/a/copy.png", smooth(0))
    assert audited("near-duplicates") == []
    assert len(audited("duplicates")) == 1


def test_pictures_without_structure_do_not_look_alike(tmp_path, save, audited):
    slope = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    for i in range(4):
        save(tmp_path / f"a/{i}.png", np.full((64, 64), 50 + i, np.uint8))
        save(tmp_path / f"b/{i}.png", slope + i)
    assert audited("near-duplicates") == []


def test_look_alikes_are_found_across_the_blocks_they_are_compared_in(monkeypatch):
    monkeypatch.setattr(survey_module, "BLOCK", 7)
    random = np.random.default_rng(0)
    base = random.integers(0, 2, (5, HASH_BITS), dtype=np.uint8)
    bits = base[random.integers(0, 5, 40)].copy()
    for row in bits:  # 0 to 12 bits wrong, so that pairs lie on either side of the limit
        row[random.choice(HASH_BITS, random.integers(0, 13), replace=False)] ^= 1
    bits[5] = 0  # an even picture
    facts = [Facts(outline=np.packbits(row).tobytes()) for row in bits]
    facts[11] = Facts(error="corrupt")
    expected = {
        (i, j) for i in range(40) for j in range(i + 1, 40) if (bits[i] != bits[j]).sum() <= 10 and not {i, j} & {5, 11}
    }
    pairs = near_pairs(facts, bits=10)
    assert set(pairs) == expected
    assert len(pairs) == len(expected) > 20
    assert {int((bits[i] != bits[j]).sum()) for i in range(40) for j in range(i)} >= {10, 11}
    assert near_pairs([Facts(error="corrupt")]) == []


def test_what_the_search_left_out_is_told(tmp_path, fill, put, audited):
    fill(tmp_path)
    shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    shutil.move(tmp_path.with_name("copy"), tmp_path / "data")
    put(tmp_path / "a/1_mask.png", 5)
    (excluded,) = audited("excluded", exclude=("*_mask.*",))
    assert (excluded.severity, excluded.count) == ("note", 1)
    (nested,) = audited("nested-copy", exclude=("*_mask.*",))
    assert (nested.severity, nested.count, nested.examples) == ("warning", 1, ("data",))


def test_findings_are_json_values_with_at_most_ten_examples(tmp_path, fill, spec):
    fill(tmp_path / "train")
    fill(tmp_path / "test", count=8)
    (tmp_path / "train/a/3.png").write_bytes(b"no picture")
    summary = examine(tmp_path, Data(), spec, 0).summary()
    assert json.loads(json.dumps(summary)) == summary
    findings = {finding["kind"]: finding for finding in summary["findings"]}
    assert set(findings) == {"unreadable", "leakage", "duplicates"}
    assert findings["unreadable"]["severity"] == "error"
    assert findings["unreadable"]["examples"][0].startswith("train/a/3.png: not_an_image")
    assert findings["leakage"]["count"] == 30
    assert len(findings["leakage"]["examples"]) == 10


def test_a_shortcut_to_one_class_of_several_is_found(tmp_path, fill, put, audited):
    fill(tmp_path, classes=("a", "b", "c"))
    for i in range(12):
        put(tmp_path / f"none/{i}.png", 9000 + i, (12 + i, 13 + i))
    (found,) = [finding for finding in audited("shortcut") if "size" in finding.message]
    assert found.message == "the size alone tells 'none' from the rest (100% right, 83% by the commonest)"


def test_images_of_few_levels_are_found(tmp_path, fill, save, audited):
    fill(tmp_path)
    save(tmp_path / "a/flat.png", np.full((64, 64), 100, np.uint8))
    save(tmp_path / "b/steps.png", (np.arange(64 * 64).reshape(64, 64) // 512 * 30).astype(np.uint8))
    (found,) = audited("few-levels")
    assert (found.severity, found.count) == ("warning", 2)
    assert found.examples == ("a/flat.png", "b/steps.png")
