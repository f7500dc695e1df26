"""PNG: compressed pixels that are far longer than the image."""

import struct
import zlib

from tests.faults.files import png_of


def test_compressed_pixels_far_beyond_the_image_are_refused(read, code_of):
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    whole = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(72))), (b"IEND", b"")]
    assert read(png_of(whole)).shape == (8, 8)
    long = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(200_000), 0)), (b"IEND", b"")]
    assert code_of(png_of(long)) == "corrupt"
