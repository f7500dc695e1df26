"""Why the published PyTorch model of the cardiomegaly task stopped at 80 %, and what shows 99 % falsely.

    python -m benchmarks.cardiomegaly DATA/cardiomegaly-full [--out build/cardiomegaly] [--only lite0-ours]

One change at a time, on the same 1,000 training images (500 of each class), 200 for validation, and the whole test
folder. Each variant is a `medtrain fit`; finished ones are not repeated. `copies` is no variant of the method but of
the data: every image five times, each time augmented, before the split is drawn.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import cv2

TRAIN, VALIDATION, COPIED, COPIES = 500, 100, 100, 5
EPOCHS = 8
SMALL = ("input.fit=stretch", "input.height=128", "input.width=128", "input.interpolation=linear")
# The original's head, optimiser and schedule, but not its 300 px, five times the work: 224 px tell of upscaling.
ORIGINAL = ("--variant", "original")
LITE0 = ("--arch", "efficientnet_lite0", "--weights", "imagenet")
LITE0_INPUT = ("input.mean=[0.5,0.5,0.5]", "input.std=[0.5,0.5,0.5]")
VARIANTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # name: (options, overrides)
    "lite0-ours": ((), ()),
    "lite0-frozen": ((), (f"training.frozen_epochs={EPOCHS}",)),
    "lite0-128px": ((), SMALL),
    "lite0-224px": ((), ("input.height=224", "input.width=224")),
    "lite0-original-head": ((*ORIGINAL, *LITE0), (*SMALL, *LITE0_INPUT)),
    "lite0-original-head-frozen": ((*ORIGINAL, *LITE0), (*SMALL, *LITE0_INPUT, f"training.frozen_epochs={EPOCHS}")),
    "b3-128px-scratch": ((*ORIGINAL, "--weights", "none"), SMALL),
}


def main() -> None:
    """Train what is not trained yet, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/cardiomegaly"))
    parser.add_argument("--only", help="Names, with commas; by default all.")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    manifest = write_manifest(options.data, options.out / "thousand.csv")
    runs = {name: (manifest, words, changes) for name, (words, changes) in VARIANTS.items()}
    runs["copies"] = (write_copies(options.data, options.out / "copied"), (), ())
    for name, (data, words, changes) in runs.items():
        if options.only is None or name in options.only.split(","):
            print(line(name, fit(data, words, changes, options.out / name)), flush=True)


def write_manifest(data: Path, path: Path) -> Path:
    """Write the list of the images used; which ones is decided by their names' hashes."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "split"])
        for label in ("true", "false"):
            for i, image in enumerate(shuffled(data / "train/train" / label)[: TRAIN + VALIDATION]):
                rows.writerow([image.resolve(), label, "train" if i < TRAIN else "validation"])
            for image in shuffled(data / "test/test" / label):
                rows.writerow([image.resolve(), label, "test"])
    return path


def write_copies(data: Path, folder: Path) -> Path:
    """Write augmented copies of a few images of each class, as an offline augmentation does."""
    from medtrain.augment import augment
    from medtrain.recipe import load

    settings = load("cardiomegaly").augment
    for label in ("true", "false"):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(shuffled(data / "train/train" / label)[:COPIED]):
            pixels = cv2.imread(str(image))
            for k in range(COPIES):
                cv2.imwrite(str(folder / label / f"{i}_{k}.png"), augment(pixels, settings, (0, k, i)))
    return folder


def shuffled(folder: Path) -> list[Path]:
    """Return a folder's files in an order that has nothing to do with their names."""
    return sorted(folder.iterdir(), key=lambda path: hashlib.sha256(path.name.encode()).digest())


def fit(data: Path, words: tuple[str, ...], changes: tuple[str, ...], out: Path) -> dict:
    """Train, unless that is done, and return the metrics."""
    if not (out / "metrics.json").exists():
        command = [str(Path(sys.executable).with_name("medtrain")), "fit", str(data), "--recipe", "cardiomegaly"]
        command += [*words, "--epochs", str(EPOCHS), "--out", str(out), "--resume"]
        subprocess.run([*command, *(word for change in changes for word in ("--set", change))], check=True)
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


def line(name: str, measured: dict) -> str:
    """Return one row: training accuracy of the last epoch beside validation and test."""
    test, last = measured["test"], measured["history"][-1]
    return (
        f"{name:28} train {last['train_accuracy']:.3f}  validation {measured['validation']['accuracy']:.3f}  "
        f"test {test['accuracy']:.3f}  AUC {test['macro_auc']:.3f}  n = {test['images']}  "
        f"{measured['seconds'] / 60:.1f} min"
    )


if __name__ == "__main__":
    main()
