"""Image files, written in ways that share no code with what reads them."""

from __future__ import annotations

import io
import signal
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from tests.faults import files

from medinfer.errors import ImageError
from medinfer.imaging import read_image
from medinfer.spec import InputSpec

PNG_COLOR = {1: 0, 2: 4, 3: 2, 4: 6}


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _write_png(array, *, before=(), after=(), size=None):
    """Write a PNG of 8 or 16 bits and 1 to 4 channels; chunks (kind, body) go before or after the pixels."""
    planes = array[..., None] if array.ndim == 2 else array
    height, width, channels = planes.shape
    rows = planes.astype(planes.dtype.newbyteorder(">")).reshape(height, -1)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    width, height = size or (width, height)
    header = struct.pack(">IIBBBBB", width, height, 8 * array.itemsize, PNG_COLOR[channels], 0, 0, 0)
    chunks = [(b"IHDR", header), *before, (b"IDAT", pixels), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in chunks)


def _write_tiff(array, *, photometric=None, extra=None, order="<", **tags):
    """Write an uncompressed TIFF in one strip; `extra` is its ExtraSamples, `tags` others, as `t274=6`."""
    planes = array[..., None] if array.ndim == 2 else array
    height, width, channels = planes.shape
    photometric = (2 if channels >= 3 else 1) if photometric is None else photometric
    pixels = planes.astype(planes.dtype.newbyteorder(order)).tobytes()
    kinds = {"u": 1, "i": 2, "f": 3}
    entries = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [8 * array.itemsize] * channels),
        259: (3, [1]),
        262: (3, [photometric]),
        273: (4, [0]),
        277: (3, [channels]),
        278: (4, [height]),
        279: (4, [len(pixels)]),
        339: (3, [kinds[array.dtype.kind]] * channels),
        **{int(name[1:]): (3, [value]) for name, value in tags.items()},
    }
    if extra is not None:
        entries[338] = (3, [extra])
    room = 8 + 2 + 12 * len(entries) + 4
    long_values = b""
    directory = struct.pack(order + "H", len(entries))
    # The pixels stand last, after the values that do not fit into the directory.
    end = room + sum(2 * len(values) for kind, values in entries.values() if kind == 3 and len(values) > 2)
    entries[273] = (4, [end])
    for tag, (kind, values) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            where, long_values = room + len(long_values), long_values + packed
            packed = struct.pack(order + "I", where)
        directory += struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", 8) + directory + b"\0\0\0\0" + long_values + pixels


def _pillow(data, mode=None):
    """Decode with Pillow, upright, in a mode of its own (None: the file's)."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    return np.array(image.convert(mode) if mode else image)


def _write_dicom(pixels, **words):
    empty = [name for name, value in words.items() if value is None]
    return files.dicom(pixels, empty=empty, **{name: value for name, value in words.items() if name not in empty})


@pytest.fixture(scope="session")
def write_dicom():
    """A DICOM file of any array: `write_dicom(array, WindowCenter=40, WindowWidth=None)`; None is an empty element."""
    return _write_dicom


@pytest.fixture(scope="session")
def read_dicom():
    """Pixels of a DICOM file by its bytes or path, with a `dicom` field: `read_dicom(data, window=[40, 400])`."""

    def read(source, **fields):
        spec = InputSpec(height=8, width=8, mean=(0.0,) * 3, std=(1.0,) * 3, dicom=fields)
        return read_image(source, spec)

    return read


@pytest.fixture(scope="session")
def dicom_refusal(read_dicom):
    """The ImageError that reading gives: `dicom_refusal(data).code`."""

    def refusal(source, **fields):
        with pytest.raises(ImageError) as caught:
            read_dicom(source, **fields)
        return caught.value

    return refusal


@pytest.fixture
def without_pydicom(monkeypatch):
    """Has pydicom not installed from the call on: `without_pydicom()`."""

    def hide():
        for name in list(sys.modules):
            if name.split(".")[0] == "pydicom":
                monkeypatch.setitem(sys.modules, name, None)

    return hide


@pytest.fixture(scope="session")
def write_png():
    """A PNG of any array, 8 or 16 bit: `write_png(array, before=[(b"eXIf", ...)])`."""
    return _write_png


@pytest.fixture(scope="session")
def write_tiff():
    """An uncompressed TIFF of any array: `write_tiff(array, photometric=1, extra=2, t274=6)`."""
    return _write_tiff


@pytest.fixture(scope="session")
def encode():
    """A file by Pillow: `encode(array, "JPEG", quality=90, orientation=6)`."""
    return files.encode


@pytest.fixture(scope="session")
def pillow():
    """Pixels by Pillow, with EXIF applied: `pillow(data, "RGB")`."""
    return _pillow


@pytest.fixture
def no_waiting():
    """Fails a test that still runs after ten seconds, where a mistake would wait for ever."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.setitimer(signal.ITIMER_REAL, 10)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
