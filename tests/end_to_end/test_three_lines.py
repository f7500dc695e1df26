"""The three lines of the README, run as a user runs them."""

import csv
import json
import shutil
from pathlib import Path

import pytest


def test_fit_leaves_a_checkpoint_its_metrics_and_its_split(chain):
    metrics = json.loads((chain / "metrics.json").read_text())
    assert metrics["test"]["images"] == 40
    assert len(metrics["history"]) == 3
    rows = list(csv.DictReader((chain / "splits.csv").read_text().splitlines()))
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    assert all(row["path"].startswith("test/") == (row["split"] == "test") for row in rows)
    page = (chain / "report.html").read_text(encoding="utf-8")
    assert f"{metrics['test']['accuracy']:.3f}" in page
    assert "On 40 test images" in page


def test_abstaining_tells_the_status_of_each_image(chain, run):
    done = run("medinfer", "phantom/test/", "--provider", "cpu", "--abstain", "--format", "jsonl", cwd=chain)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line)["screening"]["status"] for line in done.stdout.splitlines()]
    told = json.loads((chain / "metrics.json").read_text())["test"]["abstention"]
    assert found.count("ok") / len(found) == told["answered"]
    assert found.count("out_of_distribution") / len(found) == told["out_of_distribution"]


def test_infer_gives_one_row_per_image_in_order(chain, run):
    done = run("medinfer", "phantom/test/", "--provider", "cpu", cwd=chain)
    assert done.returncode == 0
    rows = list(csv.DictReader(done.stdout.splitlines()))
    names = sorted(str(path.relative_to(chain)) for path in (chain / "phantom/test").rglob("*.png"))
    assert [row["path"] for row in rows] == names
    assert {row["label"] for row in rows} <= {"parasitized", "uninfected"}
    assert "ckpt.onnx" in done.stderr  # what it took is always named


def test_cuda_that_is_not_to_be_had_is_exit_5_with_the_remedy(chain, run):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers() and shutil.which("nvidia-smi"):
        pytest.skip("this machine may have CUDA")
    done = run("medinfer", "phantom/test/", "--provider", "cuda", cwd=chain)
    assert done.returncode == 5
    assert done.stdout == ""
    assert "pip install" in done.stderr
    assert "--provider cpu" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_deployed_file_measures_as_the_checkpoint_does(chain, run):
    done = run("medinfer", "evaluate", "phantom/test", "--provider", "cpu", "--json", "--quiet", cwd=chain)
    again = run("medtrain", "evaluate", "ckpt.pt", "phantom/test", "--json", "--quiet", cwd=chain)
    deployed, trained = json.loads(done.stdout), json.loads(again.stdout)
    fitted = json.loads((chain / "metrics.json").read_text())["test"]
    for other in (trained, fitted):
        for key in ("images", "accuracy", "confusion_matrix", "sensitivity", "specificity"):
            assert deployed[key] == other[key], key
        for key in ("brier", "nll"):
            assert deployed[key] == pytest.approx(other[key], abs=1e-5), key
        assert deployed["macro_auc"] == pytest.approx(other["macro_auc"], abs=1 / 400)
        assert deployed["ece"] == pytest.approx(other["ece"], abs=1 / deployed["images"])
        for key in ("operating_points", "abstention"):
            assert deployed[key] == other[key], key
    assert set(deployed["operating_points"]) == {"sensitivity-95", "specificity-95", "youden"}


def test_a_table_of_labels_measures_as_the_folders_do(chain, run, tmp_path):
    images = sorted((chain / "phantom/test").rglob("*.png"))
    lines = [f"{path.relative_to(chain)},{path.parent.name}" for path in images]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *lines]))
    words = ("--provider", "cpu", "--json", "--quiet")
    told = run("medinfer", "evaluate", str(tmp_path / "labels.csv"), "--root", ".", *words, cwd=chain)
    whole = run("medinfer", "evaluate", "phantom/test", *words, cwd=chain)
    assert json.loads(told.stdout) == json.loads(whole.stdout)
    for table, told in (
        ("path\na.png\n", "no column label"),
        ("path,label,label\n", "stands twice"),
        ("path,label\n,x\n", "line 2 lacks a path"),
        ("path,label\na.png,x\na.png,x\n", "a.png stands in it more than once"),
    ):
        (tmp_path / "bad.csv").write_text(table)
        refused = run("medinfer", "evaluate", str(tmp_path / "bad.csv"), "--provider", "cpu", cwd=chain)
        assert refused.returncode == 2
        assert told in refused.stderr


def test_an_earlier_result_is_never_overwritten_unasked(chain, run):
    before = (chain / "ckpt.pt").read_bytes()
    refused = run("medtrain", "fit", "phantom", "--recipe", "phantom", cwd=chain)
    assert refused.returncode == 2
    assert "--overwrite" in refused.stderr
    refused = run("medexport", "onnx", "ckpt.pt", cwd=chain)
    assert refused.returncode == 2
    assert (chain / "ckpt.pt").read_bytes() == before


def test_a_finished_run_resumed_does_nothing(chain, run):
    before = (chain / "ckpt.pt").read_bytes()
    done = run("medtrain", "fit", "phantom", "--recipe", "phantom", "--epochs", 3, "--resume", cwd=chain)
    assert done.returncode == 0
    assert "finished" in done.stderr
    assert (chain / "ckpt.pt").read_bytes() == before


def test_verify_replays_the_samples_inside_the_file(chain, run):
    assert run("medinfer", "verify", "ckpt.onnx", cwd=chain).returncode == 0
    assert run("medexport", "verify", "ckpt.onnx", "ckpt.pt", "phantom/test", cwd=chain).returncode == 0


def test_info_prints_the_contract_as_it_stands_in_the_file(chain, run):
    import onnx

    stored = {entry.key: entry.value for entry in onnx.load(chain / "ckpt.onnx").metadata_props}["medinfer.spec"]
    assert run("medinfer", "info", "ckpt.onnx", "--json", cwd=chain).stdout.strip() == stored
    assert "label_flips: 0" in run("medinfer", "info", "ckpt.onnx", cwd=chain).stdout


@pytest.mark.parametrize(("name", "first"), [("a.csv", "path,label"), ("a.jsonl", '{"path"')])
def test_output_goes_to_a_file_whole_and_only_once(chain, run, tmp_path, name, first):
    target = tmp_path / name
    command = ("medinfer", "phantom/test", "--provider", "cpu", "-o", target)
    assert run(*command, cwd=chain).returncode == 0
    assert target.read_text().startswith(first)
    again = run(*command, cwd=chain)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
    assert run(*command, "--overwrite", cwd=chain).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, f"{name}.meta.json"]


def test_a_subcommand_may_be_named_or_left_out(chain, run, tmp_path):
    image = next((chain / "phantom/test").rglob("*.png"))
    plain = run("medinfer", image, "--provider", "cpu", cwd=chain)
    named = run("medinfer", "predict", image, "--provider", "cpu", cwd=chain)
    options_first = run("medinfer", "--provider", "cpu", image, cwd=chain)
    assert plain.stdout == named.stdout == options_first.stdout
    # A path that is called like a subcommand: the subcommand wins and says so, ./ escapes.
    shutil.copy(image, tmp_path / "info")
    model = ("--model", chain / "ckpt.onnx", "--provider", "cpu")
    escaped = run("medinfer", "./info", *model, cwd=tmp_path)
    assert escaped.returncode == 0
    assert run("medinfer", "info", cwd=tmp_path).stderr.startswith("Note: 'info' is taken as the subcommand")


def test_of_several_models_the_one_without_a_variant_suffix_is_taken(chain, run, tmp_path):
    image = next((chain / "phantom/test").rglob("*.png"))
    for name in ("ckpt.onnx", "ckpt.int8.onnx"):
        shutil.copy(chain / "ckpt.onnx", tmp_path / name)
    assert "Model ckpt.onnx" in run("medinfer", image, "--provider", "cpu", cwd=tmp_path).stderr
    shutil.copy(chain / "ckpt.onnx", tmp_path / "other.onnx")
    ambiguous = run("medinfer", image, cwd=tmp_path)
    assert ambiguous.returncode == 2
    assert all(name in ambiguous.stderr for name in ("ckpt.int8.onnx", "ckpt.onnx", "other.onnx"))


@pytest.mark.parametrize("command", ["medinfer", "medtrain", "medexport"])
def test_every_command_tells_its_version_and_help_and_refuses_what_it_does_not_know(run, tmp_path, command):
    assert run(command, "--version", cwd=tmp_path).returncode == 0
    shown = run(command, "--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert "not a medical device" in " ".join(shown.stdout.split())
    assert run(command, "--nonsense", cwd=tmp_path).returncode == 2


def test_an_empty_folder_is_no_empty_success(chain, run, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    done = run("medinfer", tmp_path, "--model", chain / "ckpt.onnx", "--provider", "cpu", cwd=chain)
    assert done.returncode == 2
    assert "no images found" in done.stderr
    assert done.stdout == ""


def test_a_reader_that_goes_away_is_no_error(chain):
    import subprocess
    import sys

    medinfer = Path(sys.executable).with_name("medinfer")
    line = f"'{medinfer}' phantom/test --provider cpu --quiet | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=chain, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == ""
