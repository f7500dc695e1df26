"""The contract: everything a host must know to feed a model and to read its answer.

It is a JSON object in the ONNX file's metadata, under `SPEC_KEY`. `medinfer.imaging` carries out `InputSpec`;
the rest (mean, std, temperature, softmax) is inside the graph and stands here so that it can be read and checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from medinfer.choices import (
    OOD_SCORE,
    Abstention as Abstention,
    Calibration as Calibration,
    Conformal as Conformal,
    OperatingPoint as OperatingPoint,
    Outliers as Outliers,
    Target as Target,
)
from medinfer.errors import SpecError
from medinfer.schema import Schema, dump, require, schema

SPEC_KEY = "medinfer.spec"
SPEC_FORMAT = 1
MAX_SIDE, MAX_BATCH = 8192, 1024


@schema
class Crop(Schema):
    """Resize the shorter side to `resize`, keeping the aspect, then cut out the middle.

    The longer side becomes floor(resize * long / short); the cut starts at floor((side - size) / 2).
    """

    resize: int
    anchor: Literal["center"] = "center"
    rounding: Literal["floor"] = "floor"

    def check(self) -> None:
        """Check the range."""
        require(1 <= self.resize <= MAX_SIDE, "resize", f"{self.resize} is not within 1..{MAX_SIDE}")


@schema
class Pad(Schema):
    """Resize to fit inside, keeping the aspect, and fill the rest with `value` (a grey level).

    The scale is min(height / h, width / w), each side floor(scale * side + 0.5), at least 1.
    """

    value: int = 0
    anchor: Literal["center", "top_left"] = "center"

    def check(self) -> None:
        """Check the range."""
        require(0 <= self.value <= 255, "value", f"{self.value} is not within 0..255")


@schema
class CropFit(Schema):
    """`{"crop": {...}}` in the JSON."""

    crop: Crop


@schema
class PadFit(Schema):
    """`{"pad": {...}}` in the JSON."""

    pad: Pad


@schema
class Depth16(Schema):
    """How 16-bit samples become 8-bit.

    `high_byte` is v >> 8; `range` is floor(255 x + 0.5) with x = (v - low) / (high - low), clipped to [0, 1].
    """

    rule: Literal["high_byte", "range"] = "high_byte"
    low: int | None = None
    high: int | None = None

    def check(self) -> None:
        """Check that a range has its ends, in order, and that nothing else has."""
        if self.rule == "high_byte":
            require(self.low is None and self.high is None, "rule", "high_byte takes neither low nor high")
            return
        if self.low is None or self.high is None:
            raise SpecError("rule", "range needs low and high")
        require(0 <= self.low < self.high <= 65535, "low", f"0 <= {self.low} < {self.high} <= 65535 does not hold")


@schema
class Over(Schema):
    """Compose onto a background colour: `{"over": [r, g, b]}` in the JSON."""

    over: tuple[int, int, int]

    def check(self) -> None:
        """Check the range."""
        require(all(0 <= level <= 255 for level in self.over), "over", f"{self.over} is not within 0..255")


@schema
class PercentileWindow(Schema):
    """`{"percentile": [low, high]}` in the JSON: from one percentile of the frame's values to another.

    A percentile is the value of the nearest rank: of n values in order, number ceil(p / 100 * n), at least 1.
    """

    percentile: tuple[float, float]

    def check(self) -> None:
        """Check the range."""
        low, high = self.percentile
        require(0 <= low < high <= 100, "percentile", f"0 <= {low} < {high} <= 100 does not hold")


@schema
class Dicom(Schema):
    """Which frame of a DICOM file is taken, from 0, and which of its values become black and white.

    `file` is the window or VOI LUT of the file, and `minmax` where it has none; `[center, width]` is linear; `minmax`
    and `percentile` are of the frame's values after the modality step, without pixel padding.
    """

    window: Literal["file", "minmax"] | tuple[float, float] | PercentileWindow = "file"
    frame: int = 0

    def check(self) -> None:
        """Check the ranges."""
        if isinstance(self.window, tuple):
            require(self.window[1] >= 1, "window", f"width {self.window[1]} is under 1")
        require(self.frame >= 0, "frame", f"{self.frame} is negative")


@schema
class InputSpec(Schema):
    """How an image becomes the tensor: uint8, (height, width, 3) RGB or (height, width, 1) gray.

    `mean` and `std` are per channel on [0, 1] and are applied inside the graph.
    EXIF orientation is always applied, so it is no field.
    """

    color: Literal["rgb", "gray"] = "rgb"
    height: int
    width: int
    fit: Literal["stretch"] | CropFit | PadFit = "stretch"
    interpolation: Literal["linear", "area", "cubic"] = "linear"
    depth16: Depth16 = Depth16()
    alpha: Literal["drop"] | Over = "drop"
    min_side: int = 1
    dicom: Dicom = Dicom()
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        """Number of channels of the tensor: 3 or 1."""
        return 3 if self.color == "rgb" else 1

    def check(self) -> None:
        """Check the ranges and what depends on two fields."""
        for name in ("height", "width", "min_side"):
            side = getattr(self, name)
            require(1 <= side <= MAX_SIDE, name, f"{side} is not within 1..{MAX_SIDE}")
        for name in ("mean", "std"):
            count = len(getattr(self, name))
            require(count == self.channels, name, f"{count} values for {self.channels} channels ({self.color})")
        for i, value in enumerate(self.mean):
            # Means of 0..255 are the commonest mistake, and nothing else would tell it.
            require(0 <= value <= 1, f"mean[{i}]", f"{value} is not within [0, 1]: divide what is on 0..255 by 255")
        for i, value in enumerate(self.std):
            require(value > 0, f"std[{i}]", f"{value} is not positive")
        if isinstance(self.fit, CropFit):
            resize, size = self.fit.crop.resize, max(self.height, self.width)
            require(resize >= size, "fit.crop.resize", f"{resize} is smaller than the cut of {size}")


@schema
class Graph(Schema):
    """What the graph takes and computes.

    `pixels` is uint8[batch, height, width, channels]; `float` is float32[batch, channels, height, width] on [0, 1], for
    tools that feed nothing else; `image` is uint8[1, any height, any width, channels], resized within. `batch` is the
    only batch size it takes; None is any.
    """

    input: Literal["pixels", "float", "image"] = "pixels"
    batch: int | None = None
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    extra_outputs: tuple[str, ...] = ()

    def check(self) -> None:
        """Check the range."""
        require(self.batch is None or 1 <= self.batch <= MAX_BATCH, "batch", f"{self.batch} is not in 1..{MAX_BATCH}")
        require(self.input != "image" or self.batch == 1, "batch", "images of any size come one by one: 1")


@schema
class Quantization(Schema):
    """How an int8 file was made: how ranges of activations were taken, from which images, and what stayed in float.

    `images` training images, and `images_sha256` over their content; `calibrator` is how a tensor's range follows from
    the values seen; `in_float` are the nodes of the network that were not quantised.
    """

    calibrator: Literal["minmax", "percentile", "entropy"]
    images: int
    images_sha256: str
    in_float: tuple[str, ...] = ()


@schema
class Provenance(Schema):
    """Where the model comes from: what is known of it. `created` is the checkpoint's date (UTC, ISO 8601)."""

    recipe: str | None = None
    data_sha256: str | None = None
    created: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    checkpoint_sha256: str | None = None
    quantization: Quantization | None = None


@schema
class NetworkSize(Schema):
    """How many parameters the network has, and multiply-accumulates (MACs) it takes for one image."""

    parameters: int
    macs: int


@schema
class Differences(Schema):
    """How far the file's answers lie from the checkpoint's; differences are absolute.

    `tolerance` is the largest allowed on a logit; int8, judged by its labels, has none, and no ties. `ties` are the
    positions, from 0 among the images named, of those whose label changed and whose two highest logits lie within twice
    the tolerance.
    """

    count: int
    logit_spread: float
    tolerance: float | None = None
    max_logit: float
    mean_logit: float
    max_probability: float
    label_flips: int
    ties: tuple[int, ...]


@schema
class BeforeAfter(Schema):
    """One figure of the checkpoint and of the file."""

    checkpoint: float
    file: float


@schema
class Agreement(Schema):
    """The export's verdict: the file through `medinfer.load` against the checkpoint in torch.

    `images` says on which: `synthetic` (drawn ones) or `data`, with `images_sha256` over the content of those used;
    `unusable` counts the others. `battery` is on fixed patterns besides. `operating_point_flips` counts changed
    decisions, `status_flips` images that one side abstains from otherwise than the other, `max_ood_score` is the
    largest difference of that score. `accuracy` and `macro_auc` are there where the images' folders told their classes,
    of int8 also the 95 % interval of what the file loses of the macro AUC.
    """

    images: Literal["synthetic", "data"]
    images_sha256: str
    unusable: int = 0
    batches: tuple[int, ...]
    provider: str
    precision: str
    differences: Differences
    battery: Differences
    operating_point_flips: Mapping[str, int] = field(default_factory=dict)
    status_flips: int | None = None
    max_ood_score: float | None = None
    accuracy: BeforeAfter | None = None
    macro_auc: BeforeAfter | None = None
    macro_auc_loss_interval: tuple[float, float] | None = None


@schema
class GoldenSample(Schema):
    """One synthetic image (PNG), its preprocessed tensor (PNG, lossless; both base64), and the checkpoint's answers.

    `own_logits` and `own_ood_score` are the int8 file's at its export, which are not meant to be the checkpoint's.
    """

    image: str
    tensor: str
    logits: tuple[float, ...]
    ood_score: float | None = None
    own_logits: tuple[float, ...] | None = None
    own_ood_score: float | None = None


@schema
class ModelSpec(Schema):
    """The whole contract. `graph`, `size`, `agreement`, `golden` are known only once a checkpoint has been exported."""

    format: int = SPEC_FORMAT
    name: str
    classes: tuple[str, ...]
    task: Literal["binary", "multiclass"]
    positive: tuple[str, ...] = ()
    input: InputSpec
    calibration: Calibration = Calibration()
    operating_points: tuple[OperatingPoint, ...] = ()
    abstention: Abstention | None = None
    provenance: Provenance = Provenance()
    graph: Graph | None = None
    size: NetworkSize | None = None
    agreement: Agreement | None = None
    golden: tuple[GoldenSample, ...] | None = None

    def check(self) -> None:
        """Check the classes and all that refers to them."""
        require(self.format == SPEC_FORMAT, "format", f"{self.format} is not {SPEC_FORMAT}")
        require(bool(self.name), "name", "empty")
        require(len(self.classes) >= 2, "classes", f"{len(self.classes)} classes; at least 2 are needed")
        require(all(self.classes), "classes", "a class name is empty")
        require(len(set(self.classes)) == len(self.classes), "classes", f"not unique: {', '.join(self.classes)}")
        binary = len(self.classes) == 2
        require(binary == (self.task == "binary"), "task", f"{self.task} with {len(self.classes)} classes")
        self._check_positive(self.positive, "positive")
        for i, point in enumerate(self.operating_points):
            self._check_positive(point.positive, f"operating_points[{i}].positive")
        if self.abstention:
            count = len(self.abstention.conformal.thresholds)
            fits = count == len(self.classes)
            path = "abstention.conformal.thresholds"
            require(fits, path, f"{count} values for {len(self.classes)} classes")
            known = self.graph is None or OOD_SCORE in self.graph.extra_outputs
            require(known, "abstention", "the graph has no output ood_score to hold it to")
        for i, sample in enumerate(self.golden or ()):
            for name in ("logits", "own_logits"):
                values = getattr(sample, name)
                fits = values is None or len(values) == len(self.classes)
                require(fits, f"golden[{i}].{name}", f"{len(values or ())} values for {len(self.classes)} classes")

    def _check_positive(self, names: tuple[str, ...], path: str) -> None:
        for name in names:
            require(name in self.classes, path, f"{name!r} is not one of the classes {', '.join(self.classes)}")
        require(len(set(names)) == len(names), path, f"not unique: {', '.join(names)}")
        require(len(names) < len(self.classes), path, "every class is positive, so none is negative")

    def dumps(self) -> str:
        """Return canonical JSON: sorted keys, ASCII, no NaN."""
        return dump(self)

    @classmethod
    def loads(cls, text: str) -> ModelSpec:
        """Read JSON; raises SpecError if it is malformed or of a newer format."""
        try:
            data = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
        except (ValueError, RecursionError) as error:
            raise SpecError("", f"not valid JSON: {error}") from None
        return cls.from_json(_known_format(data))


def _known_format(data: Any) -> Any:
    """Refuse a newer format before its unknown keys are complained of one by one."""
    found = data.get("format") if isinstance(data, Mapping) else None
    if type(found) is int and found > SPEC_FORMAT:
        hint = f"Upgrade: pip install -U 'medonnx{_written_by(data)}'"
        raise SpecError("format", f"{found} is newer than this medinfer reads ({SPEC_FORMAT})", hint=hint)
    require(found is not None, "format", "missing")
    return data


def _written_by(data: Mapping[str, Any]) -> str:
    """Return the requirement of the version that wrote a document of an unknown format, as far as it can be read."""
    provenance = data.get("provenance")
    versions = provenance.get("versions") if isinstance(provenance, Mapping) else None
    version = versions.get("medonnx") if isinstance(versions, Mapping) else None
    return f">={version}" if isinstance(version, str) and len(version) < 20 else ""


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a repeated key: two readers could take two different values."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError(f"a key is repeated among {', '.join(key for key, _ in pairs)[:200]}")
    return result
