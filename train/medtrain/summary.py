"""What a network is made of: layers, shapes, parameters (`medtrain info`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medtrain.network import build_network, network_config
from medtrain.recipe import Recipe


def summarize(recipe: Recipe, classes: int) -> str:
    """Return a table of a recipe's network, one row for each layer in the order in which it runs."""
    spec = recipe.input
    config = network_config(recipe.network, spec, classes=classes)
    network = build_network(config).eval()
    rows: list[tuple[str, str, str, int]] = []
    hooks = [
        module.register_forward_hook(_recorder(rows, name))
        for name, module in network.named_modules()
        if not list(module.children())
    ]
    with torch.inference_mode():
        network(torch.zeros(1, spec.channels, spec.height, spec.width))
    for hook in hooks:
        hook.remove()
    return _table(recipe, rows, sum(parameter.numel() for parameter in network.parameters()))


def _recorder(rows: list[tuple[str, str, str, int]], name: str) -> Any:
    def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
        shape = "x".join(map(str, output.shape[1:]))
        rows.append((name, type(module).__name__, shape, sum(p.numel() for p in module.parameters())))

    return record


def _table(recipe: Recipe, rows: list[tuple[str, str, str, int]], parameters: int) -> str:
    spec = recipe.input
    names = max(len("layer"), *(len(row[0]) for row in rows))
    kinds = max(len("kind"), *(len(row[1]) for row in rows))
    lines = [
        f"{recipe.name}: {recipe.network.arch}, input {spec.channels}x{spec.height}x{spec.width}",
        f"{'layer':{names}}  {'kind':{kinds}}  {'output':>12}  {'parameters':>12}",
    ]
    lines += [f"{name:{names}}  {kind:{kinds}}  {shape:>12}  {count:>12,}" for name, kind, shape, count in rows]
    return "\n".join([*lines, f"{parameters:,} parameters, {4 * parameters / 1e6:.1f} MB as float32"])
