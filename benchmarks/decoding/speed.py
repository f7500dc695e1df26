"""Images per second of folders of one format, now and at an earlier commit, in interleaved rounds.

    python -m benchmarks.decoding.speed MODEL --before FOLDER [--rounds 9] [--count 400]

MODEL is an exported model; FOLDER holds the medinfer package of the earlier commit. Each round starts a process for
each commit, which reads its images from memory, once to warm up and once for the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

import cv2
import imagecodecs
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless
from tests.faults.files import dicom

from benchmarks.decoding.images import image, jpeg

ROUND = """
import pathlib, sys, time
import medinfer
model = medinfer.load(sys.argv[1], "cpu")
images = [path.read_bytes() for path in sorted(pathlib.Path(sys.argv[2]).iterdir())]
for _ in range(2):
    start, answers = time.perf_counter(), list(model.predict_many(images))
    seconds = time.perf_counter() - start
assert not any(seen.error for seen in answers), next(seen.error for seen in answers if seen.error)
print(len(images) / seconds)
"""


def main() -> int:
    """Run the rounds and print a table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--count", type=int, default=400, help="Images of a folder.")
    parser.add_argument("--only", default="", help="Kinds whose name contains this text.")
    options = parser.parse_args()
    print("| folder | before, images/s | now, images/s | ratio, median of pairs (lowest to highest) |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as root:
        for kind in WRITERS:
            if options.only.lower() in kind.lower():
                folder = Path(root, kind)
                write(folder, kind, options.count)
                print(row(kind, folder, options.model, options.before, options.rounds), flush=True)
    return 0


def row(kind: str, folder: Path, model: Path, before: Path, rounds: int) -> str:
    """Return the row of a folder."""
    pairs = [(speed(model, folder, before), speed(model, folder, None)) for _ in range(rounds)]
    old, new = (statistics.median(speeds) for speeds in zip(*pairs, strict=True))
    ratios = sorted(after / earlier for earlier, after in pairs)
    middle = statistics.median(ratios)
    return f"| {kind} | {old:.1f} | {new:.1f} | {middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |"


def speed(model: Path, folder: Path, package: Path | None) -> float:
    """Return the images per second of one round."""
    environment = dict(os.environ) | ({"PYTHONPATH": str(package)} if package else {})
    command = [sys.executable, "-P", "-c", ROUND, str(model), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


def write(folder: Path, kind: str, count: int) -> None:
    """Write a folder of images."""
    folder.mkdir()
    for number in range(count):
        color = image(Random(number))
        gray = cv2.resize(cv2.cvtColor(color, cv2.COLOR_RGB2GRAY), (512, 512))
        (folder / f"{number:04}").write_bytes(WRITERS[kind](number, color, gray))


def _by_opencv(suffix: str, **options: int):
    """Return a writer of colors, or, of TIFF, of gray levels."""
    words = [word for item in options.items() for word in (getattr(cv2, f"IMWRITE_{item[0]}"), item[1])]
    return lambda _, color, gray: cv2.imencode(suffix, gray if options else color, words)[1].tobytes()


def _jpeg(number: int, color, _) -> bytes:
    return jpeg(Random(number)) or cv2.imencode(".jpg", color)[1].tobytes()


def _by_imagecodecs(syntax: str, codec: str, **options):
    """Return a writer of compressed DICOM files."""
    encode = getattr(imagecodecs, f"{codec}_encode")
    window = {"WindowCenter": 100, "WindowWidth": 200}
    return lambda _, __, gray: dicom(gray, syntax=syntax, fragment=encode(gray, **options), **window)


WRITERS = {
    "JPEG": _jpeg,
    "PNG": _by_opencv(".png"),
    "BMP": _by_opencv(".bmp"),
    "TIFF, deflate": _by_opencv(".tif", TIFF_COMPRESSION=8),
    "TIFF, LZW": _by_opencv(".tif", TIFF_COMPRESSION=5),
    "DICOM, JPEG lossless": _by_imagecodecs(JPEGLosslessSV1, "jpeg8", lossless=True),
    "DICOM, JPEG-LS": _by_imagecodecs(JPEGLSLossless, "jpegls"),
    "DICOM, JPEG 2000": _by_imagecodecs(JPEG2000Lossless, "jpeg2k", level=0, reversible=True, codecformat="j2k"),
}


if __name__ == "__main__":
    sys.exit(main())
