"""What a list of steps can repeat, and what it cannot, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def rows(*size: int) -> Tensor:
    return torch.randn(*(size or (6, 8)))


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "item": (lambda net, h: h * h.mean().item(), "Python reads numbers"),
    "branch": (lambda net, h: h if h.sum() > 0 else -h, "Python reads numbers"),
    "tolist": (lambda net, h: h + max(h[0].tolist()), "Python reads numbers"),
    "numpy": (lambda net, h: h + torch.from_numpy(h.numpy() * 2), "Python reads numbers"),
    "equal": (lambda net, h: h if torch.equal(h, h) else -h, "Python reads numbers"),
    "mask": (lambda net, h: h + h[h > 0].sum(), "a shape follows from numbers"),
    "nonzero": (lambda net, h: h * len(h.nonzero()), "a shape follows from numbers"),
    "random": (lambda net, h: h + torch.rand(32), "random numbers are drawn"),
    "noise": (lambda net, h: h + torch.randn_like(h) * 0.1, "random numbers are drawn"),
    "dropout": (lambda net, h: F.dropout(h, 0.5, True), "random numbers are drawn"),
    "strides": (lambda net, h: h.as_strided((6, 32), (32, 1)) * 2, "memory is read by strides"),
    "slices": (
        lambda net, h: assigned(h), "memory changed by aten.copy_.default is read otherwise",
    ),
    "buffer": (lambda net, h: h + net.gain.add_(0.01), "a tensor from outside of the run"),
    "other type": (lambda net, h: h.view(torch.int32).view(torch.float32) * 2, "another type"),
    "data": (lambda net, h: given_other_memory(h), "a tensor is given other memory"),
    "in place, seen before": (
        lambda net, h: seen_before(h), "memory changed by aten.mul_.Tensor is read otherwise",
    ),
}  # fmt: skip
"""What no list of steps repeats, and the reason that is given."""


def assigned(h: Tensor) -> Tensor:
    out = torch.zeros(6, 32)
    out[:, :16] = h[:, :16]
    out[:, 16:] = h[:, 16:] * 2
    return out


def given_other_memory(h: Tensor) -> Tensor:
    h.data = h.data * 2
    return h


def seen_before(h: Tensor) -> Tensor:
    look = h[:, :16]
    h.mul_(2)
    return h + look.sum()


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_what_a_list_cannot_repeat_runs_as_it_is(lab: Any, name: str) -> None:
    between, why = REFUSED[name]
    model = lab.pack(lab.Body(between), rows())
    with torch.no_grad():
        for seed in range(5):
            x = rows()
            start = model.net.gain.clone()
            torch.manual_seed(seed)
            own = model.run_net(x)
            if name == "buffer":
                model.net.gain.copy_(start)
            torch.manual_seed(seed)
            assert lab.equal(model(x), own)
    programs = lab.programs(model)
    assert not programs.steps()
    assert name == "buffer" or any(why in reason for reason in programs.refusals())


ALLOWED: dict[str, Callable[..., Any]] = {
    "in place": lambda net, h: h.mul_(2).add_(1).relu_(),
    "a sum in place": lambda net, h: operator_iadd(h),
    "a view in place": lambda net, h: h.view(2, 3, 32).relu_().view(6, 32),
    "a constant in place": lambda net, h: h + torch.zeros(32).add_(3),
    "a constant by slices": lambda net, h: h + by_slices(),
    "a constant, then numbers": lambda net, h: torch.zeros(6, 32).add_(h).mul_(2),
    "a number of a constant": lambda net, h: h * net.gain.max().item(),
    "a list of a constant": lambda net, h: h * sum(net.gain.tolist()),
    "an index": lambda net, h: h[:, torch.arange(31, -1, -1)],
    "a masked fill": lambda net, h: h.masked_fill(h < 0, -1.0),
    "clamp in place": lambda net, h: h.clamp_(-1, 1),
    "sigmoid in place": lambda net, h: h.sigmoid_(),
    "dropout in place": lambda net, h: F.dropout(h, 0.5, False, True),
    "dropout": lambda net, h: F.dropout(h, 0.5, False),
    "a tensor of Python": lambda net, h: h * torch.tensor([0.5, 2.0])[0] + torch.tensor(1.0),
    "a hidden tensor": lambda net, h: h * net.mask,
    "topk": lambda net, h: h + h.topk(3).values.sum(),
    "cat": lambda net, h: torch.cat([h[:, 16:], h[:, :16]], 1),
    "int": lambda net, h: (h * 8).to(torch.int64) + h,
    "double": lambda net, h: (h.double() * 2).float(),
    "expand": lambda net, h: h + h[:1].expand(6, 32),
    "one number a row": lambda net, h: h * h.mean(-1, keepdim=True),
    "itself": lambda net, h: h * h + h,
    "where": lambda net, h: torch.where(h > 0, h, torch.zeros(())),
    "zero in place": lambda net, h: h + torch.ones(6, 32).zero_(),
    "fill": lambda net, h: h.masked_fill_(h > 1, 1.0),
    "a flip": lambda net, h: h.flip(0).roll(1, 1),
    "half of a norm": lambda net, h: F.layer_norm(h.view(6, 2, 16), (16,)).view(6, 32),
    "split": lambda net, h: torch.cat([part * (i + 1) for i, part in enumerate(h.split(8, 1))], 1),
    "no tokens": lambda net, h: h + h[:0].sum(),
    "negated": lambda net, h: -(1 - h) / 2,
    "alpha": lambda net, h: torch.add(h, h.flip(1), alpha=0.5),
    "out": lambda net, h: torch.add(h, 1, out=torch.empty(6, 32)),
}


def operator_iadd(h: Tensor) -> Tensor:
    h += h.flip(1)
    h -= 0.5
    h *= h.mean()
    return h


def by_slices() -> Tensor:
    mask = torch.zeros(32)
    mask[:8] = 1
    mask[20:] -= 2
    return mask


@pytest.mark.parametrize("size", [(6, 8), (300, 8)])
@pytest.mark.parametrize("name", ALLOWED)
def test_what_a_list_can_repeat(lab: Any, name: str, size: tuple[int, int]) -> None:
    if size[0] != 6 and name in ("expand", "a view in place", "half of a norm", "out",
                                 "a constant, then numbers", "zero in place"):  # fmt: skip
        pytest.skip("made for six rows")
    model = lab.pack(lab.Body(ALLOWED[name]), rows(*size))
    program = lab.settle(model, rows(*size))
    if name not in ("out",):
        assert program is not None, lab.programs(model).refusals()
    lab.check(model, lambda: rows(*size))
    assert name == "out" or not lab.programs(model).refusals()
