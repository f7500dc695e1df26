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

from medinfer.errors import ImageError
from medinfer.images import read_image
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


def _encode(image, kind, **options):
    """Write an array, or a Pillow image, with Pillow; returns the file's bytes."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    if "orientation" in options:
        exif = Image.Exif()
        exif[0x0112] = options.pop("orientation")
        options["exif"] = exif
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _pillow(data, mode=None):
    """Decode with Pillow, upright, in a mode of its own (None: the file's)."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    return np.array(image.convert(mode) if mode else image)


def _write_dicom(pixels, *, syntax="1.2.840.10008.1.2.1", fragment=None, encapsulated=None, **tags):
    """Write a DICOM file with pydicom; tags by keyword, None for an empty element.

    `fragment` is the compressed frame that stands for the pixels, or `encapsulated` all of their element.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID, SecondaryCaptureImageStorage

    syntax = UID(syntax)
    color = pixels.ndim > 2 and pixels.shape[-1] == 3
    dataset = Dataset()
    dataset.SamplesPerPixel = 3 if color else 1
    dataset.PhotometricInterpretation = "RGB" if color else "MONOCHROME2"
    if color:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.HighBit = tags.get("BitsStored", dataset.BitsStored) - 1
    if fragment is not None:
        encapsulated = encapsulate([fragment])
    order = "<" if syntax.is_little_endian else ">"
    native = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    dataset.PixelData = (native + b"\0" * (len(native) % 2)) if encapsulated is None else encapsulated
    dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 and encapsulated is None else "OB"
    dataset["PixelData"].is_undefined_length = encapsulated is not None
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


@pytest.fixture(scope="session")
def write_dicom():
    """A DICOM file of any array: `write_dicom(array, WindowCenter=40, WindowWidth=400)`."""
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
    return _encode


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
