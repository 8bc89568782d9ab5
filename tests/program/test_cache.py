"""When a program may run, and that nobody can tell which of both ran."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitcompress.packed.tape import recorder
from bitcompress.program.cache import KEPT, Made


def rows(*size: int) -> Tensor:
    return torch.randn(*(size or (6, 8)))


def test_a_program_is_compared_on_the_first_other_numbers(lab: Any) -> None:
    ran = [0]

    def between(net: Any, h: Tensor) -> Tensor:
        ran[0] += 1
        return h

    model = lab.pack(lab.Body(between), rows())
    x = rows()
    with torch.no_grad():
        ran[0] = 0
        for expected in (1, 2, 3, 3, 3):
            model(x)
            assert ran[0] == expected
        for expected in (4, 4, 4):
            model(rows())
            assert ran[0] == expected


@pytest.mark.filterwarnings("ignore")
def test_gradients_tracing_and_followers_run_the_model(lab: Any) -> None:
    model = lab.pack(lab.Body(), rows())
    assert lab.settle(model, rows())
    x = rows()
    with torch.no_grad():
        own = model.run_net(x)
    y = model(x.clone().requires_grad_())
    assert lab.equal(y.detach(), own)
    assert lab.programs(model).reasons == {"gradients are computed": 1}
    with torch.no_grad():
        assert lab.equal(torch.vmap(model)(x[:, None])[:, 0], own)
        with torch.autocast("cpu", torch.bfloat16):
            model(x)
        exported = torch.export.export(model, (x,), strict=False).module()
        assert torch.allclose(exported(x), own, atol=1e-6)
        traced = torch.jit.trace(model, (x,))
        assert torch.allclose(traced(x), own, atol=1e-6)
        assert lab.equal(model(x), own)


@pytest.mark.filterwarnings("ignore")
def test_symbolic_tracing_and_compilers_see_the_model(lab: Any) -> None:
    model = lab.pack(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)), rows())
    assert lab.settle(model, rows())
    x = rows()
    with torch.no_grad():
        own = model.run_net(x)
        compiled = torch.compile(model, backend="eager")
        assert torch.allclose(compiled(x), own, atol=1e-6)
        assert lab.equal(model(x), own)


def test_at_most_a_few_programs_are_kept(lab: Any) -> None:
    model = lab.pack(lab.Body(), rows())
    with torch.no_grad():
        for n in range(1, 30):
            for _ in range(4):
                x = rows(n, 8)
                assert lab.equal(model(x), model.run_net(x))
            assert len(lab.programs(model).found) <= KEPT


def test_where_an_input_lies_in_memory_makes_no_new_size(lab: Any) -> None:
    model, many = lab.pack(lab.Body(), rows()), rows(60, 8)
    with torch.no_grad():
        for start in range(0, 54, 6):
            model(many[start : start + 6])
    assert len(lab.programs(model).found) == 1
    lab.check(model, lambda: rows(12, 8)[3:9])


@pytest.mark.parametrize(
    "look",
    [
        lambda: rows(8, 6).t(),
        lambda: rows(6, 16)[:, ::2],
        lambda: rows(12, 8)[::2],
        lambda: rows(1, 8).expand(6, 8),
        lambda: rows(6, 1).expand(6, 8),
        lambda: rows(2, 3, 8).transpose(0, 1),
        lambda: rows(0, 8),
        lambda: rows(8),
        lambda: rows(6, 8).to(torch.float64).float(),
    ],
)
def test_inputs_of_any_layout(lab: Any, look: Callable[[], Tensor]) -> None:
    lab.check(lab.pack(lab.Body(), rows()), look)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Embedding(10, 8)

    def forward(self, x: Tensor, t: Tensor | None = None, *, factor: float = 1.0) -> Any:
        h = self.one(x)
        h = h if t is None else h + (self.two(t) if t.dtype == torch.int64 else t)
        return {"out": h * factor, "same": x, "none": None, "n": len(x), "t": t}


def test_inputs_by_name_none_and_numbers(lab: Any) -> None:
    model = lab.pack(Pair(), rows())
    forms: list[tuple[Callable[[], Any], dict[str, Any]]] = [
        (lambda: (rows(),), {}),
        (lambda: (rows(), None), {"factor": 2.0}),
        (lambda: (rows(), torch.randint(0, 10, (6,))), {}),
        (lambda: (rows(), rows()), {"factor": -0.0}),
        (lambda: (rows(), rows()), {"factor": 0.0}),
    ]
    with torch.no_grad():
        for make, named in forms:
            for _ in range(6):
                args = make()
                y, own = model(*args, **named), model.run_net(*args, **named)
                assert y["same"] is args[0] and y["none"] is None and y["n"] == 6
                assert list(y) == list(own) and type(y) is type(own)
                assert lab.equal(y, own) and bool(
                    (y["out"].signbit() == own["out"].signbit()).all()
                )
    assert lab.programs(model).steps()


def test_the_same_tensor_twice_is_another_call_than_two_of_them(lab: Any) -> None:
    model = lab.pack(Pair(), rows())
    with torch.no_grad():
        for _ in range(5):
            x, y = rows(), rows()
            assert lab.equal(model(x, x), model.run_net(x, x))
            assert lab.equal(model(x, y), model.run_net(x, y))
            assert lab.equal(model(x, x.view(6, 8)), model.run_net(x, x))


def test_a_tensor_of_the_model_as_an_input(lab: Any) -> None:
    model = lab.pack(lab.Body(lambda net, h: h * net.gain), rows())
    model.net.register_buffer("place", rows())
    for _ in range(5):
        lab.check(model, lambda: model.net.place)
        lab.check(model, rows, 1)


class Failure(BaseException):
    """Like an interrupt from the keyboard."""


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, Failure])
def test_a_forward_that_raises_leaves_nothing_behind(lab: Any, kind: type[BaseException]) -> None:
    armed = [False]

    def between(net: Any, h: Tensor) -> Tensor:
        if armed[0]:
            raise kind("on purpose")
        return h

    model = lab.pack(lab.Body(between), rows())
    with torch.no_grad():
        model(rows())
        armed[0] = True
        for _ in range(3):
            with pytest.raises(kind, match="on purpose"):
                model(rows())
            assert recorder() is None
            assert not torch._C._len_torch_dispatch_stack()
            assert not torch._C._len_torch_function_stack()
        armed[0] = False
    lab.check(model)
    assert lab.programs(model).steps()


def test_a_program_that_fails_gives_way(lab: Any) -> None:
    model = lab.pack(lab.Body(), rows())
    program = lab.settle(model, rows())

    def broken(table: Any) -> None:
        raise RuntimeError("on purpose")

    program.steps[0] = broken
    lab.check(model)
    assert lab.programs(model).refusals() == ["it failed: RuntimeError: on purpose"]


def test_rules_that_fail_cost_nothing_but_the_program(lab: Any, monkeypatch: Any) -> None:
    from bitcompress.program import cache

    def broken(graph: Any, places: Any) -> None:
        raise KeyError("on purpose")

    monkeypatch.setattr(cache, "RULES", {"broken": broken})
    model = lab.pack(lab.Body(), rows())
    lab.check(model)
    assert lab.programs(model).refusals() == ["no program: KeyError: 'on purpose'"]


def test_wrong_inputs_raise_what_the_model_raises(lab: Any) -> None:
    model = lab.pack(Pair(), rows())
    with torch.no_grad():
        for _ in range(4):
            model(rows(), torch.randint(0, 10, (6,)))
        with pytest.raises(IndexError):
            model(rows(), torch.full((6,), 77))
    lab.check(model, lambda: (rows(), torch.randint(0, 10, (6,))))


def test_many_threads_at_once(lab: Any) -> None:
    model = lab.pack(lab.Body(lambda net, h: h.relu() * 2), rows(64, 8))
    assert lab.settle(model, rows(64, 8))
    wrong: list[str] = []

    def work() -> None:
        with torch.no_grad():
            for i in range(60):
                x = rows(64 + i % 2, 8)
                if not lab.equal(model(x), model.run_net(x)):
                    wrong.append("other bits")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_copies_and_files_begin_anew(lab: Any, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
    model = lab.pack(net, rows())
    assert lab.settle(model, rows())
    torch.save(model, tmp_path / "model.pt")
    twins = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(tmp_path / "model.pt", weights_only=False),
    ]
    for twin in twins:
        assert lab.programs(twin).model is twin and not lab.programs(twin).found
        lab.check(twin)
        assert lab.programs(twin).steps()
        with torch.no_grad():
            twin.net[2].bias.add_(1)
        lab.check(twin)
    lab.check(model.to("cpu"))
    assert not any(isinstance(f, Made) for f in lab.programs(copy.deepcopy(model)).found.values())


def test_a_model_within_a_model(lab: Any) -> None:
    inner = lab.pack(lab.Body(lambda net, h: h.relu()), rows())
    outer = nn.Sequential(inner, nn.Linear(8, 8))
    check_of = lab.pack(outer, rows())
    lab.check(check_of)
    lab.check(inner)
    with torch.no_grad():
        x = rows()
        assert lab.equal(check_of.net[0](x), inner.run_net(x))
        assert lab.equal(check_of.net[1](x), check_of.net[1](x))
