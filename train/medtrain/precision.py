"""Mixed precision: which type, and how gradients survive in it. Weights, and all evaluation, stay float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Precision:
    """float32, or the 16-bit type that a device computes in natively.

    bf16 where there is one: it has float32's range. Older GPUs take fp16 with a loss scaled so that small gradients
    do not vanish. A device with neither computes in float32: emulation would only be slower.

    Args:
        wanted: `fp32` or `mixed`.
        device: What computes.
    """

    def __init__(self, wanted: str, device: torch.device) -> None:
        self.dtype = _native(device) if wanted == "mixed" else torch.float32
        self._device = device.type
        self._scaler = torch.amp.GradScaler(self._device, enabled=self.dtype == torch.float16)

    def autocast(self) -> Any:
        """Return the context in which the network runs."""
        return torch.autocast(self._device, self.dtype, enabled=self.dtype != torch.float32)

    def step(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Compute the gradients and move the weights; a step whose scaled gradients overflow is left out."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.step(optimizer)
        self._scaler.update()

    def state(self) -> dict[str, Any]:
        """Return the scaler's state, as JSON values; empty where there is nothing to scale."""
        return dict(self._scaler.state_dict())

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state()` returned."""
        if state and self._scaler.is_enabled():
            self._scaler.load_state_dict(state)


def _native(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    offered = torch.cpu.get_capabilities()
    return torch.bfloat16 if offered.get("avx512_bf16") or offered.get("bf16") else torch.float32
