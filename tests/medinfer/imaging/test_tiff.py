"""TIFF: layouts as tifffile and Pillow write them, and segments that are not whole."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from tests.faults.files import noise

from medinfer.errors import ImageError
from medinfer.imaging.tiff._codecs import PLAIN

LZW, DEFLATE, PACKBITS = 5, 8, 32773
IN_THE_BASE = [None, "lzw", "zlib", "packbits"]
WITH_IMAGECODECS = ["jpeg2000", "zstd", "lzma", "png", "webp", "jpegxl"]


def written(pixels, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def by_pillow(image, **options):
    file = io.BytesIO()
    image.save(file, "TIFF", **options)
    return file.getvalue()


def segments(data):
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        return list(zip(page.dataoffsets, page.databytecounts, strict=True))


@pytest.mark.parametrize("compression", IN_THE_BASE)
@pytest.mark.parametrize("tile", [None, (16, 16), (32, 64)], ids=["strips", "16", "32x64"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8", "16"])
def test_colors_of_every_layout_are_those_that_were_written(dtype, order, planar, tile, compression, read):
    rgb = noise(37, 53, 3, dtype)
    stored = np.moveaxis(rgb, 2, 0) if planar == "separate" else rgb
    for predictor in {False, compression in ("lzw", "zlib")}:
        options = {"compression": compression, "tile": tile, "predictor": predictor}
        data = written(stored, photometric="rgb", planarconfig=planar, byteorder=order, rowsperstrip=7, **options)
        np.testing.assert_array_equal(read(data), rgb)


@pytest.mark.parametrize("compression", WITH_IMAGECODECS)
@pytest.mark.parametrize("tile", [None, (32, 32)], ids=["strips", "tiles"])
@pytest.mark.parametrize("channels", [1, 3])
def test_rare_compressions_are_decoded_with_the_extra(channels, tile, compression, read):
    pixels = noise(45, 61, channels)
    photometric = "rgb" if channels == 3 else "minisblack"
    kind = {"compression": compression, "compressionargs": {"lossless": True} if compression == "webp" else None}
    if compression == "webp" and channels == 1:
        pytest.skip("WebP has no gray")
    data = written(pixels, photometric=photometric, tile=tile, rowsperstrip=16, **kind)
    np.testing.assert_array_equal(read(data), pixels)


@pytest.mark.parametrize("compression", ["tiff_ccitt", "group3", "group4"])
def test_faxes_are_decoded_with_the_extra(compression, read):
    bits = noise(30, 41, 1) > 120
    data = by_pillow(Image.fromarray(bits), compression=compression)
    np.testing.assert_array_equal(read(data), bits * np.uint8(255))


@pytest.mark.parametrize("name", ["jpeg2000", "group4"])
def test_without_the_extra_the_record_names_it(name, read, monkeypatch):
    monkeypatch.setattr("medinfer.imaging._isolation.find_spec", lambda _: None)
    if name == "group4":
        data = by_pillow(Image.fromarray(noise(30, 41, 1) > 120), compression=name)
    else:
        data = written(noise(30, 41), photometric="rgb", compression=name)
    with pytest.raises(ImageError) as caught:
        read(data)
    assert (caught.value.code, caught.value.hint) == ("missing_extra", 'Install it: pip install "medonnx[tiff]"')


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("photometric", [0, 1], ids=["white is zero", "black is zero"])
def test_fewer_bits_are_stretched_to_8(photometric, bits, read):
    top = (1 << bits) - 1
    numbers = np.arange(7 * 11).reshape(7, 11) % (top + 1)
    per_byte = 8 // bits
    padded = np.pad(numbers, ((0, 0), (0, -11 % per_byte))).reshape(7, -1, per_byte)
    packed = (padded << np.arange(8 - bits, -1, -bits)).sum(axis=2).astype(np.uint8)
    data = _by_hand(packed.tobytes(), width=11, height=7, bits=bits, photometric=photometric)
    shown = numbers * (255 // top)
    np.testing.assert_array_equal(read(data), shown if photometric else 255 - shown)


def test_the_order_of_bits_within_a_byte_is_followed(read):
    pixels = noise(7, 11, 1)
    reverse = bytes(int(f"{byte:08b}"[::-1], 2) for byte in pixels.tobytes())
    np.testing.assert_array_equal(read(_by_hand(reverse, width=11, height=7, t266=2)), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_shown_upright(orientation, read, pillow):
    data = written(noise(20, 31), photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    np.testing.assert_array_equal(read(data), pillow(data))


@pytest.mark.parametrize("options", [{"bigtiff": True}, {"imagej": True}, {"ome": True}], ids=str)
def test_bigtiff_and_files_of_imagej_and_ome_are_read(options, read):
    pixels = noise(37, 53, 1, np.uint16)
    np.testing.assert_array_equal(read(written(pixels, **options)), pixels)


@pytest.mark.parametrize("options", [{"imagej": True}, {"photometric": "minisblack"}], ids=str)
def test_a_stack_is_not_taken_for_its_first_image(options, code_of):
    assert code_of(written(noise(5, 40, 30), **options)) == "multi_frame"


def test_a_palette_of_16_or_of_8_bits_is_read(read):
    indices, colors = noise(20, 31, 1), noise(1, 256, 3)[0]
    wide = written(indices, photometric="palette", colormap=colors.T.astype(np.uint16) * 257)
    narrow = written(indices, photometric="palette", colormap=colors.T.astype(np.uint16))
    np.testing.assert_array_equal(read(wide), colors[indices])
    np.testing.assert_array_equal(read(narrow), colors[indices])


@pytest.mark.parametrize("quality", [50, 95])
@pytest.mark.parametrize("mode", ["L", "RGB", "YCbCr"])
def test_jpeg_within_a_tiff_gives_the_pixels_of_pillow(mode, quality, read):
    image = Image.fromarray(noise(50, 70)).convert(mode)
    data = by_pillow(image, compression="jpeg", quality=quality)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("L" if mode == "L" else "RGB"))
    np.testing.assert_array_equal(read(data), expected)


def test_cmyk_is_shown_as_rgb_within_a_level_of_pillow(read):
    image = Image.fromarray(noise(20, 31)).convert("CMYK")
    off = read(by_pillow(image)).astype(int) - np.asarray(image.convert("RGB"))
    assert np.abs(off).max() <= 1


@pytest.mark.parametrize(
    ("pixels", "options", "code"),
    [
        (noise(20, 31, 1, np.uint16), {"photometric": "palette", "colormap": np.zeros((3, 65536), np.uint16)}, "dtype"),
        (noise(20, 31, 4, np.uint16), {"photometric": "separated"}, "dtype"),
        (noise(20, 31, 5), {"photometric": "rgb", "extrasamples": [0, 0]}, "format"),
        (noise(20, 31, 1).astype(np.int16), {}, "dtype"),
        (noise(20, 31, 1).astype(np.float16), {}, "dtype"),
        (noise(20, 31, 1).astype(np.uint32), {}, "dtype"),
    ],
)
def test_what_is_not_supported_is_called_that_and_not_corrupt(pixels, options, code, code_of):
    assert code_of(written(pixels, **options)) == f"unsupported_{code}"


@pytest.mark.parametrize("compression", [6, 33007, 9999, 65000])
def test_an_unknown_compression_is_unsupported_and_no_black_image(compression, code_of):
    assert code_of(_by_hand(bytes(77), width=11, height=7, compression=compression)) == "unsupported_format"


@pytest.mark.parametrize("compression", [33003, 33005, 34712, 34933, 22610, 50000, 50002])
def test_bytes_that_are_not_of_the_compression_named_are_corrupt(compression, code_of):
    assert code_of(_by_hand(b"\1\2\3\4" * 500, width=11, height=7, compression=compression)) == "corrupt"


@pytest.mark.parametrize("damage", ["bit", "16 bytes", "512 bytes", "zeros"])
def test_damage_within_a_deflated_strip_is_always_noticed(damage, code_of):
    pixels, random = noise(120, 160, 1), np.random.default_rng(3)
    for predictor in (False, True):
        whole = written(pixels, compression="zlib", predictor=predictor, rowsperstrip=60)
        for start, size in segments(whole) * 10:
            data = _damaged(whole, start, size, damage, random)
            assert code_of(data) == "corrupt"


@pytest.mark.parametrize("codec", [LZW, PACKBITS])
def test_a_segment_that_decodes_to_more_or_fewer_bytes_is_corrupt(codec):
    encode = {LZW: imagecodecs.lzw_encode, PACKBITS: imagecodecs.packbits_encode}[codec]
    plain = noise(30, 41, 1).tobytes()
    assert PLAIN[codec](encode(plain), len(plain)) == plain
    for other in (plain[:-1], plain + b"\0", plain * 2):
        with pytest.raises(ImageError):
            PLAIN[codec](encode(other), len(plain))


@pytest.mark.parametrize("kind", ["noise", "flat", "runs", "smooth"])
def test_lzw_and_packbits_undo_what_another_encoder_did(kind):
    """Long enough that the table of LZW is cleared, and its codes have every width."""
    random = np.random.default_rng(1)
    plain = {
        "noise": random.bytes(30_000),
        "flat": bytes(300_000),
        "runs": np.repeat(random.integers(0, 256, 900), random.integers(1, 300, 900)).astype(np.uint8).tobytes(),
        "smooth": (np.cumsum(random.integers(-2, 3, 60_000)) % 256).astype(np.uint8).tobytes(),
    }[kind]
    for cut in (len(plain), 1, 2, 255, 4093):
        part = plain[:cut]
        assert PLAIN[LZW](imagecodecs.lzw_encode(part), len(part)) == part
        assert PLAIN[PACKBITS](imagecodecs.packbits_encode(part), len(part)) == part


@pytest.mark.parametrize("installed", [True, False])
def test_lzw_gives_and_refuses_the_same_with_the_extra_and_without(installed, read, code_of, monkeypatch):
    pixels, random = noise(90, 120, 1), np.random.default_rng(4)
    whole = written(pixels, compression="lzw", rowsperstrip=90)
    monkeypatch.setattr("medinfer.imaging.tiff._segments.can_isolate", lambda: installed)
    np.testing.assert_array_equal(read(whole), pixels)
    ((start, size),) = segments(whole)
    for damage in ("16 bytes", "512 bytes", "zeros"):
        assert code_of(_damaged(whole, start, size, damage, random)) == "corrupt"


@pytest.mark.parametrize("codec", [LZW, PACKBITS, DEFLATE])
def test_a_segment_that_would_inflate_without_end_is_stopped(codec):
    bomb = {LZW: imagecodecs.lzw_encode, PACKBITS: imagecodecs.packbits_encode, DEFLATE: zlib.compress}[codec]
    with pytest.raises(ImageError):
        PLAIN[codec](bomb(bytes(400_000)), 1000)


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"t273": 1 << 30}, "truncated"),
        ({"t279": 1 << 30}, "truncated"),
        ({"t278": 0}, "corrupt"),
        ({"t278": 3}, "corrupt"),  # three strips, of which one is there
        ({"t284": 3}, "corrupt"),
        ({"t317": 3}, "unsupported_format"),
        ({"t317": 2}, "unsupported_format"),  # of stored samples: some readers undo it, some do not
        ({"t262": 32803}, "unsupported_format"),
        ({"t277": 200}, "unsupported_format"),
        ({"t256": 0}, "corrupt"),
        ({"t256": 60_000, "t257": 60_000}, "too_large"),
        ({"t322": 0, "t323": 16}, "corrupt"),
        ({"t339": 2}, "unsupported_dtype"),
        ({"t274": 9}, "corrupt"),
        ({"t325": 77}, "corrupt"),  # strips and tiles
        ({"t32997": 4}, "multi_frame"),
    ],
    ids=str,
)
def test_a_directory_that_contradicts_itself_is_refused(tags, code, code_of):
    assert code_of(_by_hand(bytes(77), width=11, height=7, **tags)) == code


def test_a_tag_of_very_many_values_is_refused_before_they_are_read(code_of):
    data = bytearray(_by_hand(bytes(77), width=11, height=7))
    entry = data.index(struct.pack("<HHI", 273, 4, 1))
    data[entry + 4 : entry + 8] = struct.pack("<I", 1 << 31)
    assert code_of(bytes(data)) in ("corrupt", "truncated")


def _damaged(data, start, size, damage, random):
    changed = bytearray(data)
    if damage == "bit":
        changed[start + int(random.integers(size))] ^= 1 << int(random.integers(8))
        return bytes(changed)
    count = min(size, {"16 bytes": 16}.get(damage, 512))
    place = start + int(random.integers(size - count + 1))
    changed[place : place + count] = bytes(count) if damage == "zeros" else random.bytes(count)
    return bytes(changed)


def _by_hand(strip, *, width, height, bits=8, compression=1, photometric=1, **tags):
    """A TIFF of one strip, whatever its tags say."""
    entries = {256: width, 257: height, 258: bits, 259: compression, 262: photometric, 273: 0, 277: 1, 278: height}
    entries |= {279: len(strip)} | {int(name[1:]): value for name, value in tags.items()}
    start = 8 + 2 + 12 * len(entries) + 4
    entries[273] = tags.get("t273", start)
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + strip


def test_lzw_that_clears_its_table_again_and_again_is_refused():
    """Such a segment costs a hundred times the CPU time of others."""
    bits = ("100000000" + "000000001") * 4000 + "100000001"
    segment = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    with pytest.raises(ImageError):
        PLAIN[LZW](segment, 4000)
