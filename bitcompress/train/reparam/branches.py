"""One kernel as a sum of branches: it trains as many, and is one kernel at every moment.

    K = sum_j diag(v_j) B_j,   v_j (O,)

B_0 is the kernel that was there, v_0 = 1 and all other v_j = 0 at first, so nothing has changed;
the others wake up because v_j gets the gradient <G, B_j>. The sum is made in weight space each time
the layer runs, so a binary layer takes the sign of the sum, and merging keeps it as it stands.
Source: GPD (ICLR 2025) and its code, after OREPA (CVPR 2022). Differs: any kernel larger than one
pixel has branches, not those of 3 x 3 and stride 1 alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

DEEP = 8
"""Depthwise kernels for each input channel in the separable branch."""


class Branches(nn.Module):
    """The kernel (O, I, KH, KW) of a layer from the one it had and five more.

    average      a pixel's weights, spread evenly over the window
    frequency    a pixel's weights times a fixed cosine for each output channel
    sequence     1 x 1 among the inputs, then a window: K'(1 + M), M = 0 at first
    window       a second kernel
    separable    DEEP windows for each input, then their weights
    """

    cosines: Tensor

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        o, i, *window = kernel.shape
        self.scales = nn.Parameter(torch.cat([torch.ones(1, o), torch.zeros(5, o)]))
        self.average = _uniform(o, i, 1, 1)
        self.frequency = _uniform(o, i, 1, 1)
        self.mixing = nn.Parameter(torch.zeros(i, i))
        self.sequence = _uniform(o, i, *window)
        self.window = _uniform(o, i, *window)
        self.deep = _uniform(i * DEEP, 1, *window)
        self.point = _uniform(o, i, DEEP)
        self.register_buffer("cosines", cosines(o, window[0], window[1]))
        self.to(kernel.device)

    def branches(self, kernel: Tensor) -> Iterator[Tensor]:
        """The six kernels that are summed."""
        o, i, *window = kernel.shape
        yield kernel
        yield self.average.expand(o, i, *window) / math.prod(window)
        yield self.frequency * self.cosines
        yield self.sequence + torch.einsum("ochw,ci->oihw", self.sequence, self.mixing)
        yield self.window
        yield torch.einsum("oid,idhw->oihw", self.point, self.deep.view(i, DEEP, *window))

    def forward(self, kernel: Tensor) -> Tensor:
        """The merged kernel, like `kernel`."""
        total: Tensor | None = None
        for scale, part in zip(self.scales, self.branches(kernel), strict=True):
            term = scale.view(-1, 1, 1, 1) * part
            total = term if total is None else total + term
        assert total is not None
        return total


def cosines(o: int, height: int, width: int) -> Tensor:
    """A cosine over the window for each output channel, (O, 1, KH, KW).

    The first half of the channels varies along the height, c-th by half c + 1 periods over the
    window, the second half along the width.
    """
    half = (o + 1) // 2
    found = torch.empty(o, 1, height, width)
    for c in range(o):
        size, wave = (height, c + 1) if c < half else (width, c + 1 - half)
        line = torch.cos(math.pi * (torch.arange(size) + 0.5) * wave / size)
        found[c, 0] = line[:, None] if c < half else line[None]
    return found


def _uniform(*shape: int) -> nn.Parameter:
    """Uniform numbers of the scale that keeps a layer's output as large as its input."""
    bound = math.sqrt(6 / math.prod(shape[1:]))
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


def branch(layer: nn.Module) -> bool:
    """Give a layer's `weight` (O, I, KH, KW) branches; False where it has no window."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.dim() != 4 or weight[0, 0].numel() == 1:
        return False
    if isinstance(layer, nn.ConvTranspose2d) or weight.dtype != torch.float32:
        return False
    parametrize.register_parametrization(layer, "weight", Branches(weight.detach()))
    return True


def merge(net: nn.Module) -> None:
    """Make every branched kernel of a net one kernel again: same numbers, old names and shapes."""
    for layer in list(net.modules()):
        if any(isinstance(m, Branches) for m in _parametrizations(layer)):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def _parametrizations(layer: nn.Module) -> list[nn.Module]:
    if not parametrize.is_parametrized(layer, "weight"):
        return []
    return list(layer.get_submodule("parametrizations.weight").children())
