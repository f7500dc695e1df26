"""DICOM images."""

from medinfer.imaging.dicom._read import (
    check_dicom as check_dicom,
    looks_like_dicom as looks_like_dicom,
    read_dicom as read_dicom,
)
