"""Channels that attend to channels, as in DAT: products and lengths are native steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bitcompress import native

pytestmark = pytest.mark.skipif(native.kernels() is None, reason="no native kernels")


class Channels(nn.Module):
    """Channel attention between two linears; the gate reads its result as a picture."""

    def __init__(self, channels: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.gate = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = x.flatten(2).mT
        split = self.qkv(tokens).view(b, h * w, 3, self.heads, c // self.heads)
        q, k, v = split.permute(2, 0, 3, 4, 1).unbind(0)
        logits = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
        attended = (logits * 1.5).softmax(-1) @ v
        attended = attended.permute(0, 3, 1, 2).reshape(b, h * w, c)
        image = attended.mT.view(b, c, h, w)
        mixed = image * torch.sigmoid(self.gate(image.mean((2, 3), keepdim=True)))
        return self.proj(mixed.flatten(2).mT)


@pytest.mark.parametrize("batch", [1, 2])
def test_channel_attention_runs_natively(lab: Any, level: str, batch: int) -> None:
    torch.manual_seed(0)
    model = lab.pack(Channels(), torch.rand(batch, 24, 9, 14))
    steps = lab.law(model, [torch.rand(batch, 24, 9, 14) for _ in range(2)])
    assert steps.count("multiply") == 2, steps
    assert steps.count("unit") == 2 and "call" not in steps
