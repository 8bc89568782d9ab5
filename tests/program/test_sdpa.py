"""scaled_dot_product_attention runs as one native step, or says what keeps it from that."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import bitcompress
from bitcompress import native

pytestmark = pytest.mark.skipif(native.kernels() is None, reason=native.why_not())


class Block(nn.Module):
    """Attention as timm writes it, causal where asked."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.norm, self.qkv, self.proj = nn.LayerNorm(48), nn.Linear(48, 144), nn.Linear(48, 48)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, N, 48) -> as x."""
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, 4, 12).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return x + self.proj(y.transpose(1, 2).reshape(b, n, c))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_torch_is_fused_where_nothing_is_masked(causal: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 64, 48)
    result = bitcompress.quantize(
        Block(causal).eval(), x, bits=4, data=[x, x + 1], overrides={"train.steps": 0}
    )
    model = result.model
    assert result.report["parity"]["psnr_db"] == float("inf")
    assert model.fusions.fused == (0 if causal else 1)
    programs, model.programs = model.programs, None
    y = torch.randn(2, 64, 48)
    with torch.inference_mode():
        own = model(y)
        model.programs = programs
        outputs = [model(y) for _ in range(5)]
    assert all(torch.equal(own, out) for out in outputs)
    assert programs is not None and ("attention" in programs.steps()) == (not causal)
