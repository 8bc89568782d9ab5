"""How far the packed model is from the simulated one: the gate that every run passes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.errors import CaptureError
from bitcompress.graph.arguments import tensors_of
from bitcompress.graph.capture import as_inputs
from bitcompress.graph.intercept import Rewritten


@dataclass(frozen=True)
class Parity:
    """How far the packed model is from the simulated one on one input."""

    psnr_db: float
    """Between both outputs; the peak is the range of pictures, or of the simulated output."""
    changed_share: float
    """The share of 8-bit output values that differ."""


def run_on_codes(student: Rewritten, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The model's output. Raises: CaptureError where it cannot work on codes."""
    try:
        return student(*args, **kwargs)
    except RuntimeError as error:
        raise CaptureError(
            f"the model fails on codes, where it ran on real numbers: {error}; codes have no "
            "gradients, so a forward that differentiates must keep its layers float (a rule of "
            "the recipe with keep: float)"
        ) from error


def compared(out: Any) -> Tensor:
    """The first tensor of an output, one of real numbers where there is one.

    Raises: CaptureError where there is none.
    """
    found = [torch.view_as_real(t) if t.is_complex() else t for t in tensors_of(out)]
    if not found:
        raise CaptureError(
            f"the model returns {type(out).__name__} without a tensor, so what packing does to it "
            "cannot be checked: let its forward return a tensor, or one in a tuple, list or dict"
        )
    return next((t for t in found if t.is_floating_point()), found[0]).double()


def is_steady(model: nn.Module, example: Any) -> bool:
    """Whether a model gives the same output twice, random numbers aside."""
    args, kwargs = as_inputs(example)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        outputs = []
        for _ in range(2):
            torch.manual_seed(0)
            outputs.append(compared(model(*args, **kwargs)))
    return parity(outputs[0], outputs[1]).psnr_db == math.inf


def parity(one: Tensor, two: Tensor, peak: float | None = None) -> Parity:
    """PSNR between two outputs, and the share of values that differ once cut to 8 bits.

    Where both hold the same infinity, or both NaN (a mask, say), they are alike.
    """
    alike = (one == two) | (one.isnan() & two.isnan())
    seen = one[one.isfinite()]
    low, high = (float(seen.min()), float(seen.max())) if seen.numel() else (0.0, 0.0)
    span = peak or (high - low) or 1.0
    apart = torch.where(alike, 0.0, one.double() - two.double())
    error = float(apart.square().mean()) if apart.numel() else 0.0
    psnr = -math.inf
    if not math.isinf(error):
        psnr = math.inf if error == 0 else 10 * math.log10(span**2 / error)
    codes = [((t - low) / span * 255).round() for t in (one, two)]
    changed = ~alike & (codes[0] != codes[1])
    return Parity(psnr, float(changed.double().mean()) if changed.numel() else 0.0)
