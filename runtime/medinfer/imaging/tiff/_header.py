"""What a TIFF's directory says of its image, judged before a segment is decoded."""

from __future__ import annotations

import re
from typing import NamedTuple

from medinfer.errors import ImageError
from medinfer.imaging._files import Bytes
from medinfer.imaging.tiff._directory import Directory, read_directory

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION = 256, 257, 258, 259, 262, 270
ORIENTATION, SAMPLES, EXTRA_SAMPLES, SAMPLE_FORMAT, SUBSAMPLING, DEPTH = 274, 277, 338, 339, 530, 32997
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
COLOR_SAMPLES = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
UNSIGNED, FLOAT, UNDEFINED = 1, 3, 4  # sample formats
MAX_SAMPLES = 16
DESCRIPTION_BYTES = 4096
# ImageJ may write a stack behind a single directory; only the description tells.
STACK = re.compile(rb"^ImageJ=.*^images=([2-9]|\d\d+)\s*$", re.DOTALL | re.MULTILINE)


class TiffHeader(NamedTuple):
    """Facts from the first directory; sizes in pixels, as stored (before the orientation)."""

    directory: Directory
    width: int
    height: int
    bits: int
    samples: int
    photometric: int
    compression: int
    alpha: int | None
    """Value of ExtraSamples (0 unspecified, 1 associated, 2 unassociated) of a fourth or second sample."""
    floating: bool
    multi_frame: bool
    orientation: int

    @property
    def channels(self) -> int:
        """Number of channels of the image: 1 if gray, 3 if color."""
        return 1 if self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO) else 3


def read_tiff_header(data: Bytes) -> TiffHeader:
    """Read the first directory.

    Raises:
        ImageError: `corrupt`, `unsupported_format`, `unsupported_dtype`.
        struct.error: The bytes end within the directory.
    """
    directory = read_directory(data)
    if not directory.is_of_known_types():
        raise ImageError("corrupt", "a TIFF with a tag of an unknown type")
    if directory.ends_early():
        raise ImageError("truncated", f"the TIFF ends early, after {len(data)} bytes")
    samples = directory.value(SAMPLES, 1)
    photometric = directory.value(PHOTOMETRIC, -1)
    if photometric not in COLOR_SAMPLES:
        raise ImageError("unsupported_format", f"a TIFF of photometric interpretation {photometric}")
    if SUBSAMPLING in directory and photometric != YCBCR:
        raise ImageError("corrupt", "a TIFF that subsamples the chroma of colors that have none")
    formats = set(directory.values(SAMPLE_FORMAT, most=MAX_SAMPLES))
    orientation = directory.value(ORIENTATION, 1)
    if not 1 <= orientation <= 8:
        raise ImageError("corrupt", f"a TIFF of orientation {orientation}")
    return TiffHeader(
        directory=directory,
        width=directory.value(WIDTH, 0),
        height=directory.value(HEIGHT, 0),
        bits=_bits(directory, samples, formats),
        samples=samples,
        photometric=photometric,
        compression=directory.value(COMPRESSION, -1),
        alpha=_alpha(directory, samples, photometric),
        floating=FLOAT in formats,
        multi_frame=_is_stack(directory),
        orientation=orientation,
    )


def _bits(directory: Directory, samples: int, formats: set[int]) -> int:
    bits = directory.values(BITS, most=MAX_SAMPLES) or (1,)
    if len(set(bits)) > 1 or len(bits) not in (1, samples):
        raise ImageError("unsupported_dtype", f"a TIFF whose samples have {', '.join(map(str, bits))} bits")
    if not formats <= {UNSIGNED, FLOAT, UNDEFINED}:
        raise ImageError("unsupported_dtype", f"{bits[0]}-bit samples of format {formats}; 1, unsigned, is supported")
    return bits[0]


def _alpha(directory: Directory, samples: int, photometric: int) -> int | None:
    extra = samples - COLOR_SAMPLES[photometric]
    kinds = directory.values(EXTRA_SAMPLES, most=MAX_SAMPLES)
    if extra < 0 or (kinds and len(kinds) != extra):
        raise ImageError("corrupt", f"a TIFF of {samples} samples, {len(kinds)} of them beyond its colors")
    if extra > 1:
        raise ImageError("unsupported_format", f"a TIFF with {extra} samples beyond its colors")
    return (kinds[0] if kinds else 0) if extra else None


def _is_stack(directory: Directory) -> bool:
    described = STACK.search(directory.raw(DESCRIPTION, most=DESCRIPTION_BYTES))
    return directory.following != 0 or directory.value(DEPTH, 1) > 1 or described is not None
