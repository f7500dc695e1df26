"""What works on this machine, tried for real: each probe in a child process, which may crash or hang in place of ours.

A driver of the wrong version ends a process without a word, and a half-installed package can.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import io
import json
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from medinfer.errors import ImageError, MedonnxError, ModelError
from medinfer.providers import DRIVER, KNOWN, Execution, nodes_taken, open_session

Facts = dict[str, Any]

SECONDS = 60  # to load CUDA from a cold or distant disk takes half of that

# y = Relu(x) of two floats, IR version 8, opset 13, as protobuf has it: a tag, a length, and what it holds.
_VALUE = b"\x12\x0a\x0a\x08\x08\x01\x12\x04\x0a\x02\x08\x02"  # its type, a tensor of FLOAT of shape [2]
_NODE = b"\x0a\x0c\x0a\x01x\x12\x01y\x22\x04Relu"  # input x, output y, operator
_GRAPH = _NODE + b"\x12\x01g" + b"\x5a\x0f\x0a\x01x" + _VALUE + b"\x62\x0f\x0a\x01y" + _VALUE
ONE_NODE = b"\x08\x08" + b"\x3a\x33" + _GRAPH + b"\x42\x02\x10\x0d"

# 16 x 8 pixels of one colour in each format, written by Pillow.
COLOR = (200, 100, 50)
IMAGES = {
    "png": "iVBORw0KGgoAAAANSUhEUgAAABAAAAAICAIAAAB/FOjAAAAAF0lEQVR42mM8kWLEQApgYiARjGogBgAAI7ABbscqOpIAAAAASUVORK5CYI"
    "I=",
    "jpeg": "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJBwYGCAsICQoKCgoKB"
    "ggLDAsKDAkKCgr/2wBDAQICAgICAgUDAwUKBwYHCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgr/wAARCAA"
    "IABADAREAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAAAAX/xAAUEAEAAAAAAAAAAAAAAAAAAAAA/8QAFQEBAQAAAAAAAAAAAAAAAAAAAAj/xAAUE"
    "QEAAAAAAAAAAAAAAAAAAAAA/9oADAMBAAIRAxEAPwCeldbAD//Z",
    "tiff": "SUkqAEAAAACAMgyDKBQSBwWEQeFQaGQmGwuHRGIROHxWJRaKReNRmORiPRuPx2QSORSWQyeSSiTSmWSuXRWAgAoAAAEDAAEAAAAQAAAAA"
    "QEDAAEAAAAIAAAAAgEDAAMAAAC+AAAAAwEDAAEAAAAFAAAABgEDAAEAAAACAAAAEQEEAAEAAAAIAAAAFQEDAAEAAAADAAAAFgEDAAEAAAAIAAAAFwE"
    "EAAEAAAA4AAAAHAEDAAEAAAABAAAAAAAAAAgACAAIAA==",
    "webp": "UklGRh4AAABXRUJQVlA4TBEAAAAvD8ABAAdQsiJXpv+BiOh/AAA=",
}

# The same size in gray, compressed as archives do: a transfer syntax and a frame in it, written by GDCM and Pillow.
GRAY = 100
UNCOMPRESSED = "1.2.840.10008.1.2.1"
DICOM_FRAMES = {
    "RLE": (
        "1.2.840.10008.1.2.5",
        "AQAAAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAPFk8WTxZPFk8WTxZPFk8WQ=",
    ),
    "JPEG": (
        "1.2.840.10008.1.2.4.50",
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAxNDQ0Hyc5"
        "PTgyPC4zNDL/wAALCAAIABABAREA/8QAFQABAQAAAAAAAAAAAAAAAAAAAAX/xAAUEAEAAAAAAAAAAAAAAAAAAAAA/9oACAEBAAA/AIY//9k=",
    ),
    "JPEG lossless": (
        "1.2.840.10008.1.2.4.70",
        "/9j/wwALCAAIABABAREA/8QAFQABAQAAAAAAAAAAAAAAAAAAAAX/2gAIAQEAAQAAhgAAAAAAAAAAAAAAAAAAAAP/2QA=",
    ),
    "JPEG-LS": ("1.2.840.10008.1.2.4.80", "/9j/9wALCAAIABABAREA/9oACAEBAAAAAAAAAcaV/3n/f/D/2QA="),
    "JPEG 2000": (
        "1.2.840.10008.1.2.4.90",
        "/0//UQApAAAAAAAQAAAACAAAAAAAAAAAAAAAEAAAAAgAAAAAAAAAAAABBwEB/1IADAAAAAEAAAQEAAH/XAAEQED/ZAAlAAFDcmVhdGVkIGJ5"
        "IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAAAfAAH/k8PnHBFQVK/3D2FAAAABhIS//9k=",
    ),
}

_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from medinfer.probes import answer
answer(*sys.argv[2:])
"""


def ask(probe: str, *words: str, seconds: float = SECONDS) -> Facts:
    """Return what a probe found in a child process with this one's import path, or {"error": why it could not."""
    command = [sys.executable, "-P", "-c", _CHILD, json.dumps(sys.path), probe, *words]
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        return {"error": f"no child process can be started: {error.strerror}"}
    try:
        out, err = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # inside a driver that hangs even that has no effect
            child.communicate(timeout=5)
        return {"error": f"no answer within {seconds:g} s"}
    if child.returncode:
        return {"error": _ending(child.returncode, err.decode(errors="replace"))}
    try:
        found: Facts = json.loads(out.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": "ends without an answer"}
    return found


def _ending(code: int, words: str) -> str:
    """Say how a child ended that failed."""
    if code < 0:
        return f"crashes: {signal.strsignal(-code)}"
    last = (words.strip().splitlines() or ["no word why"])[-1]
    return f"ends with exit code {code}: {last}"


def answer(probe: str, *words: str) -> None:
    """Run one probe in this process and print what it found as the last line, in JSON."""
    try:
        found = PROBES[probe](*words)
    except MedonnxError as error:
        found = {"error": error.message}
    except Exception as error:  # noqa: BLE001 - what a broken package raises is its own choice
        found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(f"\n{json.dumps(found)}")  # packages print to standard output too


def _numpy() -> Facts:
    import numpy as np

    return {"version": np.__version__}


def _onnxruntime() -> Facts:
    import onnxruntime

    if onnxruntime.__file__ is None:  # what an uninstallation left behind is still a package to Python
        raise ImportError(f"only leftovers of it are in {next(iter(onnxruntime.__path__))}")
    full = onnxruntime.get_available_providers()
    return {
        "version": onnxruntime.__version__,
        "file": onnxruntime.__file__,
        "cuda": getattr(onnxruntime, "cuda_version", "") or "",
        "providers": [name for name, (long, _) in KNOWN.items() if long in full],
    }


def _provider(name: str) -> Facts:
    """Run a model of one node there."""
    import numpy as np

    session, _ = open_session(ONE_NODE, Execution(provider=name))
    (result,) = session.run(None, {"x": np.array([-1, 2], np.float32)})
    if result.tolist() != [0, 2]:
        raise ModelError(f"max(0, x) of -1 and 2 is {result.tolist()} there")
    if (taken := nodes_taken(session)) not in (None, {name: 1}):
        raise ModelError(f"it leaves the node to {', '.join(taken or 'none')}")
    return {}


def _driver() -> Facts:
    """Ask the NVIDIA driver, through CUDA's driver API, for the CUDA version it serves and its GPUs."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return {"found": False}
    number, name = ctypes.c_int(), ctypes.create_string_buffer(100)
    driver.cuDriverGetVersion(ctypes.byref(number))
    found: Facts = {"found": True, "cuda": _cuda_version(number.value), "code": driver.cuInit(0), "gpus": []}
    if found["code"] == 0 and driver.cuDeviceGetCount(ctypes.byref(number)) == 0:
        for index in range(number.value):
            device = ctypes.c_int()
            driver.cuDeviceGet(ctypes.byref(device), index)
            driver.cuDeviceGetName(name, len(name), device)
            found["gpus"].append(name.value.decode(errors="replace"))
    return found


def _cuda_libraries() -> Facts:
    """Load CUDA and cuDNN as onnxruntime does, and tell their versions and what is missing."""
    import onnxruntime

    major = onnxruntime.cuda_version.split(".")[0]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        onnxruntime.preload_dlls()
    prefix = "Failed to load "
    missing = [line[len(prefix) :].split(":")[0] for line in said.getvalue().splitlines() if line.startswith(prefix)]
    windows = sys.platform == "win32"
    found: Facts = {"missing": missing}
    with contextlib.suppress(OSError, AttributeError):
        number = ctypes.c_int()
        runtime = ctypes.CDLL(f"cudart64_{major}.dll" if windows else f"libcudart.so.{major}")
        runtime.cudaRuntimeGetVersion(ctypes.byref(number))
        found["CUDA"] = _cuda_version(number.value)
    with contextlib.suppress(OSError, AttributeError):
        version = ctypes.CDLL("cudnn64_9.dll" if windows else "libcudnn.so.9").cudnnGetVersion
        version.restype = ctypes.c_size_t
        found["cuDNN"] = f"{version() // 10000}.{version() // 100 % 100}"
    return found


def _cuda_version(number: int) -> str:
    """Return 13020 as 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _images() -> Facts:
    """Decode a small image of each format, and half a JPEG, which a lenient decoder would fill up with gray."""
    import cv2

    files = {kind: base64.b64decode(text) for kind, text in IMAGES.items()} | {"bmp": _bmp_file()}
    failed = {kind: why for kind, data in files.items() if (why := _misread(data, COLOR))}
    if not _misread(base64.b64decode(IMAGES["jpeg"])[:-4], COLOR):
        failed["half a jpeg"] = "is taken for a whole one"
    names = [cv2.getHardwareFeatureName(number) for number in range(512) if cv2.checkHardwareSupport(number)]
    return {"version": cv2.__version__, "read": list(files), "failed": failed, "features": names}


def _bmp_file() -> bytes:
    """Return a BMP of 16 x 8 pixels of one color."""
    pixels = bytes(COLOR[::-1]) * 128
    header = struct.pack("<IiiHHIIiiII", 40, 16, 8, 1, 24, 0, len(pixels), 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 54 + len(pixels), 0, 0, 54) + header + pixels


def _tiff() -> Facts:
    import imagecodecs

    return {"version": imagecodecs.__version__}


def _dicom() -> Facts:
    files = {"uncompressed": _dicom_file(UNCOMPRESSED, bytes([GRAY]) * 128)}
    files |= {name: _dicom_file(syntax, base64.b64decode(text)) for name, (syntax, text) in DICOM_FRAMES.items()}
    failed = {name: why for name, data in files.items() if (why := _misread(data, GRAY))}
    return {"read": [name for name in files if name not in failed], "failed": failed}


def _misread(data: bytes, expected: int | tuple[int, int, int]) -> str:
    """Return why a file does not read as one colour, give or take two levels: an ImageCode, or how far it is off."""
    from medinfer.imaging import read_image
    from medinfer.spec import Dicom, InputSpec

    try:
        # This window leaves 8 bits as they are.
        spec = InputSpec(height=8, width=16, mean=(0.0,) * 3, std=(1.0,) * 3, dicom=Dicom(window=(128.0, 256.0)))
        image = read_image(data, spec)
    except ImageError as error:
        return error.code
    except ImportError as error:
        return f"{error.name} is not installed"
    far = int(abs(image.astype(int) - expected).max())
    return "" if far <= 2 else f"off by {far} levels"


def _dicom_file(syntax: str, frame: bytes) -> bytes:
    """Return a DICOM file of 16 x 8 gray pixels (PS3.5 7.1.2, PS3.10 7.1), its frame in one fragment (PS3.5 A.4)."""
    frame += b"\0" * (len(frame) % 2)
    identity = _element(2, 0x10, b"UI", syntax.encode() + b"\0" * (len(syntax) % 2))
    numbers = {0x10: 8, 0x11: 16, 0x100: 8, 0x101: 8, 0x102: 7, 0x103: 0}
    data = b"\0" * 128 + b"DICM" + _element(2, 0, b"UL", struct.pack("<I", len(identity))) + identity
    data += _element(0x28, 2, b"US", b"\1\0") + _element(0x28, 4, b"CS", b"MONOCHROME2 ")
    data += b"".join(_element(0x28, number, b"US", struct.pack("<H", value)) for number, value in numbers.items())
    data += struct.pack("<HH2sH", 0x7FE0, 0x10, b"OB", 0)
    if syntax == UNCOMPRESSED:
        return data + struct.pack("<I", len(frame)) + frame
    no_offsets = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    fragment = struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame
    return data + b"\xff" * 4 + no_offsets + fragment + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def _element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", group, number, kind, len(value)) + value


def _parquet() -> Facts:
    import pyarrow
    import pyarrow.parquet  # the part that wheels for some systems leave out

    return {"version": pyarrow.__version__}


def _cores() -> Facts:
    from medinfer.stream import available_cores

    return {"available": available_cores()}


PROBES: dict[str, Callable[..., Facts]] = {
    "numpy": _numpy,
    "onnxruntime": _onnxruntime,
    "provider": _provider,
    "driver": _driver,
    "cuda libraries": _cuda_libraries,
    "images": _images,
    "tiff": _tiff,
    "dicom": _dicom,
    "parquet": _parquet,
    "cores": _cores,
}
