"""Small or sparse files that cost a decoder much time or memory, unless it has limits."""

from __future__ import annotations

import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np

from benchmarks.decoding.files.dicom import ROOT, describe, save
from benchmarks.decoding.files.png import MAGIC, chunk
from benchmarks.decoding.files.tiff import Layout, write_tiff
from benchmarks.decoding.images import ramp
from benchmarks.decoding.layouts.case import by_pillow

Writer = Callable[[Path], None]
MB = 1_000_000
GIB = 1 << 30
PIXELS = ramp(100, 100)
GRAY = ramp(100, 100, 1)


def _png(*chunks: bytes, side: int = 100) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(side * (side + 1)), 9))
    return b"".join((MAGIC, head, *chunks, body, chunk(b"IEND", b"")))


def sparse_png(path: Path) -> None:
    """Write a PNG, and then nothing up to 1 GiB."""
    path.write_bytes(_png())
    with path.open("r+b") as file:
        file.truncate(GIB)


def png_tail(path: Path) -> None:
    """Write a PNG, and 100 MB after its end."""
    path.write_bytes(_png() + b"\xaa" * (100 * MB))


def png_metadata(path: Path) -> None:
    """Write a PNG with 100 MB in a chunk of metadata."""
    path.write_bytes(_png(chunk(b"prVt", bytes(100 * MB))))


def png_chunks(path: Path) -> None:
    """Write a PNG of 2 million empty chunks."""
    path.write_bytes(_png(chunk(b"prVt", b"") * (2 * MB)))


def png_idat_chunks(path: Path) -> None:
    """Write a PNG of 2 million empty IDAT chunks before its pixels."""
    path.write_bytes(_png(chunk(b"IDAT", b"") * (2 * MB)))


def _zeros(megabytes: int) -> bytes:
    """Return a zlib stream of zeros, without its checksum: one block again and again."""
    packer = zlib.compressobj(9)
    first = packer.compress(bytes(10 * MB)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(10 * MB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + block * (megabytes // 10 - 1)


def png_text_bombs(path: Path) -> None:
    """Write a PNG of 600 chunks of compressed text, of 50 MB each once they are inflated."""
    path.write_bytes(_png(chunk(b"zTXt", b"a\0\0" + _zeros(50)) * 600))


def png_profile_bomb(path: Path) -> None:
    """Write a PNG with a color profile of 20 GB, once it is inflated."""
    path.write_bytes(_png(chunk(b"iCCP", b"a\0\0" + _zeros(20_000))))


def png_bomb(path: Path) -> None:
    """Write a PNG of 100x100 pixels whose pixel data are 20 GB, once they are inflated."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 100, 100, 8, 0, 0, 0, 0))
    path.write_bytes(MAGIC + head + chunk(b"IDAT", _zeros(20_000)) + chunk(b"IEND", b""))


def jpeg_fill(path: Path) -> None:
    """Write a JPEG with 100 MB of fill bytes between two markers."""
    data = by_pillow(PIXELS, "JPEG")
    path.write_bytes(data[:2] + b"\xff" * (100 * MB) + data[2:])


def jpeg_fill_within_scan(path: Path) -> None:
    """Write a JPEG with 100 MB of fill bytes before its end mark."""
    path.write_bytes(by_pillow(PIXELS, "JPEG")[:-2] + b"\xff" * (100 * MB) + b"\xd9")


def jpeg_segments(path: Path) -> None:
    """Write a JPEG with 2 million empty comments."""
    data = by_pillow(PIXELS, "JPEG")
    path.write_bytes(data[:2] + b"\xff\xfe\x00\x02" * (2 * MB) + data[2:])


def jpeg_scans(path: Path) -> None:
    """Write a progressive JPEG of 2000x2000 pixels that repeats its last scan 5,000 times."""
    data = by_pillow(np.zeros((2000, 2000, 3), np.uint8), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    path.write_bytes(data[:last] + data[last:-2] * 5000 + b"\xff\xd9")


def jpeg_scans_with_fill(path: Path) -> None:
    """Write the same with a fill byte before each start of a scan."""
    data = by_pillow(np.zeros((2000, 2000, 3), np.uint8), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    path.write_bytes(data[:last] + (b"\xff" + data[last:-2]) * 5000 + b"\xff\xd9")


def jpeg_allowed_scans(path: Path) -> None:
    """Write a progressive JPEG of 2000x2000 pixels of 98 scans, a coefficient each."""
    script = "0,1,2: 0-0, 0, 0;\n" + "".join(
        f"{component}: {coefficient}-{coefficient}, 0, 0;\n" for component in (0, 1) for coefficient in range(1, 64)
    )
    scans = path.with_name("scans.txt")
    scans.write_text("".join(script.splitlines(keepends=True)[:98]))
    image = ramp(2000, 2000)
    command = ["cjpeg", "-quality", "95", "-scans", str(scans), "-outfile", str(path)]
    subprocess.run(command, input=b"P6 2000 2000 255\n" + image.tobytes(), check=True, capture_output=True)


def _larger_codestream(syntax: str, encode: Callable[[], bytes], mark: bytes, at: int, size: bytes) -> Writer:
    def write(path: Path) -> None:
        stream = bytearray(encode())
        place = stream.index(mark) + at
        stream[place : place + len(size)] = size
        path.write_bytes(save(describe(GRAY), f"{ROOT}.4.{syntax}", bytes(stream), encapsulated=True))

    write.__doc__ = "Write a DICOM file of 100x100 pixels whose codestream announces 60,000x60,000."
    return write


def dicom_elements(path: Path) -> None:
    """Write a DICOM file with 100 MB of empty elements."""
    data = save(describe(GRAY), f"{ROOT}.1", GRAY.tobytes())
    start = data.index(b"\x28\x00\x02\x00")
    path.write_bytes(data[:start] + b"\x09\x00\x01\x00LO\0\0" * (100 * MB // 8) + data[start:])


def dicom_rising_elements(path: Path) -> None:
    """Write a DICOM file with 100 MB of empty elements, each with its own tag, in order."""
    data = save(describe(GRAY), f"{ROOT}.1", GRAY.tobytes())
    start = data.index(b"\x28\x00\x02\x00")
    tags = np.arange(100 * MB // 8, dtype=np.uint32)
    elements = np.zeros((len(tags), 4), "<u2")
    elements[:, 0], elements[:, 1] = 0x0009 + 2 * (tags >> 16) % 14, tags & 0xFFFF
    elements[:, 2] = int.from_bytes(b"LO", "little")
    path.write_bytes(data[:start] + elements.tobytes() + data[start:])


def deflated_bomb(path: Path) -> None:
    """Write a deflated DICOM file with an element of 4 GB, once it is inflated."""
    whole = save(describe(GRAY), f"{ROOT}.1.99", GRAY.tobytes())
    meta = 144 + struct.unpack_from("<I", whole, 140)[0]
    inside = zlib.decompress(whole[meta:], -zlib.MAX_WBITS)
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    body = packer.compress(b"\x09\x00\x01\x00OB\0\0" + struct.pack("<I", 4000 * MB))
    block = packer.compress(bytes(0))
    block += b"".join(packer.compress(bytes(10 * MB)) for _ in range(400))
    path.write_bytes(whole[:meta] + body + block + packer.compress(inside) + packer.flush())


def deflated_elements(path: Path) -> None:
    """Write a deflated DICOM file with 1 GB of empty elements, once it is inflated."""
    whole = save(describe(GRAY), f"{ROOT}.1.99", GRAY.tobytes())
    meta = 144 + struct.unpack_from("<I", whole, 140)[0]
    inside = zlib.decompress(whole[meta:], -zlib.MAX_WBITS)
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    body = b"".join(packer.compress(b"\x09\x00\x01\x00LO\0\0" * 125_000) for _ in range(1000))
    path.write_bytes(whole[:meta] + body + packer.compress(inside) + packer.flush())


def dicom_run_lengths(path: Path) -> None:
    """Write a DICOM file whose run lengths are 100 MB of codes that do nothing."""
    head = struct.pack("<16I", 1, 64, *[0] * 14)
    path.write_bytes(save(describe(GRAY), f"{ROOT}.5", head + b"\x80" * (100 * MB), encapsulated=True))


def dicom_fragments(path: Path) -> None:
    """Write a DICOM file whose pixel data are 2 million empty fragments."""
    data = save(describe(GRAY), f"{ROOT}.4.50", by_pillow(GRAY, "JPEG"), encapsulated=True)
    start = data.index(b"\xe0\x7f\x10\x00OB") + 20
    path.write_bytes(data[:start] + b"\xfe\xff\x00\xe0\0\0\0\0" * (2 * MB) + data[start:])


def dicom_sequences(path: Path) -> None:
    """Write a DICOM file of 1 million sequences, one within the other."""
    data = save(describe(GRAY), f"{ROOT}.1", GRAY.tobytes())
    start = data.index(b"\x28\x00\x02\x00")
    one = b"\x09\x00\x01\x00SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    path.write_bytes(data[:start] + one * MB + end * MB + data[start:])


def dicom_frames(path: Path) -> None:
    """Write a DICOM file that announces 2 billion frames."""
    path.write_bytes(save(describe(GRAY, NumberOfFrames=2**31 - 1), f"{ROOT}.1", GRAY.tobytes()))


def tiff_strips(path: Path) -> None:
    """Write a TIFF of 3 million strips of one pixel."""
    path.write_bytes(write_tiff(np.zeros((3 * MB, 1), np.uint8), Layout(rows=1)).data)


def tiff_deflated_strips(path: Path) -> None:
    """Write a TIFF of 1 million deflated strips of one pixel, all at one place."""
    path.write_bytes(write_tiff(np.zeros((MB, 1), np.uint8), Layout("deflate", rows=1)).data)


def tiff_count(path: Path) -> None:
    """Write a TIFF whose strip offsets are 2 ** 31 values."""
    data = bytearray(write_tiff(GRAY, Layout()).data)
    at = data.index(struct.pack("<HHI", 273, 4, 1))
    struct.pack_into("<I", data, at + 4, 1 << 31)
    path.write_bytes(data)


def tiff_directories(path: Path) -> None:
    """Write a TIFF whose directory follows itself."""
    data = bytearray(write_tiff(GRAY, Layout()).data)
    struct.pack_into("<I", data, 10 + 12 * struct.unpack_from("<H", data, 8)[0], 8)
    path.write_bytes(data)


def tiff_tags(path: Path) -> None:
    """Write a BigTIFF whose directory is 4 million tags."""
    tags = struct.pack("<HHQQ", 40000, 3, 1, 0) * (4 * MB)
    path.write_bytes(b"II" + struct.pack("<HHHQ", 43, 8, 0, 16) + struct.pack("<Q", 4 * MB) + tags + bytes(8))


def _tiff_bomb(compression: str, encode: Callable[[], bytes]) -> Writer:
    def write(path: Path) -> None:
        data, start = write_tiff(np.zeros((100, 100), np.uint8), Layout(compression))
        body, changed = encode(), bytearray(data[:start])
        at = changed.index(struct.pack("<HHI", 279, 4, 1))
        struct.pack_into("<I", changed, at + 8, len(body))
        path.write_bytes(bytes(changed) + body)

    write.__doc__ = f"Write a TIFF of 100x100 pixels whose only strip is far longer, once its {compression} is decoded."
    return write


def _zeros_lzw() -> bytes:
    return imagecodecs.lzw_encode(bytes(GIB // 4))


def _webp(*chunks: bytes) -> bytes:
    image = by_pillow(PIXELS, "WEBP", lossless=True)[12:]
    flags = struct.pack("<I", 0x0C) + (99).to_bytes(3, "little") * 2
    body = b"WEBPVP8X" + struct.pack("<I", 10) + flags + image + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_chunks(path: Path) -> None:
    """Write a WebP of 4 million empty chunks."""
    path.write_bytes(_webp(b"abcd\0\0\0\0" * (4 * MB)))


def webp_chunk(path: Path) -> None:
    """Write a WebP with a chunk of 100 MB."""
    path.write_bytes(_webp(b"abcd" + struct.pack("<I", 100 * MB) + bytes(100 * MB)))


def bmp_runs(path: Path) -> None:
    """Write a BMP of 100x100 pixels with 100 MB of ends of rows."""
    colors = bytes(1024)
    body = b"\0\0" * (50 * MB) + b"\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, 100, 100, 1, 8, 1, len(body), 2835, 2835, 256, 0)
    path.write_bytes(struct.pack("<2sIHHI", b"BM", 1078 + len(body), 0, 0, 1078) + head + colors + body)


def bmp_jumps(path: Path) -> None:
    """Write a BMP of 5,000x5,000 pixels that are 4 MB of jumps of 255 rows."""
    head = struct.pack("<IiiHHIIiiII", 40, 5_000, 5_000, 1, 8, 1, 4 * MB, 2835, 2835, 256, 0)
    body = b"\0\2\xff\xff" * MB
    path.write_bytes(struct.pack("<2sIHHI", b"BM", 1078 + len(body), 0, 0, 1078) + head + bytes(1024) + body)


LARGE = struct.pack(">HH", 60_000, 60_000)
dicom_large_jpeg = _larger_codestream("50", lambda: by_pillow(GRAY, "JPEG"), b"\xff\xc0", 5, LARGE)
dicom_large_jpegls = _larger_codestream("80", lambda: imagecodecs.jpegls_encode(GRAY), b"\xff\xf7", 5, LARGE)
dicom_large_lossless = _larger_codestream(
    "70", lambda: imagecodecs.jpeg8_encode(GRAY, lossless=True, predictor=1), b"\xff\xc3", 5, LARGE
)
dicom_large_jpeg2000 = _larger_codestream(
    "90",
    lambda: imagecodecs.jpeg2k_encode(GRAY, reversible=True, codecformat="j2k"),
    b"\xff\x51",
    6,
    struct.pack(">II", 60_000, 60_000),
)
tiff_lzw_bomb = _tiff_bomb("lzw", _zeros_lzw)
tiff_deflate_bomb = _tiff_bomb("deflate", lambda: _zeros(20_000))
tiff_packbits_bomb = _tiff_bomb("packbits", lambda: b"\x81\0" * (GIB // 128))
tiff_packbits_nothing = _tiff_bomb("packbits", lambda: b"\x80" * (30 * MB))
tiff_lzw_clears = _tiff_bomb("lzw", lambda: b"\x80\x40\x20\x10\x08\x04\x02\x01\x00" * (3 * MB))

WRITERS: dict[str, tuple[str, Writer]] = {
    "PNG, sparse, 1 GiB": ("png", sparse_png),
    "PNG, 100 MB after its end": ("png", png_tail),
    "PNG, 100 MB of metadata": ("png", png_metadata),
    "PNG, 2 million chunks": ("png", png_chunks),
    "PNG, 2 million IDAT chunks": ("png", png_idat_chunks),
    "PNG, zTXt bombs": ("png", png_text_bombs),
    "PNG, iCCP bomb": ("png", png_profile_bomb),
    "PNG, IDAT bomb": ("png", png_bomb),
    "JPEG, 100 MB of fill bytes": ("jpg", jpeg_fill),
    "JPEG, 100 MB of fill bytes at its end": ("jpg", jpeg_fill_within_scan),
    "JPEG, 2 million segments": ("jpg", jpeg_segments),
    "JPEG, 5,000 scans": ("jpg", jpeg_scans),
    "JPEG, 5,000 scans after fill bytes": ("jpg", jpeg_scans_with_fill),
    "JPEG, 98 scans": ("jpg", jpeg_allowed_scans),
    "DICOM, JPEG of another size": ("dcm", dicom_large_jpeg),
    "DICOM, JPEG-LS of another size": ("dcm", dicom_large_jpegls),
    "DICOM, lossless JPEG of another size": ("dcm", dicom_large_lossless),
    "DICOM, JPEG 2000 of another size": ("dcm", dicom_large_jpeg2000),
    "DICOM, 100 MB of empty elements": ("dcm", dicom_elements),
    "DICOM, 100 MB of empty elements in order": ("dcm", dicom_rising_elements),
    "DICOM, deflated bomb": ("dcm", deflated_bomb),
    "DICOM, deflated elements": ("dcm", deflated_elements),
    "DICOM, RLE of no-ops": ("dcm", dicom_run_lengths),
    "DICOM, 2 million fragments": ("dcm", dicom_fragments),
    "DICOM, nested sequences": ("dcm", dicom_sequences),
    "DICOM, 2 billion frames": ("dcm", dicom_frames),
    "TIFF, 3 million strips": ("tif", tiff_strips),
    "TIFF, 1 million deflated strips": ("tif", tiff_deflated_strips),
    "TIFF, a tag of 2 ** 31 values": ("tif", tiff_count),
    "TIFF, directory loop": ("tif", tiff_directories),
    "TIFF, 4 million tags": ("tif", tiff_tags),
    "TIFF, LZW bomb": ("tif", tiff_lzw_bomb),
    "TIFF, deflate bomb": ("tif", tiff_deflate_bomb),
    "TIFF, PackBits bomb": ("tif", tiff_packbits_bomb),
    "TIFF, PackBits no-ops": ("tif", tiff_packbits_nothing),
    "TIFF, LZW clear codes": ("tif", tiff_lzw_clears),
    "WebP, 4 million chunks": ("webp", webp_chunks),
    "WebP, 100 MB of metadata": ("webp", webp_chunk),
    "BMP, 100 MB of ends of rows": ("bmp", bmp_runs),
    "BMP, jumps": ("bmp", bmp_jumps),
}
