"""DICOM images."""

from medinfer.imaging.dicom._read import read_dicom as read_dicom
