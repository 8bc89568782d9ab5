"""What every model of these tests goes through: captured, put on grids, switched off, packed."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitcompress.calibrate import SEARCHES, calibrate
from bitcompress.graph.arguments import tensors_of
from bitcompress.graph.capture import Captured, as_inputs, capture, private_copy
from bitcompress.graph.decompose import decompose
from bitcompress.graph.intercept import Rewritten
from bitcompress.graph.rewrite import Plan, insert, pack_layers
from bitcompress.graph.site import Site
from bitcompress.quant import UniformQuantizer

QUANTIZABLE = ("linear", "conv2d", "matmul")


@dataclass(frozen=True)
class Walked:
    """A model at each station."""

    captured: Captured
    switched_off: Rewritten
    simulated: Rewritten
    packed: Rewritten

    def site(self, name: str) -> Site:
        return self.captured.site(name)

    @property
    def quantized(self) -> set[str]:
        return {site.name for site in self.captured.sites if not site.refusal}

    @property
    def refused(self) -> dict[str, str]:
        return {site.name: site.refusal for site in self.captured.sites if site.refusal}


def run(model: nn.Module, example: Any) -> list[Tensor]:
    """All tensors of a model's output; whether gradients are on makes no difference."""
    args, kwargs = as_inputs(example)
    with torch.no_grad():
        return [leaf.detach() for leaf in tensors_of(model(*args, **kwargs))]


def close(ones: list[Tensor], others: list[Tensor], share: float) -> None:
    """Assert that outputs agree to a share of the largest number in each."""
    assert len(ones) == len(others) > 0
    for one, other in zip(ones, others, strict=True):
        assert one.shape == other.shape
        finite = torch.isfinite(other)
        assert torch.equal(finite, torch.isfinite(one))
        size = float(other[finite].abs().max()) if finite.any() else 0.0
        assert torch.allclose(one[finite], other[finite], atol=share * max(size, 1e-6), rtol=0.0)


def hooks_of(model: nn.Module) -> list[int]:
    return [
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    ]


def switch(model: nn.Module, on: bool) -> None:
    for module in model.modules():
        if isinstance(module, UniformQuantizer):
            module.enabled = on


@pytest.fixture
def outputs() -> Callable[[nn.Module, Any], list[Tensor]]:
    return run


@pytest.fixture
def walked() -> Callable[..., Walked]:
    """Takes a model through the walk, checks the laws that hold for each, gives the stations."""

    def walk(model: nn.Module, *examples: Any, bits: int = 8, **choice: Any) -> Walked:
        with contextlib.suppress(NotImplementedError):  # an exported program
            model.eval()
        # What a first run caches in attributes is there before anything is compared.
        before = [run(model, example) for example in examples]
        state = {name: t.clone() for name, t in model.state_dict().items()}
        attributes, hooks = [set(vars(m)) for m in model.modules()], hooks_of(model)

        net = private_copy(model)
        decompose(net)
        captured = capture(net, examples[0])
        names = [site.name for site in captured.sites]
        assert len(set(names)) == len(names)
        plans = [
            Plan(site, bits, bits, **choice)
            for site in captured.sites
            if not site.refusal and site.op in QUANTIZABLE
        ]
        assert all(site.refusal for site in captured.sites if site.op == "other")
        rewritten = insert(captured, plans)

        switch(rewritten, False)
        for example, wanted in zip(examples, before, strict=True):
            close(run(rewritten, example), wanted, 2e-6)
        assert not rewritten.scopes.stack
        switched_off = copy.deepcopy(rewritten)
        switch(rewritten, True)
        if plans:
            calibrate(rewritten, examples, SEARCHES["minmax"])
        packed = copy.deepcopy(rewritten)
        pack_layers(packed)
        for example in examples:
            close(run(packed, example), run(rewritten, example), 0.02)

        assert [set(vars(m)) for m in model.modules()] == attributes and hooks_of(model) == hooks
        after = model.state_dict()
        assert state.keys() == after.keys()
        assert all(torch.equal(state[name], after[name]) for name in state)
        for example, wanted in zip(examples, before, strict=True):
            assert all(map(torch.equal, run(model, example), wanted))
        return Walked(captured, switched_off, rewritten, packed)

    return walk
