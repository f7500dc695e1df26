"""Memory: what a small file may make of it, and what is said where there is none left."""

import struct
import tracemalloc
import zlib

import cv2
import pytest
from tests.faults.files import png_of
from tests.faults.rows import png

from medinfer.errors import ResourceError
from medinfer.imaging import read_image
from medinfer.spec import InputSpec

SPEC = InputSpec(height=12, width=16, mean=(0.0,) * 3, std=(1.0,) * 3)
OVER = InputSpec(height=12, width=16, mean=(0.0,) * 3, std=(1.0,) * 3, alpha={"over": (10, 200, 90)})


def blank(side, bits, color, *chunks):
    """A PNG of zeros, of `bits` bits a pixel: many in few bytes."""
    header = struct.pack(">IIBBBBB", side, side, min(bits, 16), color, 0, 0, 0)
    pixels = zlib.compress(bytes((1 + side * bits // 8) * side), 1)
    return png_of([(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")])


def test_a_background_is_composed_in_little_more_memory_than_the_picture_has():
    """As floats all at once it would be 70 bytes a pixel: 7 GB for the largest picture allowed."""
    data = blank(2000, 1, 0, (b"tRNS", b"\0\0"))
    tracemalloc.start()
    image = read_image(data, OVER)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * 2000 * 2000
    assert image.shape == (2000, 2000, 3)
    assert (image == [10, 200, 90]).all()


def test_an_image_for_which_there_is_no_memory_is_not_told_to_be_corrupt(monkeypatch):
    error = cv2.error("Failed to allocate 486000000 bytes")
    error.code = cv2.Error.StsNoMem

    def full(*_):
        raise error

    monkeypatch.setattr(cv2, "imdecode", full)
    with pytest.raises(ResourceError, match="41x30"):
        read_image(png(), SPEC)


def test_a_run_without_memory_ends_with_7(run, model_file, tmp_path):
    (tmp_path / "a.png").write_bytes(blank(7000, 48, 2))
    room = 100 << 20  # beyond what a model takes; the picture has 294 MB
    limited = f"""
import resource, numpy, cv2, onnxruntime
taken = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + {room},) * 2)
"""
    done = run("a.png", "-m", model_file(), "--provider", "cpu", cwd=tmp_path, before=limited)
    assert (done.returncode, done.stdout) == (7, b"")
    assert b"out of memory" in done.stderr
