"""A model packed in a moment, its program, and the law that both give the same bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitcompress
from bitcompress import native
from bitcompress.graph.arguments import tensors_of
from bitcompress.graph.intercept import Rewritten
from bitcompress.program import use_programs
from bitcompress.program.cache import Made, Programs
from bitcompress.program.execute import Program


def equal(ones: Any, others: Any) -> bool:
    """Whether all tensors are the same bit for bit, and lie in the same layout."""
    left, right = list(tensors_of(ones)), list(tensors_of(others))
    return len(left) == len(right) and all(
        a.shape == b.shape
        and a.dtype == b.dtype
        and a.stride() == b.stride()
        and torch.equal(torch.nan_to_num(a, nan=7.5), torch.nan_to_num(b, nan=7.5))
        for a, b in zip(left, right, strict=True)
    )


class Body(nn.Module):
    """Two linears with a place for whatever a test does between them."""

    def __init__(self, between: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 32), nn.Linear(32, 8)
        self.between = between or (lambda net, h: h)
        self.factor, self.table = 2.0, {"shift": 0.5}
        self.mask = torch.rand(32)
        self.register_buffer("gain", torch.rand(32))

    def forward(self, x: Tensor) -> Any:
        return self.two(self.between(self, self.one(x)))


def rows(*size: int) -> Tensor:
    return torch.randn(*(size or (6, 8)))


class Lab:
    """What the tests of this room do with models."""

    equal = staticmethod(equal)
    rows = staticmethod(rows)
    Body = Body

    @staticmethod
    def pack(net: nn.Module, *inputs: Any, bits: int = 4, recipe: str = "minmax") -> Rewritten:
        """A packed model; one input that is a dict is given by name."""
        example = inputs if len(inputs) > 1 else inputs[0]
        result = bitcompress.quantize(
            net.eval(), example, bits=bits, recipe=recipe, data=[example],
            overrides={"train.method": "none"},
        )  # fmt: skip
        assert isinstance(result.model, Rewritten)
        use_programs(result.model)  # the report has made one already
        return result.model

    @staticmethod
    def programs(model: Rewritten) -> Programs:
        assert isinstance(model.programs, Programs)
        return model.programs

    def settle(self, model: Rewritten, *args: Any, **kwargs: Any) -> Program | None:
        """The program of a model for such inputs, after as many runs as one needs; None without."""
        with torch.no_grad():
            for _ in range(3):
                model(*args, **kwargs)
        found = [f for f in self.programs(model).found.values() if isinstance(f, Made)]
        return found[-1].program if found else None

    def why(self, model: Rewritten, *args: Any, **kwargs: Any) -> str:
        """Why a model has no program for such inputs."""
        assert self.settle(model, *args, **kwargs) is None
        programs = self.programs(model)
        reasons = [*programs.refusals(), *programs.reasons]
        assert len(reasons) == 1, reasons
        return reasons[0]

    def law(self, model: Rewritten, runs: Sequence[Any], *, program: bool = True) -> list[str]:
        """Assert that a model gives on each of `runs` what its own forward gives.

        With `program`, it must have come from a program. Returns: its steps.
        """
        first = runs[0] if isinstance(runs[0], tuple) else (runs[0],)
        made = self.settle(model, *first)
        if program:
            assert made is not None, (self.programs(model).refusals(), self.programs(model).reasons)
        for x in [*runs, *runs]:  # the second time around nothing is proved any more
            args = x if isinstance(x, tuple) else (x,)
            with torch.no_grad():
                assert equal(model(*args), model.run_net(*args))
        if program:
            assert not self.programs(model).refusals()
        return list(made.labels) if made else []

    def check(self, model: Rewritten, make: Callable[[], Any] = rows, times: int = 5) -> None:
        """Assert that, whatever runs, the output is that of the forward."""
        for _ in range(times):
            x = make()
            args = x if isinstance(x, tuple) else (x,)
            with torch.no_grad():
                own = model.run_net(*args)
                assert equal(model(*args), own)


@pytest.fixture
def lab() -> Lab:
    if native.kernels() is None:
        pytest.skip(f"programs need native kernels: {native.why_not()}")
    return Lab()


@pytest.fixture(params=["scalar", "avx2", "avx512vnni", "avx512vbmi"])
def level(request: pytest.FixtureRequest, lab: Lab) -> Any:
    """Runs a test at an instruction set, where the machine has it."""
    kernels = native.kernels()
    assert kernels is not None
    if request.param not in kernels.isa_levels():
        pytest.skip(f"this machine has no {request.param}")
    before = kernels.isa()
    kernels.set_isa(request.param)
    yield request.param
    kernels.set_isa(before)
