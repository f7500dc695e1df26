"""Damage to .onnx files that protobuf still reads: so that onnxruntime, and the contract's own checks, are met."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto
from tests.faults.fuzz.mutations import DAMAGES, number

# AttributeError: text that is not UTF-8 is read as bytes.
UNFIT = (DecodeError, IndexError, ValueError, TypeError, KeyError, AttributeError)
OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas()} | {"NoSuchOperator"})
JSON_VALUES = (
    None,
    True,
    -1,
    0,
    1e308,
    1 << 70,
    "",
    "x" * 5000,
    [],
    {},
    [[]],
    [None],
    {"over": [0]},
    "softmax",
    [0, 0, 0],
)


def damage_model(random: Random, data: bytes) -> bytes:
    """Return a model with one thing wrong."""
    proto = onnx.load_from_string(data)
    random.choice(WAYS)(random, proto)
    return proto.SerializeToString()


def _integer(random: Random) -> int:
    return random.choice((-1, 0, 1, 2, 3, 1000, -(1 << 63), (1 << 63) - 1, number(random, 31)))


def operator(random: Random, proto: ModelProto) -> None:
    """Another operator in a node's place."""
    random.choice(proto.graph.node).op_type = random.choice(OPERATORS)


def domain(random: Random, proto: ModelProto) -> None:
    """An operator of somebody else's."""
    random.choice(proto.graph.node).domain = random.choice(("com.microsoft", "ai.onnx.ml", "evil", "ai.onnx.training"))


def wire(random: Random, proto: ModelProto) -> None:
    """An input of a node from elsewhere: a loop, a name of nothing, a missing one."""
    node = random.choice(proto.graph.node)
    names = [name for one in proto.graph.node for name in (*one.input, *one.output)]
    ends = random.choice((node.input, node.output))
    ends[random.randrange(len(ends))] = random.choice((*names, "", "nothing"))


def attribute(random: Random, proto: ModelProto) -> None:
    """An attribute with another number."""
    node = random.choice([node for node in proto.graph.node if node.attribute])
    found = random.choice(node.attribute)
    found.i = _integer(random)
    found.f = random.choice((0.0, -1.0, 1e38, float("nan"), float("inf")))
    if found.ints:
        found.ints[random.randrange(len(found.ints))] = _integer(random)


def node(random: Random, proto: ModelProto) -> None:
    """A node lost, repeated, or moved."""
    nodes = proto.graph.node
    one = nodes.pop(random.randrange(len(nodes)))
    for _ in range(random.choice((0, 1, 2))):
        nodes.insert(random.randrange(len(nodes) + 1), one)


def weights(random: Random, proto: ModelProto) -> None:
    """A tensor of another shape, type or content."""
    tensor = random.choice(proto.graph.initializer)
    match random.randrange(5):
        case 0:
            tensor.dims[random.randrange(len(tensor.dims))] = _integer(random)
        case 1:
            tensor.dims.append(_integer(random))
        case 2:
            tensor.data_type = random.randrange(26)
        case 3:
            changed = bytearray(tensor.raw_data)
            random.choice(DAMAGES)(random, changed)
            tensor.raw_data = bytes(changed)
        case _:
            tensor.float_data.extend([1.0] * random.randrange(40))


def outside(random: Random, proto: ModelProto) -> None:
    """Weights in another file, or at an address in memory."""
    tensor = random.choice(proto.graph.initializer)
    tensor.data_location = TensorProto.EXTERNAL
    where = random.choice(("weights", "../weights", "/etc/passwd", "", "*/_ORT_MEM_ADDR_/*", "/dev/zero", "."))
    for key, value in {"location": where, "offset": str(_integer(random)), "length": str(_integer(random))}.items():
        tensor.external_data.add(key=key, value=value)


def shape(random: Random, proto: ModelProto) -> None:
    """An input or output of another shape or type."""
    value = random.choice([*proto.graph.input, *proto.graph.output]).type.tensor_type
    if random.random() < 0.4:
        value.elem_type = random.randrange(26)
    else:
        random.choice(value.shape.dim).dim_value = _integer(random)


def version(random: Random, proto: ModelProto) -> None:
    """Another opset or format."""
    if random.random() < 0.5:
        proto.ir_version = random.choice((-1, 0, 3, 4, 14, 1 << 40))
    else:
        proto.opset_import[0].version = random.choice((-1, 0, 1, 6, 11, 17, 28, 99, 1 << 40))


def contract(random: Random, proto: ModelProto) -> None:
    """A field of the contract with another value, lost, or added; or its text damaged."""
    entry = proto.metadata_props[0]
    if random.random() < 0.3:
        changed = bytearray(entry.value.encode())
        random.choice(DAMAGES)(random, changed)
        entry.value = changed.decode("utf-8", "replace")
        return
    document = json.loads(entry.value)
    place: Any = document
    while True:
        key = random.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not (isinstance(place[key], dict | list) and place[key]) or random.random() < 0.3:
            break
        place = place[key]
    place[key] = random.choice(JSON_VALUES)
    if isinstance(place, dict) and random.random() < 0.3:
        place["unknown" if random.random() < 0.5 else key] = place.pop(key)
    entry.value = json.dumps(document)


WAYS: tuple[Callable[[Random, ModelProto], None], ...] = (
    operator,
    domain,
    wire,
    attribute,
    node,
    weights,
    weights,
    outside,
    shape,
    version,
    contract,
    contract,
)
