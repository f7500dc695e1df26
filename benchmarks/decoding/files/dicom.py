"""DICOM files by pydicom."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.uid import UID

Pixels = npt.NDArray[Any]
ROOT = "1.2.840.10008.1.2"


def describe(pixels: Pixels, **tags: Any) -> Dataset:
    """Return a data set that describes gray or RGB pixels."""
    dataset = Dataset()
    color = pixels.ndim == 3
    dataset.SamplesPerPixel = 3 if color else 1
    dataset.PhotometricInterpretation = "RGB" if color else "MONOCHROME2"
    if color:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated = 8 * pixels.itemsize
    dataset.BitsStored = tags.get("BitsStored", 8 * pixels.itemsize)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def save(dataset: Dataset, syntax: str, body: bytes, *, encapsulated: bool = False) -> bytes:
    """Return a DICOM file of a data set with its pixel data."""
    dataset.PixelData = encapsulate([body]) if encapsulated else body + bytes(len(body) % 2)
    dataset["PixelData"].VR = "OB" if encapsulated or dataset.BitsAllocated <= 8 else "OW"
    dataset["PixelData"].is_undefined_length = encapsulated
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
    dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    file = DicomBytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()
