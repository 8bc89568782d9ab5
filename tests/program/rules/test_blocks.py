"""Binary blocks in a program: one native step each, the same bits, at any batch and layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bitcompress import native
from bitcompress.graph.intercept import Rewritten
from bitcompress.layers.binary import BinaryBlock, BlockSpec, Clock, binary_block
from bitcompress.program import use_programs

pytestmark = pytest.mark.skipif(native.kernels() is None, reason="no native kernels")
SIZE = (16, 14)


def block(
    layer: nn.Module, method: str, clock: Clock | None = None, timed: Any = "both"
) -> nn.Module:
    """A packed block whose parameters are all other than they began."""
    spec = BlockSpec(method, 1 if clock is None else clock.groups, norm="affine", timed=timed)
    made = binary_block(layer, spec, clock=clock)
    assert isinstance(made, BinaryBlock)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval().pack()


def convolution(
    method: str, channels: int = 24, clock: Clock | None = None, timed: str = "both"
) -> nn.Module:
    return block(nn.Conv2d(channels, channels, 3, padding=1), method, clock, timed)


class Residual(nn.Module):
    """Two blocks in a residual."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.first, self.second = convolution(method), convolution(method)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.second(self.first(x))
        return y


class Body(nn.Module):
    """A float convolution, residuals, a float convolution."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 3, 3, padding=1)
        self.body = nn.Sequential(Residual(method), Residual(method))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.tail(self.body(self.head(x)))
        return y


class Timed(nn.Module):
    """Group norm, SiLU and a time-aware block, twice in a residual: a part of a UNet."""

    def __init__(self, clock: Clock, timed: str) -> None:
        super().__init__()
        self.clock = clock
        self.head = nn.Conv2d(3, 24, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(4, 24) for _ in range(2))
        self.blocks = nn.ModuleList(convolution("bidiffsr", 24, clock, timed) for _ in range(2))
        self.time = nn.Linear(1, 24)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.head(x)
        y = self.blocks[0](F.silu(self.norms[0](h)))
        y = y + self.time(t.float()[:, None] / 100)[:, :, None, None]
        y = self.blocks[1](F.silu(self.norms[1](y)))
        return h + y


def rewritten(net: nn.Module) -> Rewritten:
    model = Rewritten(net.eval())
    model.on_codes = True
    use_programs(model)
    return model


def proved(model: Rewritten, inputs: Callable[[], tuple[Tensor, ...]]) -> list[str]:
    """The steps of the program, whose bits are those of the forward on several inputs."""
    with torch.no_grad():
        for _ in range(5):
            given = inputs()
            got = model(*given)
            assert torch.equal(got, plainly(model, given))
    assert not model.programs.refusals() and not model.programs.reasons
    steps: list[str] = model.programs.steps()
    assert steps, "a program was made"
    return steps


def plainly(model: Rewritten, given: tuple[Tensor, ...]) -> Tensor:
    """What the model gives without a program."""
    programs, model.programs = model.programs, None
    y: Tensor = model(*given)
    model.programs = programs
    return y


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("method", ["xnor", "bireal", "irnet", "reactnet", "bidense"])
def test_a_block_is_one_step(method: str, batch: int, last: bool) -> None:
    torch.manual_seed(0)
    model = rewritten(Body(method))
    memory = torch.channels_last if last else torch.contiguous_format
    steps = proved(model, lambda: (torch.randn(batch, 3, *SIZE).contiguous(memory_format=memory),))
    layers = [step for step in steps if step.startswith("layer")]
    assert sum("24x24x3x3" in step for step in layers) == 4
    if method != "bidense":  # whose threshold depends on all of its input
        assert sum("layer codes" in step for step in layers) == 3, "blocks hand on codes"


@pytest.mark.parametrize("timed", ["both", "thresholds", "activations"])
@pytest.mark.parametrize("batch", [1, 2])
def test_time_aware_blocks_follow_the_clock(batch: int, timed: str) -> None:
    torch.manual_seed(0)
    clock = Clock(5, 100)
    model = rewritten(Timed(clock, timed))
    clock.attach(model.net, "t")
    steps = proved(model, lambda: (torch.randn(batch, 3, *SIZE), torch.randint(0, 100, (batch,))))
    layers = [step for step in steps if step.startswith("layer")]
    assert sum("24x24x3x3" in step for step in layers) == 2
    assert steps.count("group_scales") == 2
    assert len(layers) == 4


def test_a_linear_block_is_one_step() -> None:
    torch.manual_seed(0)
    model = rewritten(nn.Sequential(*(block(nn.Linear(40, 40), "reactnet") for _ in range(3))))
    steps = proved(model, lambda: (torch.randn(2, 70, 40),))
    assert [step.startswith("layer") for step in steps].count(True) == 3
