"""How far the packable forms of DAB are from the published one, on a trained block and its input.

The published scale differs for each input channel inside the sum. The packable forms give one to a
sample or to a word of 32 channels; here each takes the mean of the published scales that it stands
for, so what is measured is what sharing costs, without any training of the shared form.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bitcompress.errors import UsageError
from bitcompress.layers.binary.axes import along
from bitcompress.layers.binary.block import BinaryBlock
from bitcompress.layers.binary.thresholds import DAB
from bitcompress.packed.dab import WORD


@dataclass(frozen=True)
class Gap:
    """|sums with shared scales - published| / |published|, over all outputs.

    none: all scales 1, times the best factor for the layer. spread: the deviation of the published
    scales over channels, relative to their mean.
    """

    none: float
    tensor: float
    group: float
    spread: float


@torch.no_grad()
def dab_gap(block: BinaryBlock, x: Tensor) -> Gap:
    """The gap of a block whose DAB has the published scale, `channel`.

    Shapes: x as the block takes it. Raises: UsageError for other blocks.
    """
    threshold = block.threshold
    if not isinstance(threshold, DAB) or threshold.mode != "channel":
        raise UsageError("the gap is that of a block with DAB's published scale, dab_scale channel")
    training = block.training
    block.eval()
    pictures = block._opened(x)
    signs, alpha = threshold(pictures, block._index(x), block._bordered(pictures))
    assert alpha is not None

    def sums(scale: Tensor) -> Tensor:
        y: Tensor = block.core(signs * along(scale, signs.dim(), block.axis), reals=True)
        return y

    published = sums(alpha)
    whole = alpha.mean(1, keepdim=True).expand_as(alpha)
    words = torch.cat(
        [part.mean(1, keepdim=True).expand_as(part) for part in torch.split(alpha, WORD, 1)], 1
    )
    plain = sums(torch.ones_like(alpha))
    best = (plain * published).sum() / plain.square().sum()
    block.train(training)
    spread = alpha.std(1, correction=0) / alpha.mean(1)
    return Gap(
        _apart(best * plain, published), _apart(sums(whole), published),
        _apart(sums(words), published), float(spread.mean()),
    )  # fmt: skip


def _apart(y: Tensor, published: Tensor) -> float:
    return float((y - published).norm() / published.norm().clamp(min=1e-30))
