"""The five reference tasks: the original's set-up and ours, trained on the same images and the same split.

    python -m benchmarks.reference_tasks DATA [--only busi] [--out build/reference]

DATA holds brain-tumor-mri, brain-tumor-ct-mri, busi-256, malaria and cardiomegaly-full. Each run is a `medtrain fit`
into a folder of its own; one that is finished is not repeated, one that was interrupted goes on. Prints a table, and
writes it as JSON into --out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2

from medinfer.inputs import find_images


@dataclass(frozen=True)
class Contestant:
    """One row of the table: a set-up on a split, trained once for each seed."""

    task: str
    name: str
    data: str
    words: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    reencoded: bool = False
    """Every image as JPEG, so that no file format or compression tells a label."""


# The originals' ImageNet weights are a download, so they start from none; on fewer images than theirs they get as many
# steps as theirs where that can be told.
SCRATCH = ("--variant", "original", "--weights", "none")
RANDOM = ("--split", "original", "--allow-leakage")
MOBILE = ("--weights", "none", "--set", "network.arch=mobilenet_v2", "--epochs", "50")
# Low enough to drown what an earlier compression left.
QUALITY = 60
BUSI, MRI, MODAL, CARDIO = "busi-256", "brain-tumor-mri", "brain-tumor-ct-mri", "cardiomegaly-full"
CONTESTANTS = (
    Contestant("malaria", "original", "malaria/cell_images", (*SCRATCH, "--epochs", "70"), (0, 1, 2)),
    Contestant("malaria", "ours", "malaria/cell_images", (), (0, 1, 2)),
    Contestant("brain-tumor-ct-mri", "original", MODAL, SCRATCH, (0, 1, 2)),
    Contestant("brain-tumor-ct-mri", "ours", MODAL, (), (0, 1, 2)),
    Contestant("brain-tumor-ct-mri", "original, one format", MODAL, SCRATCH, (0, 1, 2), reencoded=True),
    Contestant("brain-tumor-ct-mri", "ours, one format", MODAL, (), (0, 1, 2), reencoded=True),
    Contestant("busi", "ours", BUSI, (), (0, 1, 2, 3, 4)),
    Contestant("busi", "original", BUSI, SCRATCH, (0,)),
    Contestant("busi", "ours, mobilenet_v2 from scratch", BUSI, MOBILE),
    Contestant("busi", "ours, look-alikes together", BUSI, ("--set", "data.near_duplicates=true"), (0, 1, 2, 3, 4)),
    Contestant("cardiomegaly", "ours", CARDIO, ()),
    Contestant("brain-tumor-mri", "ours, random split", MRI, RANDOM),
    Contestant("brain-tumor-mri", "ours", MRI, ()),
    Contestant("brain-tumor-mri", "original, random split", MRI, (*SCRATCH, *RANDOM)),
)


def main() -> None:
    """Train what is not trained yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", help="One task.")
    parser.add_argument("--out", type=Path, default=Path("build/reference"))
    parser.add_argument("--table", action="store_true", help="Train nothing: print what there is.")
    options = parser.parse_args()
    rows = []
    for contestant in CONTESTANTS:
        if options.only in (None, contestant.task):
            runs = [_run(contestant, seed, options) for seed in contestant.seeds]
            rows.append(_row(contestant, [run for run in runs if run]))
            print(_line(rows[-1]), flush=True)
    (options.out / "table.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")


def _run(contestant: Contestant, seed: int, options: argparse.Namespace) -> dict | None:
    folder = options.out / contestant.task / contestant.name.replace(", ", "-").replace(" ", "-") / str(seed)
    if not (folder / "metrics.json").exists() and not options.table:
        data = options.data / contestant.data
        if contestant.reencoded:
            data = _reencode(data, options.out / f"{contestant.data}-jpeg")
        command = [str(Path(sys.executable).with_name("medtrain")), "fit", str(data), "--recipe", contestant.task]
        command += [*contestant.words, "--seed", str(seed), "--out", str(folder), "--resume"]
        subprocess.run(command, check=True)
    file = folder / "metrics.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _reencode(source: Path, target: Path) -> Path:
    """Write every image of a folder as gray JPEG of one quality into another, under the same names."""
    for path in sorted(find_images(source)):
        copy = target / f"{Path(path).relative_to(source)}.jpg"  # one stem stands for two images here
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists():
            cv2.imwrite(str(copy), cv2.imread(path, cv2.IMREAD_GRAYSCALE), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return target


def _row(contestant: Contestant, runs: list[dict]) -> dict:
    row = {"task": contestant.task, "contestant": contestant.name, "runs": len(runs)}
    if runs:
        for key in ("accuracy", "macro_auc"):
            values = [run["test"][key] for run in runs]
            row[key] = statistics.mean(values)
            row[f"{key}_each"] = [round(value, 4) for value in values]
        for root in runs[0]["test"].get("by_root", {}):
            row[f"accuracy in {root}"] = statistics.mean(run["test"]["by_root"][root]["accuracy"] for run in runs)
        row["test_images"] = [run["test"]["images"] for run in runs]
        row["epochs"] = [len(run["history"]) for run in runs]
        row["minutes"] = round(statistics.mean(run["seconds"] for run in runs) / 60, 1)
    return row


def _line(row: dict) -> str:
    if not row["runs"]:
        return f"{row['task']:20} {row['contestant']:28} not run"
    return (
        f"{row['task']:20} {row['contestant']:28} accuracy {row['accuracy']:.3f}  AUC {row['macro_auc']:.3f}  "
        f"{row['runs']} seeds, n = {row['test_images'][0]}, {row['epochs'][0]} epochs, {row['minutes']} min"
    )


if __name__ == "__main__":
    main()
