"""`medinfer tune`: what it measures, when it advises a change, and what it stores."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import medinfer
from medinfer import tune
from medinfer.cli import cli
from medinfer.errors import UsageError
from medinfer.tune import Measured, Setting


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(tune, "SECONDS", 0.02)
    monkeypatch.setattr(tune, "ROUNDS", 1)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def images(tmp_path):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((9, 9, 3), i, np.uint8))
    return tmp_path


@pytest.fixture
def model(tiny_model):
    return medinfer.load(tiny_model, "cpu")


def test_the_default_is_measured_first_and_the_model_is_left_as_it_was(model, images):
    threads = model.threads
    measured = tune.measure(model, [str(path) for path in images.glob("*.png")])
    assert measured[0].setting == Setting(threads, 1)
    assert len({one.setting for one in measured}) == len(measured) >= 4
    assert all(one.rate > 0 for one in measured)
    assert model.threads == threads


def test_a_change_is_advised_only_where_it_clearly_gains():
    default, other = Setting(2, 1), Setting(3, 4)
    assert tune.best([Measured(default, 100), Measured(other, 102)]).setting == default
    assert tune.best([Measured(default, 100), Measured(other, 110)]).setting == other


def test_what_is_stored_is_taken_by_predict_for_this_model_only(
    model, images, tiny_model, build_model, model_spec, tmp_path
):
    assert tune.saved(model) is None
    path = tune.save(model, Setting(3, 2))
    assert tune.saved(model) == Setting(3, 2)
    result = CliRunner().invoke(cli, [str(images), "--model", str(tiny_model), "--provider", "cpu"])
    assert "As tuned here: --threads 3 --batch-size 2" in result.output
    chosen = CliRunner().invoke(cli, [str(images), "--model", str(tiny_model), "--provider", "cpu", "--threads", "1"])
    assert "As tuned" not in chosen.output
    other = medinfer.load(build_model(tmp_path / "other.onnx", model_spec(name="other")), "cpu")
    assert tune.saved(other) is None
    tune.save(other, Setting(1, 1))
    assert len(json.loads(path.read_text())) == 2


@pytest.mark.parametrize(
    "text", ["junk", "[]", '{"KEY": 1}', '{"KEY": {"threads": 0, "batch_size": 1}}', '{"KEY": {"threads": 2}}']
)
def test_a_stored_file_that_makes_no_sense_is_as_if_it_were_not_there(model, text):
    path = tune.save(model, Setting(3, 2))
    key = next(iter(json.loads(path.read_text())))
    path.write_text(text.replace("KEY", key))
    assert tune.saved(model) is None


def test_the_command_prints_every_setting_and_stores_the_best(images, tiny_model):
    words = ["tune", str(tiny_model), str(images), "--provider", "cpu"]
    result = CliRunner().invoke(cli, [*words, "--json", "--quiet", "--save"], catch_exceptions=False)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["best"] in [{key: row[key] for key in ("threads", "batch_size")} for row in found["measured"]]
    text = CliRunner().invoke(cli, [*words, "--quiet"], catch_exceptions=False).stdout
    assert text.count("images/s") == len(found["measured"])
    assert "default" in text
    assert "best" in text


def test_a_folder_without_images_is_refused(tmp_path, tiny_model):
    (tmp_path / "empty").mkdir()
    result = CliRunner().invoke(cli, ["tune", str(tiny_model), str(tmp_path / "empty"), "--provider", "cpu"])
    assert result.exception.exit_code == 2


def test_a_user_without_a_home_classifies_as_ever_and_is_told_where_settings_could_be_kept(model, monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(Path, "home", lambda: Path("~nobody-of-that-name").expanduser())
    assert tune.saved(model) is None
    with pytest.raises(UsageError, match="XDG_CONFIG_HOME"):
        tune.save(model, Setting(3, 2))
