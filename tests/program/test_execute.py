"""A program runs for one thread at a time, lets go of what it made, and takes no more memory."""

from __future__ import annotations

import gc
import resource
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Native steps and operators of torch in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x.cumsum(0)).cumsum(0).relu()).cumsum(0)


def rows() -> Tensor:
    return torch.randn(500, 32)


def test_each_step_is_told_by_a_label(lab: Any) -> None:
    model = lab.pack(Net(), rows())
    program = lab.settle(model, rows())
    assert len(program.labels) == len(program.steps) == len(program.done)
    assert program.labels[0] == "aten.cumsum.default" and "layer 64x32" in program.labels[1]


def test_a_busy_program_gives_way(lab: Any) -> None:
    model = lab.pack(Net(), rows())
    program = lab.settle(model, rows())
    x = rows()
    with torch.no_grad():
        own = model.run_net(x)
        with program.busy:
            assert program.run([x]) is None
            assert lab.equal(model(x), own)
        assert lab.equal(model(x), own)


def test_nothing_is_kept_of_a_run(lab: Any) -> None:
    model = lab.pack(Net(), rows())
    program = lab.settle(model, rows())
    x = rows()
    with torch.no_grad():
        y = model(x)
    seen = weakref.ref(x), weakref.ref(y)
    held = [t for t in program.table if t is not None]
    assert all(t is not x and t is not y for t in held)
    del x, y
    assert seen[0]() is None and seen[1]() is None


def test_programs_that_leave_take_their_memory_with_them(lab: Any) -> None:
    model = lab.pack(Net(), rows())
    program = lab.settle(model, rows())
    seen = [weakref.ref(program), *map(weakref.ref, program.fixed.values())]
    del program
    with torch.no_grad():
        model.net.two.bias.add_(1)
        model(rows())
    gc.collect()
    assert all(ref() is None for ref in seen)


def test_a_model_that_leaves_takes_its_programs_with_it(lab: Any) -> None:
    model = lab.pack(Net(), rows())
    seen = weakref.ref(lab.settle(model, rows())), weakref.ref(model)
    del model
    gc.collect()
    assert all(ref() is None for ref in seen)


@pytest.mark.slow
def test_memory_stays_flat_over_runs_and_sizes(lab: Any) -> None:
    model = lab.pack(Net(), rows())

    def go(sizes: int, times: int) -> float:
        with torch.no_grad():
            for n in range(sizes):
                x = torch.randn(400 + n % 50, 32)
                for _ in range(times):
                    model(x)
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    first = go(60, 4)
    assert go(200, 4) < first + 20 and go(1, 1000) < first + 20
