"""The faults of single files, row by row: the code or the answer expected, from Python and from a run over all."""

import contextlib

import numpy as np
import pytest
from tests.faults.dicom_rows import DICOM
from tests.faults.picture_rows import PICTURES
from tests.faults.samples import RGB, SAMPLES

from medinfer.errors import ImageError
from medinfer.imaging import read_image

FILES = [*PICTURES, *DICOM]
# What one gray level in every pixel may make of a logit, and a little more.
WITHIN = 0.3


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A folder with the file of each row."""
    folder = tmp_path_factory.mktemp("files")
    for row in FILES:
        (folder / row.name).write_bytes(row.make())
    return folder


@pytest.mark.parametrize("row", FILES, ids=lambda row: row.title)
def test_a_faulty_file_gives_its_code_and_any_other_its_answer(row, files, model):
    path = files / row.name
    if isinstance(row.gives, str):
        with pytest.raises(ImageError) as caught:
            model(**row.fields).predict(path)
        assert (caught.value.code, caught.value.exit_code) == (row.gives, 3), caught.value
        assert 10 < len(str(caught.value)) < 400
        return
    seen, wanted = model(**row.fields).predict(path), model(**row.fields).predict(row.gives())
    np.testing.assert_allclose(seen.raw, wanted.raw, atol=WITHIN)
    assert seen.label == wanted.label


def test_a_run_over_all_of_them_gives_one_record_for_each_and_goes_on(files, records):
    """Standard output holds whole records alone, whatever C libraries print."""
    code, said, _ = records(files)
    assert code == 3
    # The rows for another contract are answered by this one.
    assert said == {row.name: row.gives if isinstance(row.gives, str) and not row.fields else "answer" for row in FILES}


@pytest.mark.parametrize("step", [61, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [kind for kind in SAMPLES if kind != "onnx"])
def test_the_beginning_of_a_file_is_refused_unless_it_holds_every_pixel(kind, step):
    """A few formats have an end mark that may be lost."""
    for name, data in SAMPLES[kind]().items():
        for keep in range(0, len(data), step):
            with contextlib.suppress(ImageError):
                np.testing.assert_array_equal(read_image(data[:keep], RGB), read_image(data, RGB), err_msg=name)


def test_the_pictures_of_the_answers_are_told_apart(model):
    """Otherwise a wrong answer would pass for a right one."""
    pictures = [row.gives() for row in FILES if row.number in (15, 53, 54, 55, 59)]
    answers = np.array([model().predict(one).raw for one in pictures])
    apart = np.abs(answers[:, None] - answers[None]).max(axis=2)
    assert np.median(apart) > 3 * WITHIN
