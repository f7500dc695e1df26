"""TIFF, classic and BigTIFF: directories, segments, colors."""

from medinfer.imaging.tiff._directory import Directory as Directory, read_directory as read_directory
from medinfer.imaging.tiff._header import TiffHeader as TiffHeader, read_tiff_header as read_tiff_header
