"""Graphs are clean: what is known at export is not computed again on every run."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from medexport.graph import to_onnx
from medinfer.errors import ModelError
from medinfer.spec import Graph
from medtrain.network import Classifier

SHAPE_ARITHMETIC = {"Shape", "Range", "Unsqueeze", "Expand", "ScatterND", "ConstantOfShape", "Where", "Pad"}


@pytest.mark.parametrize(
    "network",
    [
        {"arch": "small_cnn"},
        {"arch": "malaria_cnn"},
        {"arch": "resnet18"},
        {"arch": "efficientnet_b0", "pool": "max", "head": "batchnorm-256"},
        {"arch": "efficientnet_lite0"},
    ],
    ids=lambda network: network["arch"],
)
def test_graphs_are_clean_with_a_dynamic_batch(make_source, spec, network):
    spec = replace(spec, input=replace(spec.input, height=64, width=64))
    model = to_onnx(make_source(spec=spec, **network).classifier, spec)
    operators = Counter(node.op_type for node in model.graph.node)
    assert not SHAPE_ARITHMETIC & set(operators)
    # Behind every convolution it is folded; a head's own stands before a linear layer.
    assert operators["BatchNormalization"] == (network.get("head") == "batchnorm-256")
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"image": ["batch", 64, 64, 3], "probabilities": ["batch", 3], "logits": ["batch", 3]}
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


class Attending(nn.Module):
    """What transformers are made of: attention, a window mask drawn in place, pooling of channels-last features."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 8, stride=8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        features = self.embed(x)
        height, width = features.shape[2:]
        mask = features.new_zeros((height, width))
        mask[1:, 1:] = 1
        tokens = features.flatten(2).transpose(1, 2)
        tokens, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        tokens = tokens.unflatten(1, (height, width)) * mask.unsqueeze(-1)
        return self.head(self.pool(tokens.permute(0, 3, 1, 2)).flatten(1)) * 50


def test_attention_masks_and_pooling_leave_no_shape_arithmetic(spec):
    spec = replace(spec, input=replace(spec.input, height=32, width=32))
    torch.manual_seed(0)
    network = Classifier(Attending(), spec.input.mean, spec.input.std).eval()
    model = to_onnx(network, spec)
    operators = Counter(node.op_type for node in model.graph.node)
    assert not {"Range", "ScatterND", "ConstantOfShape", "Where", "Pad", "Expand"} & set(operators)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (1, 2, 5):
        pixels = np.random.default_rng(batch).integers(0, 256, (batch, 32, 32, 3), np.uint8)
        with torch.inference_mode():
            wanted = network(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
        assert np.allclose(session.run(["logits"], {"image": pixels})[0], wanted, atol=1e-4)


def test_a_fixed_batch_stands_in_the_graph(source, spec):
    model = to_onnx(source.classifier, replace(spec, graph=Graph(input="float", batch=4)))
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*model.graph.input, *model.graph.output)]
    assert shapes == [[4, 3, 48, 40], [4, 3], [4, 3]]


def test_a_network_that_cannot_be_traced_is_refused_with_the_reason(spec):
    class Deciding(nn.Module):
        def forward(self, x):
            x = x.float()
            return x.mean((2, 3)) if x.mean() > 0 else x.amax((2, 3))

    with pytest.raises(ModelError, match="cannot be exported") as caught:
        to_onnx(Deciding().eval(), spec)
    assert "torch.where" in caught.value.hint
