"""Decoders in a child process: what crashes, hangs or grows there is the error of one image."""

import os
import signal
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from tests.faults.files import dicom, noise
from tests.faults.samples import by_gdcm

from medinfer.errors import ImageError
from medinfer.imaging import _isolation
from medinfer.imaging._decoder_process import CODECS, jpeg_12bit, jpeg_lossless
from medinfer.imaging._isolation import decode_isolated

FAULTS = """
import ctypes, time
def crash(*_): ctypes.string_at(0)
def abort(*_): os.abort()
def leave(*_): os._exit(0)
def spin(*_):
    while True: pass
def grow(*_): return bytearray(3 << 30)
def chatter(codecs, data, _):
    os.write(1, b"noise on standard output" * 1000)
    return data
CODECS.update(crash=crash, abort=abort, leave=leave, spin=spin, grow=grow, chatter=chatter)
main()
"""


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """The decoder process with codecs that fail; returns its path."""
    program = tmp_path / "faulty.py"
    text = Path(_isolation.PROGRAM).read_text(encoding="utf-8")
    program.write_text(text.replace('if __name__ == "__main__":\n    main()', FAULTS), encoding="utf-8")
    monkeypatch.setattr(_isolation, "PROGRAM", program)
    _close_idle()
    yield program
    _close_idle()


def _close_idle():
    for decoder in _isolation._idle.pop(os.getpid(), ()):
        decoder.close()


def code_of(codec, data=b"x", pixels=64):
    with pytest.raises(ImageError) as caught:
        decode_isolated(codec, data, pixels=pixels)
    return caught.value.code


@pytest.mark.parametrize("codec", ["crash", "abort", "leave"])
def test_a_crash_is_the_error_of_one_image_and_the_next_is_decoded(codec, faulty):
    pixels = noise(20, 30, 1)
    assert [code_of(codec), code_of(codec)] == ["corrupt"] * 2
    np.testing.assert_array_equal(decode_isolated("jpegls", imagecodecs.jpegls_encode(pixels), pixels=600), pixels)


@pytest.mark.parametrize("codec", ["spin", "grow"])
def test_time_and_memory_have_limits(codec, faulty, monkeypatch):
    monkeypatch.setattr(_isolation, "decoder_seconds", lambda _: 0.1)
    assert code_of(codec) == "too_large"


def test_what_a_decoder_prints_is_no_answer(faulty):
    assert decode_isolated("chatter", b"answer", pixels=64).tobytes() == b"answer"


def test_a_child_that_was_ended_while_idle_costs_no_image():
    pixels = noise(20, 30, 1)
    data = imagecodecs.jpegls_encode(pixels)
    decode_isolated("jpegls", data, pixels=600)
    for decoder in _isolation._idle[os.getpid()]:
        os.kill(decoder._process.pid, signal.SIGKILL)
    np.testing.assert_array_equal(decode_isolated("jpegls", data, pixels=600), pixels)


def test_a_forked_process_does_not_share_the_children_of_its_parent():
    pixels = noise(20, 30, 1)
    data = imagecodecs.jpegls_encode(pixels)
    decode_isolated("jpegls", data, pixels=600)
    child = os.fork()
    if child == 0:
        same = (decode_isolated("jpegls", data, pixels=600) == pixels).all()
        _close_idle()
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(decode_isolated("jpegls", data, pixels=600), pixels)


def test_a_program_that_only_embeds_python_decodes_by_itself(monkeypatch):
    pixels = noise(20, 30, 1)
    monkeypatch.setattr("sys.frozen", True, raising=False)
    monkeypatch.setattr(_isolation, "PROGRAM", Path("there is none"))
    np.testing.assert_array_equal(decode_isolated("jpegls", imagecodecs.jpegls_encode(pixels), pixels=600), pixels)
    assert code_of("jpegls", b"\xff\xd8\xff\xf7 damaged") == "corrupt"


def test_no_child_can_be_started(monkeypatch):
    _close_idle()
    monkeypatch.setattr(_isolation, "_python", lambda: "/there/is/no/python")
    assert code_of("jpegls") == "os_error"


def lossless_jpeg(pixels, bits, **options):
    return imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=bits, **options)


@pytest.mark.parametrize("count", [60, pytest.param(4000, marks=pytest.mark.slow)])
def test_the_end_of_an_intact_jpeg_is_accepted_whatever_it_shows(count):
    """Flat images, whose Huffman tables have one code, among them."""
    random = np.random.default_rng(5)
    for number in range(count):
        shape, bits = random.integers(1, 90, 2), int(random.choice([8, 10, 12, 16]))
        shape = (*shape, 3) if number % 3 == 0 else tuple(shape)
        pixels = _some_pixels(random, shape, bits, number % 4)
        data = lossless_jpeg(pixels, bits, predictor=int(random.integers(1, 8)))
        np.testing.assert_array_equal(jpeg_lossless(imagecodecs, data, {}), pixels)
        if bits == 12 and len(shape) == 2 and number % 4 != 3:  # there clipping hides the last bits
            jpeg_12bit(imagecodecs, imagecodecs.jpeg8_encode(pixels, bitspersample=12), {})


def _some_pixels(random, shape, bits, kind):
    top = (1 << bits) - 1
    pixels = [
        lambda: random.integers(0, top + 1, shape),
        lambda: np.full(shape, random.integers(0, top + 1)),
        lambda: np.broadcast_to(np.arange(shape[1]).reshape(1, -1, *[1] * (len(shape) - 2)) * 3 % (top + 1), shape),
        lambda: (random.random(shape) < 0.1) * top,
    ][kind]()
    return np.ascontiguousarray(pixels).astype(np.uint8 if bits == 8 else np.uint16)


@pytest.mark.parametrize("codec", ["jpeg_lossless", "jpegls", "jpeg2000", "htj2k"])
def test_a_codestream_that_was_cut_and_closed_is_corrupt(codec):
    pixels = noise(128, 128, 1, np.uint16)
    data = {
        "jpeg_lossless": lambda: lossless_jpeg(pixels, 16),
        "jpegls": lambda: imagecodecs.jpegls_encode(pixels),
        "jpeg2000": lambda: imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="j2k"),
        "htj2k": lambda: imagecodecs.htj2k_encode(pixels),
    }[codec]()
    np.testing.assert_array_equal(decode_isolated(codec, data, pixels=pixels.size), pixels)
    for share in (0.4, 0.7, 0.95):
        assert code_of(codec, data[: int(len(data) * share)] + b"\xff\xd9", pixels.size) == "corrupt"


@pytest.mark.parametrize("codec", ["jpeg_lossless", "jpegls"])
def test_zeros_in_a_lossless_codestream_are_noticed(codec):
    pixels, random = noise(128, 128, 1, np.uint16), np.random.default_rng(0)
    whole = lossless_jpeg(pixels, 16) if codec == "jpeg_lossless" else imagecodecs.jpegls_encode(pixels)
    for place in random.integers(200, len(whole) - 600, 10):
        data = whole[:place] + bytes(512) + whole[place + 512 :]
        assert code_of(codec, data, pixels.size) == "corrupt"


def test_lossless_jpeg_of_another_encoder_is_accepted():
    made = by_gdcm(dicom(noise(33, 47, 1, np.uint16)))
    if not made:
        pytest.skip("python-gdcm is not installed")
    from pydicom import dcmread
    from pydicom.encaps import get_frame
    from pydicom.filebase import DicomBytesIO

    frame = get_frame(dcmread(DicomBytesIO(made["JPEG lossless"])).PixelData, 0, number_of_frames=1)
    np.testing.assert_array_equal(CODECS["jpeg_lossless"](imagecodecs, frame, {}), noise(33, 47, 1, np.uint16))


def test_zeros_in_htj2k_are_mostly_noticed_since_two_decoders_conceal_them_differently():
    pixels, random = noise(128, 128, 1, np.uint16), np.random.default_rng(0)
    whole = imagecodecs.htj2k_encode(pixels)
    unnoticed = 0
    for place in random.integers(300, len(whole) - 600, 12):
        try:
            decode_isolated("htj2k", whole[:place] + bytes(512) + whole[place + 512 :], pixels=pixels.size)
            unnoticed += 1
        except ImageError as error:
            assert error.code == "corrupt"  # noqa: PT017 - most, not all
    assert unnoticed <= 2
