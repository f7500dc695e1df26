"""Whether a DICOM file shows the same pixels after DCMTK and GDCM have compressed it without loss.

`python -m benchmarks.decoding.transcoding` prints a Markdown table. It needs DCMTK's programs and python-gdcm.
"""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from medinfer.errors import ImageError
from medinfer.imaging import read_image
from medinfer.spec import InputSpec

FILES = Path(pydicom.__file__).parent / "data/test_files"
DCMTK = {
    "implicit": ["dcmconv", "+ti"],
    "big-endian": ["dcmconv", "+tb"],
    "deflated": ["dcmconv", "+td"],
    "RLE": ["dcmcrle"],
    "JPEG Lossless SV1": ["dcmcjpeg", "+e1"],
    "JPEG Lossless": ["dcmcjpeg", "+el"],
    "JPEG-LS": ["dcmcjpls"],
}
GDCM = {
    "RLE": "RLELossless",
    "JPEG Lossless SV1": "JPEGLosslessProcess14_1",
    "JPEG Lossless": "JPEGLosslessProcess14",
    "JPEG-LS": "JPEGLSLossless",
    "JPEG 2000": "JPEG2000Lossless",
}
WINDOWS = ("file", "minmax", (0, 65536))
GDCM_PROGRAM = """
import sys, gdcm
source, target, syntax = sys.argv[1:]
reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
reader.SetFileName(source)
if not reader.Read(): sys.exit("GDCM does not read it")
change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
change.SetInput(reader.GetImage())
if not change.Change(): sys.exit("GDCM does not compress it")
writer.SetFile(reader.GetFile())
writer.SetImage(change.GetOutput())
writer.SetFileName(target)
if not writer.Write(): sys.exit("GDCM does not write it")
"""


class Twin(NamedTuple):
    """An uncompressed file: its name, its bytes, and the frames that are compared."""

    name: str
    data: bytes
    frames: tuple[int, ...]


def main() -> None:
    """Compare every pair, and print the table; the exit status is 1 if a pair differs."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    counts: Counter[tuple[str, str, str]] = Counter()
    notes: dict[str, list[str]] = {}
    for twin in [*real_twins(), *synthetic_twins()]:
        for (program, syntax), outcome in outcomes(twin):
            kind = outcome if outcome in ("equal", "different") else "not written"
            counts[program, syntax, kind] += 1
            if kind == "different":
                print(f"{program}, {syntax}: {twin.name} differs", file=sys.stderr)
            elif kind == "not written":
                notes.setdefault(f"{program}, {syntax}: {outcome}", []).append(twin.name)
    print_table(counts, notes)
    sys.exit(any(kind == "different" for _, _, kind in counts))


def print_table(counts: Counter[tuple[str, str, str]], notes: dict[str, list[str]]) -> None:
    """Print the pairs by program and syntax, and why the others could not be written."""
    kinds = ("equal", "different", "not written")
    print("| program | syntax | equal | different | not written |\n|---|---|---|---|---|")
    for program, syntaxes in (("DCMTK", DCMTK), ("GDCM", GDCM)):
        for syntax in syntaxes:
            print(f"| {program} | {syntax} |", *(f"{counts[program, syntax, kind]} |" for kind in kinds))
    totals = [sum(number for key, number in counts.items() if key[2] == kind) for kind in kinds]
    print("| all | |", *(f"{total} |" for total in totals))
    print()
    for note, names in sorted(notes.items()):
        print(f"- {note} ({', '.join(names)})")


def outcomes(twin: Twin) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield for each program and syntax `equal`, `different`, or why there is no such file."""
    expected = shown(twin.data, twin.frames)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source.dcm", Path(folder) / "target.dcm"
        source.write_bytes(twin.data)
        commands = {("DCMTK", name): [*words, str(source), str(target)] for name, words in DCMTK.items()}
        for name, syntax in GDCM.items():
            commands["GDCM", name] = [sys.executable, "-c", GDCM_PROGRAM, str(source), str(target), syntax]
        for key, command in commands.items():
            target.unlink(missing_ok=True)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or not target.exists():
                yield key, reason(done)
            elif not is_lossless_copy(twin.data, target.read_bytes()):
                yield key, "another image: the program changed the size, the bits or the number of frames"
            elif shown(target.read_bytes(), twin.frames) == expected:
                yield key, "equal"
            elif same_by_pydicom(twin.data, target.read_bytes()):
                yield key, "different"
            else:
                yield key, "another image, for pydicom too"


def reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last line of a program's messages, or by which signal it ended."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    message = lines[-1].split(": encoding file")[0] if lines else "no message"
    return f"killed by signal {-done.returncode}" if done.returncode < 0 else message


def is_lossless_copy(source: bytes, target: bytes) -> bool:
    """Tell whether a file still has the layout of its source, other than its transfer syntax and colors."""
    names = ("Rows", "Columns", "SamplesPerPixel", "BitsStored", "PixelRepresentation")
    before, after = (pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True) for data in (source, target))
    return frames_of(before) == frames_of(after) and all(before.get(name) == after.get(name) for name in names)


def same_by_pydicom(source: bytes, target: bytes) -> bool:
    """Tell whether pydicom decodes two files to the same samples, or one of them not at all."""
    try:
        before, after = (pydicom.dcmread(io.BytesIO(data)).pixel_array for data in (source, target))
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return True
    return np.array_equal(before, after)


def shown(data: bytes, frames: tuple[int, ...]) -> list[object]:
    """Return the pixels, or the code of the error, of some frames by each window rule."""
    results: list[object] = []
    for frame, window in product(frames, WINDOWS):
        dicom = {"window": window, "frame": frame}
        spec = InputSpec(height=8, width=8, mean=(0.0,) * 3, std=(1.0,) * 3, dicom=dicom)
        try:
            pixels = read_image(data, spec)
            results.append((pixels.shape, pixels.tobytes()))
        except ImageError as error:
            results.append(f"{error.code}: {error}")
    return results


def real_twins() -> Iterator[Twin]:
    """Yield pydicom's own files that hold an image of 8 or 16 bits, decompressed where they are compressed."""
    for path in sorted(FILES.rglob("*.dcm")):
        dataset = pydicom.dcmread(path, force=True)
        try:
            if dataset.BitsAllocated not in (8, 16):
                continue
            data = path.read_bytes()
            if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
                dataset.decompress(as_rgb=False)
                data = saved(dataset)
            twin = Twin(path.stem, data, frames_of(dataset))
            shown_now = shown(twin.data, twin.frames)
        except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
            continue
        if not any(isinstance(result, str) for result in shown_now):
            yield twin


def frames_of(dataset: Dataset) -> tuple[int, ...]:
    """Return the first and the last frame."""
    return tuple(sorted({0, int(dataset.get("NumberOfFrames") or 1) - 1}))


def synthetic_twins() -> Iterator[Twin]:
    """Yield gray files of every depth, sign and rule, and films and colors."""
    kinds = product(
        (8, 10, 12, 16), (False, True), ("MONOCHROME1", "MONOCHROME2"), ("window", "padding", "zeros above")
    )
    for stored, signed, photometric, rule in kinds:
        if rule == "zeros above" and not (signed and 8 < stored < 16):
            continue
        yield gray_twin(stored, signed=signed, photometric=photometric, rule=rule)
    for stored, signed in product((8, 12), (False, True)):
        yield gray_twin(stored, signed=signed, photometric="MONOCHROME2", rule="window", frames=3)
    for planar, frames in product((0, 1), (1, 3)):
        yield color_twin(planar, frames)


def gray_twin(stored: int, *, signed: bool, photometric: str, rule: str, frames: int = 1) -> Twin:
    """Return noise over a ramp, with a window, with padding, or signed with zeros above the stored bits."""
    low = -(1 << (stored - 1)) if signed else 0
    random = np.random.default_rng([stored, signed, frames])
    ramp = np.linspace(low, low + (1 << stored) - 1, 41 * 30).reshape(30, 41)
    values = np.clip(ramp + random.integers(-9, 10, (frames, 30, 41)), low, low + (1 << stored) - 1)
    dtype = np.dtype(f"{'i' if signed else 'u'}{1 if stored == 8 else 2}")
    samples = values.astype(dtype)
    tags: dict[str, object] = {"PhotometricInterpretation": photometric, "SamplesPerPixel": 1}
    if rule == "window":
        tags |= {"WindowCenter": low + (1 << stored) // 3, "WindowWidth": (1 << stored) // 2}
    elif rule == "padding":
        samples[:, :5] = low
        tags |= {"PixelPaddingValue": low, "RescaleSlope": "1.5", "RescaleIntercept": "-100"}
    else:
        samples &= (1 << stored) - 1
    name = f"{stored} bits, {'signed' if signed else 'unsigned'}, {photometric}, {rule}, {frames} frames"
    return Twin(name, written(samples, stored, frames, signed=signed, **tags), tuple(sorted({0, frames - 1})))


def color_twin(planar: int, frames: int) -> Twin:
    """Return colors, pixel by pixel or plane by plane."""
    samples = np.random.default_rng([planar, frames]).integers(0, 256, (frames, 30, 40, 3)).astype(np.uint8)
    stored = np.moveaxis(samples, 3, 1) if planar else samples
    tags = {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PlanarConfiguration": planar}
    data = written(stored, 8, frames, signed=False, Rows=30, Columns=40, **tags)
    return Twin(f"RGB, planar configuration {planar}, {frames} frames", data, tuple(sorted({0, frames - 1})))


def written(samples: np.ndarray, stored: int, frames: int, *, signed: bool, **tags: object) -> bytes:
    """Return an uncompressed file."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.Modality = "1.2.4", "1.2.5", "OT"
    dataset.PixelRepresentation, dataset.NumberOfFrames = int(signed), frames
    dataset.Rows, dataset.Columns = samples.shape[1:3]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * samples.itemsize, stored, stored - 1
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.PixelData = samples.tobytes() + b"\0" * (samples.nbytes % 2)
    dataset["PixelData"].VR = "OW" if samples.itemsize == 2 else "OB"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return saved(dataset)


def saved(dataset: Dataset) -> bytes:
    """Return the bytes of a data set."""
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


if __name__ == "__main__":
    main()
