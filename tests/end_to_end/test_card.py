"""The model card of a trained checkpoint."""

import json


def test_the_card_holds_what_the_run_knows_and_marks_what_it_cannot(chain, run, tmp_path):
    done = run("medexport", "card", "ckpt.pt", "-o", str(tmp_path / "CARD.md"), cwd=chain)
    assert done.returncode == 0
    assert "missing: intended_use" in done.stderr
    text = (tmp_path / "CARD.md").read_text()
    test = json.loads((chain / "metrics.json").read_text())["test"]
    assert "Research use only" in text
    assert f"| accuracy | {test['accuracy']:.3f} |" in text
    assert f"| macro auc | {test['macro_auc']:.3f} |" in text
    for row in test["confusion_matrix"]:
        assert " | ".join(map(str, row)) in text
    for name in test["operating_points"]:
        assert f"**{name}**" in text
    assert text.count("**Missing**") == 11
    again = run("medexport", "card", "ckpt.pt", "-o", str(tmp_path / "CARD.md"), cwd=chain)
    assert again.returncode == 2
    assert run("medexport", "card", "ckpt.pt", cwd=chain).stdout == text


def test_an_incomplete_card_is_exit_2_and_names_what_is_missing(chain, run):
    done = run("medexport", "card", "ckpt.pt", "--check", cwd=chain)
    assert done.returncode == 2
    assert "the card lacks intended_use, users, population" in done.stderr
    assert done.stdout == ""


def test_what_the_author_says_stands_in_the_card(chain, run, tmp_path):
    from medexport.card import QUESTIONS

    said = {name: f"said of {name}\\nand more" for name in QUESTIONS}
    (tmp_path / "author.toml").write_text("\n".join(f'{name} = "{words}"' for name, words in said.items()))
    words = ("card", "ckpt.pt", "--author", str(tmp_path / "author.toml"))
    assert run("medexport", *words, "--check", cwd=chain).returncode == 0
    text = run("medexport", *words, cwd=chain).stdout
    assert "**Missing**" not in text
    assert all(f"said of {name} and more" in text for name in QUESTIONS)
    (tmp_path / "author.toml").write_text("inteded_use = 'x'")
    refused = run("medexport", *words, cwd=chain)
    assert refused.returncode == 2
    assert "inteded_use" in refused.stderr


def test_a_run_goes_on_when_only_the_card_has_changed(chain, run):
    words = ("fit", "phantom", "--recipe", "phantom", "--epochs", 3, "--set", "card.contact='me'", "--resume")
    assert run("medtrain", *words, cwd=chain).returncode == 0
