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


def test_what_the_author_says_in_the_recipe_stands_in_the_card(chain, run, tmp_path):
    import torch

    checkpoint = torch.load(chain / "ckpt.pt", weights_only=True)
    said = {name: f"said of {name}" for name in checkpoint["recipe"]["card"]}
    checkpoint["recipe"]["card"] = said
    torch.save(checkpoint, tmp_path / "said.pt")
    assert run("medexport", "card", str(tmp_path / "said.pt"), "--check", cwd=chain).returncode == 0
    text = run("medexport", "card", str(tmp_path / "said.pt"), cwd=chain).stdout
    assert "**Missing**" not in text
    assert all(words in text for words in said.values())
