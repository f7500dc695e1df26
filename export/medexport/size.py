"""How large a network is, whatever its file holds it in."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medinfer.spec import InputSpec, NetworkSize


def network_size(classifier: nn.Module, spec: InputSpec) -> NetworkSize:
    """Count a classifier's parameters, and its multiply-accumulates for one image of the contract's size.

    Multiplications of matrices and convolutions count, as everybody counts them; work on single elements does not.
    """
    image = torch.zeros(1, spec.channels, spec.height, spec.width)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # attention in one piece, which is not counted
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            classifier(image.to(next(classifier.parameters()).device))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    # A multiplication and an addition are two of what it counts.
    macs = counter.get_total_flops() // 2
    return NetworkSize(parameters=sum(parameter.numel() for parameter in classifier.parameters()), macs=macs)
