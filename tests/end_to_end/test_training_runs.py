"""Training as its users run it: checks, comparisons, several processes, a full disk."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch

BIN = Path(sys.executable).parent
QUICK = ("--recipe", "phantom", "--epochs", 1, "--quiet")


def test_check_says_what_is_wrong_and_exits_as_fit_would(chain, run, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(chain / "phantom", data)
    clean = run("medtrain", "check", data, "--recipe", "phantom", cwd=tmp_path)
    assert clean.returncode == 0, clean.stderr
    assert "parasitized: " in clean.stdout
    victim = next((data / "test/parasitized").iterdir())
    shutil.copy(victim, data / "train/parasitized/copied.png")
    (data / "train/parasitized/broken.png").write_bytes(b"no picture")
    for command in ("check", "fit"):
        refused = run("medtrain", command, data, "--recipe", "phantom", cwd=tmp_path)
        assert refused.returncode == 2
        assert "train/parasitized/copied.png" in refused.stderr
        assert "train/parasitized/broken.png: not_an_image" in refused.stderr
        assert "--allow-leakage" in refused.stderr
    allowed = run(
        "medtrain", "check", data, "--recipe", "phantom", "--allow-leakage", "--skip-bad", "--json", cwd=tmp_path
    )
    assert allowed.returncode == 0, allowed.stderr
    kinds = {finding["kind"]: finding["severity"] for finding in json.loads(allowed.stdout)["findings"]}
    assert kinds["leakage"] == kinds["unreadable"] == "warning"


def test_what_was_allowed_is_recorded_in_the_checkpoint(chain, run, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(chain / "phantom", data)
    shutil.copy(next((data / "test/parasitized").iterdir()), data / "train/parasitized/copied.png")
    done = run("medtrain", "fit", data, *QUICK, "--allow-leakage", "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    checkpoint = torch.load(tmp_path / "out/ckpt.pt", weights_only=True)
    assert checkpoint["recipe"]["data"]["on_leak"] == "allow"
    assert [f["count"] for f in checkpoint["data"]["findings"] if f["kind"] == "leakage"] == [2]


def test_several_networks_are_ranked_and_the_best_is_kept(chain, run, tmp_path):
    command = ("medtrain", "fit", chain / "phantom", *QUICK, "--arch", "small_cnn,malaria_cnn", "--out", tmp_path)
    done = run(*command, cwd=chain)
    assert done.returncode == 0, done.stderr
    board = json.loads((tmp_path / "leaderboard.json").read_text())
    assert {row["arch"] for row in board} == {"small_cnn", "malaria_cnn"}
    assert board[0]["validation_auc"] >= board[1]["validation_auc"]
    assert done.stdout.splitlines()[1].startswith(board[0]["arch"])
    assert (tmp_path / "ckpt.pt").read_bytes() == (tmp_path / board[0]["folder"] / "ckpt.pt").read_bytes()
    again = run(*command, cwd=chain)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr


def test_preview_writes_a_row_for_each_image(chain, run, tmp_path):
    command = ("medtrain", "preview", chain / "phantom", "--recipe", "phantom", "--images", 4, "-o", "sheet.png")
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (4 * 68 - 4, 6 * 68 - 4, 3)
    assert run(*command, cwd=tmp_path).returncode == 2  # not overwritten unasked


def test_info_counts_layers_and_parameters(run, tmp_path):
    done = run("medtrain", "info", "malaria", "--variant", "original", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "64x68x68" in done.stdout
    assert "parameters" in done.stdout.splitlines()[-1]


def test_recipes_tell_where_their_data_are_to_be_had(run, tmp_path):
    listed = run("medtrain", "recipes", cwd=tmp_path).stdout
    for name in ("brain-tumor-ct-mri", "brain-tumor-mri", "busi", "malaria", "cardiomegaly"):
        assert name in listed
        about = run("medtrain", "recipes", name, cwd=tmp_path).stdout
        assert "https://www.kaggle.com/" in about
        assert "Original:" in about


def test_tensorboard_gets_a_curve_for_each_figure(chain, run, tmp_path):
    pytest.importorskip("tensorboard")
    done = run("medtrain", "fit", chain / "phantom", *QUICK, "--tensorboard", "--out", tmp_path, cwd=chain)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_a_refused_run_leaves_earlier_results_and_nothing_of_its_own(chain, run, tmp_path):
    refusals = [
        (tmp_path / "nowhere", ()),
        (chain / "phantom", ("--weights", "absent.pth")),
        (chain / "phantom", ("--set", "positive=['absent']")),
        (chain / "phantom", ("--arch", "vit_b_16")),  # wants 224 px
        (chain / "phantom", ("--set", "network.pool=max")),
    ]
    (tmp_path / "ckpt.pt").write_bytes(b"hours of work")
    for data, words in refusals:
        refused = run("medtrain", "fit", data, *QUICK, *words, "--out", tmp_path, "--overwrite", cwd=tmp_path)
        assert refused.returncode == 2, refused.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pt"], words
    assert (tmp_path / "ckpt.pt").read_bytes() == b"hours of work"


def test_a_run_never_writes_over_what_it_reads(chain, run, tmp_path):
    manifest = tmp_path / "splits.csv"
    manifest.write_text("path,label\n")
    refused = run("medtrain", "fit", manifest, "--overwrite", cwd=tmp_path)
    assert refused.returncode == 2
    assert "--out" in refused.stderr
    assert manifest.read_text() == "path,label\n"


def test_a_network_that_cannot_be_had_is_refused_before_the_others_are_trained(chain, run, tmp_path):
    for archs in ("small_cnn,resnet81", "small_cnn,", "small_cnn,small_cnn"):
        refused = run("medtrain", "fit", chain / "phantom", *QUICK, "--arch", archs, "--out", tmp_path, cwd=chain)
        assert refused.returncode == 2
        assert list(tmp_path.iterdir()) == []


SHARED_WEIGHTS = """
import hashlib, sys
from pathlib import Path
from medtrain import fit
from medtrain.processes import join_processes, leave_processes
from medtrain.recipe import load

process = join_processes("cpu")
recipe = load("phantom", ["training.epochs=2", "training.batch_size=33"])
options = fit.Options(out=Path(sys.argv[2]), process=process, quiet=True)
dataset = fit.load_dataset(Path(sys.argv[1]), recipe.data, recipe.input, recipe.training.seed)
run = fit._Run(dataset, recipe, options, None)
run.train()
digest = hashlib.sha256()
for name, value in sorted(run.classifier.state_dict().items()):
    digest.update(name.encode() + value.numpy().tobytes())
Path(sys.argv[2], f"rank{process.rank}.txt").write_text(digest.hexdigest())
leave_processes()
"""


def torchrun(*words, cwd):
    command = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def test_two_processes_end_with_the_same_weights(chain, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SHARED_WEIGHTS)
    done = torchrun(script, chain / "phantom", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / f"rank{rank}.txt").read_text() for rank in range(2))
    assert first == second


def test_torchrun_runs_the_command_and_one_process_writes(chain, tmp_path):
    fit = ("-m", "medtrain", "fit", chain / "phantom", "--recipe", "phantom", "--epochs", 1)
    done = torchrun(*fit, "--out", tmp_path, cwd=chain)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 1/1") == 1
    assert json.loads((tmp_path / "metrics.json").read_text())["test"]["images"] == 40


def test_a_full_disk_ends_with_7_and_leaves_the_last_save_whole(chain, tmp_path):
    command = [str(BIN / "medtrain"), "fit", str(chain / "phantom"), "--out", str(tmp_path), *map(str, QUICK)]

    def small_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    done = subprocess.run(command, preexec_fn=small_disk, capture_output=True, text=True, timeout=300)
    assert done.returncode == 7, done.stderr
    assert "Free some disk space" in done.stderr
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".pt" and path.stat().st_size >= 200_000]
    assert {path.name for path in tmp_path.iterdir()} <= {"splits.csv"}


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_running_out_of_memory_is_told_with_the_batch_size(chain, tmp_path, monkeypatch, error):
    from medinfer.errors import ResourceError
    from medtrain import fit
    from medtrain.recipe import load

    def exhausted(*_):
        raise error

    monkeypatch.setattr(fit.Trainer, "run", exhausted)
    with pytest.raises(ResourceError, match="batches of 32") as told:
        fit.fit(chain / "phantom", load("phantom"), fit.Options(out=tmp_path, quiet=True))
    assert told.value.exit_code == 7
