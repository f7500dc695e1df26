"""What calibration, thresholds and abstaining are worth on the test images of the reference runs.

    python -m benchmarks.decision_study DATA

takes every checkpoint that `benchmarks.reference_tasks` and `benchmarks.cardiomegaly` have trained, decides anew on its
validation images, exports it, and measures checkpoint and file on its test images; outsiders are other tasks' images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

import medinfer
from benchmarks.reference_tasks import BUSI, CARDIO, MODAL, MRI
from medinfer.inputs import find_images, name_of
from medtrain.checkpoint import load_checkpoint, save_checkpoint
from medtrain.dataset import load_dataset, load_examples
from medtrain.evaluate import answer, decide, evaluate
from medtrain.layout import SPLITS
from medtrain.outliers import learn_outliers
from medtrain.recipe import Recipe

# A folder of runs, and the images that its splits.csv names; None for those that an own folder of `build` holds.
RUNS = {
    "reference/malaria/ours": "malaria/cell_images",
    "reference/busi/ours": BUSI,
    "reference/brain-tumor-mri/ours": MRI,
    "reference/brain-tumor-mri/ours-random-split": MRI,
    "reference/brain-tumor-ct-mri/ours-one-format": None,
    "cardiomegaly/lite0-ours": None,
}
OUTSIDERS = ("malaria/cell_images", BUSI, CARDIO, MRI)
OUTSIDE = 200
CALIBRATION = ("ece", "nll", "brier")


def main() -> None:
    """Print a line for each run, and the means of each task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--only", help="Runs whose folder holds this word.")
    options = parser.parse_args()
    rows = []
    for name, data in RUNS.items():
        folder = options.build / name
        source = options.data / data if data else _own_data(name, options.build)
        runs = [folder] if (folder / "ckpt.pt").exists() else sorted(folder.glob("*"))
        for run in runs:
            if (run / "metrics.json").exists() and (options.only or "") in name:
                rows.append(study(name, run, source, options.data))
                print(json.dumps(rows[-1]), flush=True)
    for name in dict.fromkeys(row["run"] for row in rows):
        print(_mean(name, [row for row in rows if row["run"] == name]))


def _own_data(name: str, build: Path) -> Path:
    return build / "cardiomegaly/thousand.csv" if "cardio" in name else build / f"reference/{MODAL}-jpeg"


def study(name: str, run: Path, data: Path, others: Path) -> dict[str, Any]:
    """Return what a run's decisions do on its test images, by the checkpoint and by the file."""
    checkpoint = load_checkpoint(run / "ckpt.pt")
    recipe = Recipe.from_json(checkpoint.recipe)
    dataset = load_dataset(data, recipe.data, recipe.input, recipe.training.seed)
    if dataset.sha256 != checkpoint.split_sha256:
        raise SystemExit(f"{run}: {data} are not the images and the split that it was trained on")
    network = checkpoint.classifier()
    examples = {split: load_examples(dataset, split, recipe.input) for split in SPLITS}
    config = learn_outliers(network, checkpoint.network, examples["train"].images)
    answers = {split: answer(network, examples[split], dataset.split(split)) for split in ("validation", "test")}
    spec = decide(checkpoint.spec, answers["validation"], answers["test"], recipe.decisions)
    told = evaluate(answers["test"], spec)
    decided = replace(checkpoint, spec=spec, network=config, state_dict=network.state_dict())
    save_checkpoint(decided, run / "decided.pt")
    file = run / "decided.onnx"
    _run("medexport", "onnx", run / "decided.pt", "-o", file, "--overwrite", "--quiet")
    root = data.parent if data.suffix == ".csv" else data
    images = (run / "splits.csv", "--root", root, "--split", "test")
    deployed = json.loads(_run("medinfer", "evaluate", *images, "-m", file, "--provider", "cpu", "--json", "-q"))
    test = [sample.path for sample in dataset.split("test")]
    return {
        "run": name,
        "seed": recipe.training.seed,
        "images": told["images"],
        "validation_images": len(answers["validation"].labels),
        "temperature": spec.calibration.temperature,
        "metrics": {key: told[key] for key in ("accuracy", "macro_auc", *CALIBRATION)},
        "uncalibrated": told["uncalibrated"],
        "operating_points": told.get("operating_points", {}),
        "abstention": told["abstention"],
        "file": _compared(told, deployed),
        "outsiders": _outsiders(file, test, [others / other for other in OUTSIDERS if others / other != data]),
    }


def _compared(checkpoint: dict[str, Any], file: dict[str, Any]) -> dict[str, Any]:
    """Return what is equal on both sides, and how far the rest lies apart."""
    equal = ("accuracy", "confusion_matrix", "sensitivity", "specificity")
    same = [key for key in equal if checkpoint.get(key) == file.get(key)]
    points = all(
        file["operating_points"][name][kind] == point[kind]
        for name, point in checkpoint.get("operating_points", {}).items()
        for kind in ("sensitivity", "specificity")
    )
    differences = {key: abs(checkpoint[key] - file[key]) for key in ("macro_auc", *CALIBRATION)}
    answered = checkpoint["abstention"]["set_sizes"] == file["abstention"]["set_sizes"]
    return {"equal": same, "operating_points_equal": points, "sets_equal": answered, "differences": differences}


def _outsiders(file: Path, own: list[Path], others: list[Path]) -> dict[str, dict[str, float]]:
    """Return, for each folder of other pictures, the AUC of the score and the share that is flagged."""
    model = medinfer.load(file, "cpu")
    screen = medinfer.find_screen(model.spec)

    def screened(paths: list[Any]) -> list[medinfer.Screening]:
        return [screen.decide(seen) for seen in model.predict_many(paths)]

    inside = screened(own)
    found = {}
    for folder in others:
        paths = [name_of(item) for item in find_images(str(folder), exclude=("*_mask*",))]
        outside = screened([paths[i * len(paths) // OUTSIDE] for i in range(OUTSIDE)])
        truth = np.repeat([0, 1], [len(inside), len(outside)])
        found[folder.parts[-1]] = {
            "auc": float(roc_auc_score(truth, [one.ood_score for one in (*inside, *outside)])),
            "flagged": float(np.mean([one.status == "out_of_distribution" for one in outside])),
        }
    return found


def _run(*command: object) -> str:
    program, *words = map(str, command)
    done = subprocess.run([str(Path(sys.executable).with_name(program)), *words], stdout=subprocess.PIPE, check=True)
    return done.stdout.decode()


def _mean(name: str, rows: list[dict[str, Any]]) -> str:
    """Return a task's means over its runs, as a line for people."""

    def mean(*keys: str) -> str:
        values = []
        for row in rows:
            value: Any = row
            for key in keys:
                value = value.get(key, {}) if isinstance(value, dict) else value
            values += [value] if isinstance(value, float) else []
        return f"{statistics.mean(values):.3f}" if values else "-"

    calibration = ", ".join(f"{key} {mean('uncalibrated', key)} -> {mean('metrics', key)}" for key in CALIBRATION)
    kinds = ("sensitivity", "specificity")
    sensitive = ", ".join(f"{kind} {mean('operating_points', 'sensitivity-95', kind)}" for kind in kinds)
    outside = ", ".join(
        f"{other} AUC {mean('outsiders', other, 'auc')} flagged {mean('outsiders', other, 'flagged')}"
        for other in rows[0]["outsiders"]
    )
    return (
        f"{name}, {len(rows)} runs of {rows[0]['images']} images: {calibration}; at sensitivity-95 {sensitive}; "
        f"coverage {mean('abstention', 'coverage')}, answered {mean('abstention', 'answered')}, accuracy on them "
        f"{mean('abstention', 'accuracy_answered')}, own flagged {mean('abstention', 'out_of_distribution')}; {outside}"
    )


if __name__ == "__main__":
    main()
