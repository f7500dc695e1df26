"""Networks without training that still answer: what an export or a clock is tried on where no weights are to be had."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from medexport.battery import patterns
from medinfer.imaging import preprocess
from medinfer.spec import InputSpec
from medtrain.network import Classifier, build_network, network_config
from medtrain.recipe import Network

SPREAD = 4.0


def classifier(arch: str, tensors: npt.NDArray[np.uint8], spec: InputSpec, *, classes: int) -> Classifier:
    """Return a network of random weights with BatchNorm statistics of images, and logits that spread over `SPREAD`.

    Nets as they come out of their constructors answer 0 to everything, and any two would agree. The patterns are in the
    statistics too: without them they are answered with logits of thousands, in which fp32 itself is lost.

    Args:
        arch: The network.
        tensors: Images as the contract prepares them, uint8 (n, height, width, channels).
        spec: The contract.
        classes: How many.
    """
    torch.manual_seed(0)
    network = build_network(network_config(Network(arch=arch), spec, classes=classes))
    whole = Classifier(network, spec.mean, spec.std).train()
    pixels = torch.from_numpy(tensors).permute(0, 3, 1, 2)
    fixed = torch.from_numpy(np.stack([preprocess(image, spec) for image in patterns()])).permute(0, 3, 1, 2)
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = None  # the plain mean over what is seen, and no memory of the start
            norm.reset_running_stats()
        if norms:
            whole(torch.cat([pixels, fixed]))
        last.bias.zero_()
        answers = whole.eval()(pixels)
        last.weight.mul_(SPREAD / float((answers.amax(0) - answers.amin(0)).max()))
    return whole
