"""What other tools read of a file: keys that Ultralytics, OpenVINO's model_api, Windows ML and Netron look for.

They say the same as the contract, each in its reader's words, and only where it is true. medinfer reads none of them.
"""

from __future__ import annotations

import onnx

from medinfer import __version__
from medinfer.command import DISCLAIMER
from medinfer.spec import CropFit, Graph, ModelSpec, PadFit

# model_api knows no area; it gets its default then, and images that are of the right size already stay right.
INTERPOLATIONS = {"linear": "LINEAR", "cubic": "CUBIC"}


def keys(spec: ModelSpec) -> dict[str, str]:
    """Return the metadata besides the contract."""
    return {**_ultralytics(spec), **_model_api(spec), **_standard(spec)}


def describe(spec: ModelSpec) -> str:
    """Return what a person reads who opens the file in a viewer."""
    size, graph = spec.input, spec.graph or Graph()
    batch = graph.batch or "batch"
    fed = {
        "pixels": f"uint8 [{batch}, {size.height}, {size.width}, {size.channels}], raw pixels",
        "float": f"float32 [{batch}, {size.channels}, {size.height}, {size.width}], pixels / 255",
        "image": f"uint8 [1, any height, any width, {size.channels}], raw pixels",
    }[graph.input]
    where = "inside" if graph.input == "image" else "by OpenCV"
    return (
        f"{spec.name}: {', '.join(spec.classes)}. Input: {fed}, {'RGB' if size.color == 'rgb' else 'gray'}, resized "
        f"{where} ({size.interpolation}); mean, std and softmax are inside. Output: "
        f"{', '.join(['probabilities', 'logits', *(spec.graph or Graph()).extra_outputs])}. {DISCLAIMER}"
    )


def denote(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Mark the input as an image and its dimensions by their meaning (ONNX, docs/TypeDenotation.md)."""
    channels_last = (spec.graph or Graph()).input != "float"
    meanings = (
        ["DATA_FEATURE", "DATA_FEATURE", "DATA_CHANNEL"] if channels_last else ["DATA_CHANNEL", *["DATA_FEATURE"] * 2]
    )
    image = model.graph.input[0].type
    image.denotation = "IMAGE"
    for dimension, meaning in zip(image.tensor_type.shape.dim, ["DATA_BATCH", *meanings], strict=True):
        dimension.denotation = meaning


def _ultralytics(spec: ModelSpec) -> dict[str, str]:
    """Return what `YOLO(FILE)` parses: Python literals."""
    created = {"date": spec.provenance.created} if spec.provenance.created else {}
    return created | {
        "description": describe(spec),
        "version": __version__,
        "task": "classify",
        "stride": "1",
        "batch": str(spec.graph.batch or 1 if spec.graph else 1),
        "imgsz": repr([spec.input.height, spec.input.width]),
        "channels": str(spec.input.channels),
        "names": repr(dict(enumerate(spec.classes))),
        "args": "{}",
        "end2end": "False",
    }


def _model_api(spec: ModelSpec) -> dict[str, str]:
    """Return what model_api reads: it feeds arrays in the order they come, (x - mean) / scale."""
    fit = spec.input.fit
    resize, pad = "standard", {}
    if isinstance(fit, CropFit):
        # Its crop has no margin: it takes the largest square of the middle.
        exact = fit.crop.resize == spec.input.height == spec.input.width
        resize = "crop" if exact else ""
    if isinstance(fit, PadFit):
        resize = "fit_to_window_letterbox" if fit.pad.anchor == "center" else "fit_to_window"
        pad = {"pad_value": str(fit.pad.value)}
    known = INTERPOLATIONS.get(spec.input.interpolation)
    filtering = {"interpolation_mode": known} if known else {}
    scale = {}
    if spec.graph and spec.graph.input == "float":
        channels = spec.input.channels
        scale = {"mean_values": " ".join(["0"] * channels), "scale_values": " ".join(["255"] * channels)}
    values = {
        "model_type": "Classification",
        # A list with spaces between: a name must hold none.
        "labels": " ".join(name.replace(" ", "_") for name in spec.classes),
        **({"resize_type": resize} if resize else {}),
        "reverse_input_channels": "False",
        "topk": "1",
        "multilabel": "False",
        "output_raw_scores": "True",
        **filtering,
        **pad,
        **scale,
    }
    return {f"model_info {key}": value for key, value in values.items()}


def _standard(spec: ModelSpec) -> dict[str, str]:
    """Return the ONNX standard's own (docs/MetadataProps.md): how the tensor is that is fed."""
    pixels = (spec.graph or Graph()).input != "float"
    return {
        "Image.BitmapPixelFormat": "Rgb8" if spec.input.color == "rgb" else "Gray8",
        "Image.ColorSpaceGamma": "SRGB",
        "Image.NominalPixelRange": "NominalRange_0_255" if pixels else "Normalized_0_1",
    }
