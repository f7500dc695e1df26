"""DICOM images."""

from medinfer.imaging.dicom._read import looks_like_dicom as looks_like_dicom, read_dicom as read_dicom
