"""Whole files of every format that is read: what the mutations start from. Always the same bytes for one set of
libraries, so that a case is told by its seed and number alone."""

from __future__ import annotations

import tempfile

import cv2
import imagecodecs
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.filebase import DicomBytesIO
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from tests.faults.files import bmp_rle, dicom, encode, interlaced_png, noise, tiff

from medinfer.spec import SPEC_KEY, Graph, InputSpec, ModelSpec

HEIGHT, WIDTH = 30, 41
CLASSES = ("red", "green", "blue")
RGB = InputSpec(height=12, width=16, mean=(0.0,) * 3, std=(1.0,) * 3)


def png() -> dict[str, bytes]:
    """8 and 16 bit, every colour type, interlaced, with transparency and other chunks."""
    rgb, gray = noise(HEIGHT, WIDTH), noise(HEIGHT, WIDTH, 1)
    palette = Image.fromarray(rgb).quantize(8)
    return {
        "rgb": encode(rgb, "PNG", orientation=6, dpi=(72, 72)),
        "gray": encode(gray, "PNG"),
        "rgba": encode(noise(HEIGHT, WIDTH, 4), "PNG"),
        "gray and alpha": encode(noise(HEIGHT, WIDTH, 2), "PNG"),
        "palette": encode(palette, "PNG"),
        "palette with a transparent entry": encode(palette, "PNG", transparency=3),
        "gray with a transparent level": encode(gray, "PNG", transparency=90),
        "1 bit": encode(Image.fromarray(gray).convert("1"), "PNG"),
        "16-bit gray": cv2.imencode(".png", noise(HEIGHT, WIDTH, 1, np.uint16))[1].tobytes(),
        "16-bit rgb": cv2.imencode(".png", noise(HEIGHT, WIDTH, 3, np.uint16))[1].tobytes(),
        "16-bit rgba": cv2.imencode(".png", noise(HEIGHT, WIDTH, 4, np.uint16))[1].tobytes(),
        "interlaced rgb": interlaced_png(rgb),
        "interlaced gray": interlaced_png(gray),
    }


def jpeg() -> dict[str, bytes]:
    """Gray and colour, with and without subsampling, progressive, CMYK, EXIF, restart markers."""
    rgb = noise(HEIGHT, WIDTH)
    return {
        "gray": encode(noise(HEIGHT, WIDTH, 1), "JPEG"),
        "4:2:0": encode(rgb, "JPEG", quality=90, subsampling="4:2:0"),
        "4:4:4": encode(rgb, "JPEG", quality=70, subsampling="4:4:4"),
        "EXIF": encode(rgb, "JPEG", orientation=5),
        "progressive": encode(rgb, "JPEG", progressive=True),
        "progressive gray": encode(noise(HEIGHT, WIDTH, 1), "JPEG", progressive=True),
        "restart markers": encode(rgb, "JPEG", restart_marker_blocks=2),
        "CMYK": encode(Image.fromarray(rgb).convert("CMYK"), "JPEG"),
    }


def tiff_() -> dict[str, bytes]:
    """Strips and tiles, both byte orders, every compression that Pillow can write."""
    rgb, gray = noise(HEIGHT, WIDTH), noise(HEIGHT, WIDTH, 1)
    deep = noise(HEIGHT, WIDTH, 1, np.uint16)
    compressed = {
        f"{kind} {name}": encode(Image.fromarray(pixels), "TIFF", compression=kind, tiffinfo={278: 7})
        for kind in ("packbits", "tiff_lzw", "tiff_deflate")
        for name, pixels in (("rgb", rgb), ("gray", gray))
    }
    return {
        "strip": tiff(rgb),
        "big-endian gray": tiff(gray, order=">"),
        "16-bit gray": tiff(deep, t274=6),
        "16-bit rgb": tiff(noise(HEIGHT, WIDTH, 3, np.uint16), order=">"),
        "rgba": tiff(noise(HEIGHT, WIDTH, 4), t338=2),
        "white is zero": tiff(gray, t262=0),
        "tiles": tiff(rgb, tile=32),
        "16-bit tiles": tiff(deep, tile=32, order=">"),
        **compressed,
        "jpeg": encode(Image.fromarray(rgb), "TIFF", compression="jpeg"),
        "group 4": encode(Image.fromarray(gray).convert("1"), "TIFF", compression="group4"),
        "lzw 16-bit": cv2.imencode(".tiff", deep, [cv2.IMWRITE_TIFF_COMPRESSION, 5])[1].tobytes(),
    }


def webp() -> dict[str, bytes]:
    """Lossy and lossless, with alpha, with EXIF."""
    rgb, rgba = noise(HEIGHT, WIDTH), noise(HEIGHT, WIDTH, 4)
    return {
        "lossy": encode(rgb, "WEBP", quality=80),
        "lossless": encode(rgb, "WEBP", lossless=True),
        "lossy with alpha": encode(rgba, "WEBP", quality=60),
        "lossless with EXIF": encode(rgba, "WEBP", lossless=True, orientation=3),
    }


def bmp() -> dict[str, bytes]:
    """Colour, palette, 1 bit, alpha, run lengths."""
    rgb, gray = noise(HEIGHT, WIDTH), noise(HEIGHT, WIDTH, 1)
    return {
        "rgb": encode(rgb, "BMP"),
        "gray": encode(gray, "BMP"),
        "palette": encode(Image.fromarray(rgb).quantize(8), "BMP"),
        "1 bit": encode(Image.fromarray(gray).convert("1"), "BMP"),
        "bgra": cv2.imencode(".bmp", noise(HEIGHT, WIDTH, 4))[1].tobytes(),
        "run lengths": bmp_rle(gray),
    }


def dicom_() -> dict[str, bytes]:
    """Transfer syntaxes and photometric interpretations."""
    rgb, gray = noise(HEIGHT, WIDTH), noise(HEIGHT, WIDTH, 1)
    deep = noise(HEIGHT, WIDTH, 1, np.uint16) >> 4
    window = {"WindowCenter": [2000, 40], "WindowWidth": [1500, 400], "BitsStored": 12}
    rescaled = {"RescaleSlope": 2, "RescaleIntercept": -1024, "Modality": "CT"}
    palette = {"PhotometricInterpretation": "PALETTE COLOR"}
    for color in ("Red", "Green", "Blue"):
        palette[f"{color}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{color}PaletteColorLookupTableData"] = np.arange(0, 65536, 256, np.uint16).tobytes()
    frames = {"NumberOfFrames": 3, "Rows": 10, "Columns": WIDTH}
    return {
        "window": dicom(deep, **window),
        "signed and rescaled": dicom((deep.astype(np.int16) - 1000), **rescaled, **window),
        "no window": dicom(gray, PatientName="DOE^JANE", StudyDate="20240506"),
        "monochrome1": dicom(gray, PhotometricInterpretation="MONOCHROME1"),
        "rgb": dicom(rgb),
        "ybr": dicom(rgb, PhotometricInterpretation="YBR_FULL"),
        "palette": dicom(gray, **palette),
        "frames": dicom(gray.reshape(3, 10, WIDTH), **frames),
        "implicit": dicom(deep, syntax=ImplicitVRLittleEndian, **window),
        "big-endian": dicom(deep.astype(">u2"), syntax=ExplicitVRBigEndian, **window),
        "deflated": dicom(deep, syntax=DeflatedExplicitVRLittleEndian, **window),
        "RLE": run_lengths(dicom(deep, **window)),
        "RLE rgb": run_lengths(dicom(rgb)),
        "JPEG": dicom(gray, syntax=JPEGBaseline8Bit, fragment=encode(gray, "JPEG")),
        "JPEG 2000": dicom(gray, syntax=JPEG2000Lossless, fragment=jpeg_2000(gray)),
        "1 bit": dicom(np.packbits(gray)[None], BitsAllocated=1, BitsStored=1, Rows=HEIGHT, Columns=WIDTH),
        "16-bit rgb": dicom(noise(HEIGHT, WIDTH, 3, np.uint16)),
        "padding": dicom(deep.astype(np.int16), PixelPaddingValue=0, PixelPaddingRangeLimit=9, BitsStored=12),
        "groups": dicom(gray.reshape(3, 10, WIDTH), PerFrameFunctionalGroupsSequence=groups(3), **frames),
        "JPEG of 12 bits": dicom(deep, syntax=JPEGExtended12Bit, fragment=jpeg_12(deep), **window),
        "HTJ2K": dicom(deep, syntax=HTJ2KLossless, fragment=imagecodecs.htj2k_encode(deep), **window),
        **by_gdcm(dicom(gray)),
    }


def groups(count: int) -> Sequence:
    """Return functional groups of so many frames, each with a rescale and a window."""
    items = []
    for index in range(count):
        rescale, window, group = Dataset(), Dataset(), Dataset()
        rescale.RescaleSlope, rescale.RescaleIntercept = 1, index
        window.WindowCenter, window.WindowWidth = 100 + index, 200
        group.PixelValueTransformationSequence, group.FrameVOILUTSequence = [rescale], [window]
        items.append(group)
    return Sequence(items)


def jpeg_12(pixels: np.ndarray) -> bytes:
    """Return an extended JPEG of 12 bits."""
    return bytes(imagecodecs.jpeg8_encode(pixels, bitspersample=12, level=90))


def run_lengths(data: bytes) -> bytes:
    """Return a DICOM file again, its pixels compressed losslessly."""
    dataset = dcmread(DicomBytesIO(data))
    dataset.compress(RLELossless, generate_instance_uid=False)
    file = DicomBytesIO()
    dataset.save_as(file)
    return file.getvalue()


def by_gdcm(data: bytes) -> dict[str, bytes]:
    """Return a DICOM file again with its pixels compressed as archives like it, where there is a codec for that."""
    try:
        import gdcm
    except ImportError:
        return {}
    kinds = {
        "JPEG lossless": (JPEGLosslessSV1, gdcm.TransferSyntax.JPEGLosslessProcess14_1),
        "JPEG-LS": (JPEGLSLossless, gdcm.TransferSyntax.JPEGLSLossless),
    }
    pixels = dcmread(DicomBytesIO(data)).pixel_array
    return {name: dicom(pixels, syntax=uid, fragment=_codestream(data, kind)) for name, (uid, kind) in kinds.items()}


def _codestream(data: bytes, kind: int) -> bytes:
    import gdcm

    with tempfile.NamedTemporaryFile() as whole, tempfile.NamedTemporaryFile() as made:
        whole.write(data)
        whole.flush()
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(whole.name)
        reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(kind))
        change.SetInput(reader.GetImage())
        change.Change()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(made.name)
        writer.Write()
        return get_frame(dcmread(made.name).PixelData, 0, number_of_frames=1)


def jpeg_2000(pixels: np.ndarray) -> bytes:
    """Return a codestream without loss."""
    return bytes(imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True))


def onnx() -> dict[str, bytes]:
    """Matrix products; a small network with convolutions, also with quantised weights, and with float inputs."""
    return {
        "product": model(),
        "network": model(_network),
        "quantised": model(_quantised),
        "float": model(_network, takes="float"),
        "every pixel": model(every_pixel),
    }


def spec(takes: str = "pixels", **fields: object) -> ModelSpec:
    """Return a contract that fits the models here."""
    given = {"name": "sample", "classes": CLASSES, "task": "multiclass", "input": RGB, "graph": Graph(input=takes)}
    return ModelSpec(**{**given, **fields})


def _product() -> tuple[list, list]:
    nodes = [
        helper.make_node("ReduceMean", ["scaled", "axes"], ["features"], keepdims=0),
        helper.make_node("MatMul", ["features", "matrix"], ["logits"]),
    ]
    matrix = np.float32([[24, -12, -12], [-10, 22, -14], [-8, -16, 26]])
    return nodes, [_constant("axes", np.int64([2, 3])), _constant("matrix", matrix)]


def every_pixel() -> tuple[list, list]:
    """Return nodes that weigh every pixel by itself: an image that is turned, or cut, has another answer."""
    weights = np.random.default_rng(2).normal(size=(12 * 16 * 3, 3)) / 4
    nodes = [
        helper.make_node("Flatten", ["scaled"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    return nodes, [_constant("weights", weights.astype(np.float32))]


def _network() -> tuple[list, list]:
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["scaled", "kernel", "bias"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale4", "bias", "bias", "scale4"], ["b"], epsilon=1e-5),
        helper.make_node("Relu", ["b"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["p"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "weight", "offset"], ["logits"], transB=1),
    ]
    shapes = {"kernel": (4, 3, 3, 3), "bias": (4,), "weight": (3, 4), "offset": (3,)}
    constants = [_constant(name, random.normal(size=shape).astype(np.float32)) for name, shape in shapes.items()]
    return nodes, [*constants, _constant("scale4", np.ones(4, np.float32))]


def _quantised() -> tuple[list, list]:
    nodes, constants = _network()
    kernel = helper.make_node("DequantizeLinear", ["kernel8", "step"], ["kernel"])
    activations = [
        helper.make_node("QuantizeLinear", ["scaled", "step", "zero"], ["scaled8"]),
        helper.make_node("DequantizeLinear", ["scaled8", "step", "zero"], ["coarse"]),
    ]
    nodes[0].input[0] = "coarse"
    levels = np.random.default_rng(1).integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    steps = [_constant("step", np.float32(1 / 127)), _constant("zero", np.uint8(0))]
    return [kernel, *activations, *nodes], [*constants[1:], *steps, _constant("kernel8", levels)]


def _constant(name: str, value: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def model(build=_product, *, takes: str = "pixels", contract: ModelSpec | None = None) -> bytes:
    """Return an .onnx file of three classes for images of 12 x 16, with its contract."""
    contract = contract or spec(takes)
    nodes, constants = build()
    if takes == "pixels":
        feed = [
            helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["cast"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Mul", ["planes", "scale"], ["scaled"]),
        ]
        given = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 12, 16, contract.input.channels])
    else:
        feed = [helper.make_node("Identity", ["pixel_values"], ["scaled"])]
        given = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, 12, 16])
    graph = helper.make_graph(
        [*feed, *nodes, helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1)],
        "sample",
        [given],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("probabilities", "logits")],
        [*constants, _constant("scale", np.float32(1 / 255))],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(proto, {SPEC_KEY: contract.dumps()})
    return proto.SerializeToString(deterministic=True)


SAMPLES = {"png": png, "jpeg": jpeg, "tiff": tiff_, "webp": webp, "bmp": bmp, "dicom": dicom_, "onnx": onnx}
