"""When a program may run, when it must not, and that nobody can tell which of both ran."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bitcompress.packed.tape import recorder
from bitcompress.program.cache import KEPT, Made


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


def check(lab: Any, model: Any, make: Callable[[], Any] = rows, times: int = 5) -> None:
    """Whatever runs, the output is that of the forward."""
    for _ in range(times):
        x = make()
        args = x if isinstance(x, tuple) else (x,)
        with torch.no_grad():
            own = model.run_net(*args)
            assert lab.equal(model(*args), own)


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
    model = lab.pack(Body(between), rows())
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
    model = lab.pack(Body(ALLOWED[name]), rows(*size))
    program = lab.settle(model, rows(*size))
    if name not in ("out",):
        assert program is not None, lab.programs(model).refusals()
    check(lab, model, lambda: rows(*size))
    assert name == "out" or not lab.programs(model).refusals()


CHANGES: dict[str, Callable[[Any], Any]] = {
    "an attribute": lambda net: setattr(net, "factor", 3.0),
    "an entry": lambda net: net.table.update(shift=0.75),
    "a buffer in place": lambda net: net.gain.mul_(2),
    "a buffer": lambda net: setattr(net, "gain", torch.rand(32)),
    "a hidden tensor": lambda net: net.mask.mul_(2),
    "another hidden tensor": lambda net: setattr(net, "mask", torch.rand(32)),
    "the weight of a layer": lambda net: net.one.weight_scale.data.mul_(2),
    "a scale in place": lambda net: net.one.weight_scale.mul_(2),
    "codes in place": lambda net: net.one.codes.zero_(),
    "the grid of an input": lambda net: net.two.input_scale.mul_(3),
    "a bias": lambda net: setattr(net.two, "bias", None),
    "a layer": lambda net: setattr(net, "two", nn.Linear(32, 8)),
    "a function": lambda net: setattr(net, "between", lambda net, h: -h),
    "a mode": lambda net: net.train(),
    "a hook": lambda net: net.two.register_forward_hook(lambda m, a, y: y * 2),
    "a hook before": lambda net: net.two.register_forward_pre_hook(lambda m, a: (a[0] * 2,)),
    "a forward": lambda net: setattr(net.one, "forward", lambda x: x.repeat(1, 4)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_model_that_changed_runs_as_it_is_now(lab: Any, name: str) -> None:
    def between(net: Any, h: Tensor) -> Tensor:
        return h * net.factor * net.gain * net.mask + net.table["shift"]

    model = lab.pack(Body(between), rows())
    assert lab.settle(model, rows())
    x = rows()
    with torch.no_grad():
        before = model(x)
        CHANGES[name](model.net)
        after = model(x)
        assert lab.equal(after, model.run_net(x))
    assert name == "a mode" or not torch.equal(before, after) or name == "the weight of a layer"
    check(lab, model)


class Counting(nn.Module):
    """A forward that keeps state in Python."""

    def __init__(self, keep: str) -> None:
        super().__init__()
        self.one, self.keep, self.calls, self.seen = nn.Linear(8, 8), keep, 0, []
        self.last = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        if self.keep == "counter":
            self.calls += 1
            return self.one(x) * self.calls
        if self.keep == "list":
            self.seen.append(len(x))
            return self.one(x) * len(self.seen)
        y = self.one(x) + self.last
        self.last = y.mean() if self.keep else self.last
        return y


@pytest.mark.parametrize("keep", ["counter", "list", "tensor"])
def test_a_forward_that_keeps_state_runs_itself(lab: Any, keep: str) -> None:
    model = lab.pack(Counting(""), rows())
    twin = copy.deepcopy(model)
    model.net.keep = twin.net.keep = keep
    twin.programs = None
    with torch.no_grad():
        for _ in range(12):
            x = rows()
            assert lab.equal(model(x), twin(x))
    assert not lab.programs(model).steps()


def test_state_that_nobody_can_see_is_found_by_comparing(lab: Any) -> None:
    count = [0]

    def between(net: Any, h: Tensor) -> Tensor:
        count[0] += 1
        return h * (count[0] >= 20)

    count[0] = 100
    model = lab.pack(Body(between), rows())
    x, count[0] = rows(), 17
    with torch.no_grad():
        outs = [model(x) for _ in range(4)]
    assert not torch.equal(outs[2], outs[1]) and torch.equal(outs[2], outs[3])
    assert "another run gave other bits than the model" in lab.programs(model).refusals()


def test_a_program_is_compared_on_the_first_other_numbers(lab: Any) -> None:
    ran = [0]

    def between(net: Any, h: Tensor) -> Tensor:
        ran[0] += 1
        return h

    model = lab.pack(Body(between), rows())
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
    model = lab.pack(Body(), rows())
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
    model = lab.pack(Body(), rows())
    with torch.no_grad():
        for n in range(1, 30):
            for _ in range(4):
                x = rows(n, 8)
                assert lab.equal(model(x), model.run_net(x))
            assert len(lab.programs(model).found) <= KEPT


def test_where_an_input_lies_in_memory_makes_no_new_size(lab: Any) -> None:
    model, many = lab.pack(Body(), rows()), rows(60, 8)
    with torch.no_grad():
        for start in range(0, 54, 6):
            model(many[start : start + 6])
    assert len(lab.programs(model).found) == 1
    check(lab, model, lambda: rows(12, 8)[3:9])


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
    check(lab, lab.pack(Body(), rows()), look)


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
    model = lab.pack(Body(lambda net, h: h * net.gain), rows())
    model.net.register_buffer("place", rows())
    for _ in range(5):
        check(lab, model, lambda: model.net.place)
        check(lab, model, rows, 1)


@dataclass
class Sample:
    sample: Tensor


OUTPUTS: dict[str, tuple[Callable[..., Any], bool]] = {
    "pair": (lambda net, h: (h, h * 2), True),
    "nested": (lambda net, h: {"a": [h, (h + 1, None)], "b": 3, "c": "text"}, True),
    "views": (lambda net, h: (h[:2], h[2:], h.t()), True),
    "twice": (lambda net, h: (h, h), True),
    "numbers alone": (lambda net, h: (h.argmax(-1), h > 0), True),
    "a number": (lambda net, h: h.sum(), True),
    "dataclass": (lambda net, h: Sample(h), False),
    "a constant": (lambda net, h: (h, net.gain), False),
    "made of constants": (lambda net, h: (h, net.gain * 2), False),
    "complex": (lambda net, h: torch.complex(h, h * 2), True),
    "empty": (lambda net, h: (h, h[:0]), True),
    "sparse": (lambda net, h: (h, h.relu().to_sparse()), False),
}


class Ending(Body):
    def forward(self, x: Tensor) -> Any:
        return self.between(self, self.two(self.one(x)))


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_of_any_kind(lab: Any, name: str) -> None:
    between, programmed = OUTPUTS[name]
    net = Ending()
    model = lab.pack(net, rows())
    model.net.between = between
    kept = []
    with torch.no_grad():
        for _ in range(6):
            x = rows()
            y, own = model(x), model.run_net(x)
            assert type(y) is type(own)
            if name != "sparse":
                assert lab.equal(y, own)
            if name == "twice":
                assert y[0] is y[1]
            if name == "views":
                assert y[0].untyped_storage().data_ptr() == y[1].untyped_storage().data_ptr()
            kept.append((y, own))
    assert bool(lab.programs(model).steps()) == programmed, lab.programs(model).refusals()
    if name != "sparse":
        assert all(lab.equal(y, own) for y, own in kept)  # later runs have changed nothing


@pytest.mark.parametrize("size", [(6, 8), (700, 8)])
def test_outputs_belong_to_the_caller(lab: Any, size: tuple[int, int]) -> None:
    model = lab.pack(Body(lambda net, h: h.relu()), rows(*size))
    assert lab.settle(model, rows(*size))
    x = rows(*size)
    with torch.no_grad():
        own = model.run_net(x)
        for _ in range(4):
            y = model(x)
            assert lab.equal(y, own)
            y.mul_(float("nan"))


def test_an_argument_that_is_changed_or_handed_back(lab: Any) -> None:
    class Filling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.armed = nn.Linear(8, 8), False

        def forward(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
            y = self.one(given["x"])
            if self.armed:
                given["y"] = y
            return given if self.armed else {"y": y}

    class Handing(Filling):
        def forward(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
            y = self.one(given["x"])
            if self.armed:
                given["x"] = y
            return given if self.armed else {"y": y}

    for kind in (Filling, Handing):
        model = lab.pack(kind(), {"given": {"x": rows()}})
        model.net.armed = True
        with torch.no_grad():
            for _ in range(5):
                given, twin = {"x": rows()}, {}
                twin.update(given)
                out = model(given)
                assert out is given and lab.equal(out, model.run_net(twin))


def test_an_input_changed_in_place(lab: Any) -> None:
    class Doing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.armed = nn.Linear(8, 8), False

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x.add_(1) if self.armed else x + 1)

    model = lab.pack(Doing(), rows())
    model.net.armed = True
    with torch.no_grad():
        for _ in range(5):
            x, y = rows(), rows()
            y.copy_(x)
            assert lab.equal(model(x), model.run_net(y)) and torch.equal(x, y)
    assert "an input is changed" in lab.programs(model).refusals()[0]


class Failure(BaseException):
    """Like an interrupt from the keyboard."""


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, Failure])
def test_a_forward_that_raises_leaves_nothing_behind(lab: Any, kind: type[BaseException]) -> None:
    armed = [False]

    def between(net: Any, h: Tensor) -> Tensor:
        if armed[0]:
            raise kind("on purpose")
        return h

    model = lab.pack(Body(between), rows())
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
    check(lab, model)
    assert lab.programs(model).steps()


def test_a_program_that_fails_gives_way(lab: Any) -> None:
    model = lab.pack(Body(), rows())
    program = lab.settle(model, rows())

    def broken(table: Any) -> None:
        raise RuntimeError("on purpose")

    program.steps[0] = broken
    check(lab, model)
    assert lab.programs(model).refusals() == ["it failed: RuntimeError: on purpose"]


def test_rules_that_fail_cost_nothing_but_the_program(lab: Any, monkeypatch: Any) -> None:
    from bitcompress.program import cache

    def broken(graph: Any, places: Any) -> None:
        raise KeyError("on purpose")

    monkeypatch.setattr(cache, "RULES", {"broken": broken})
    model = lab.pack(Body(), rows())
    check(lab, model)
    assert lab.programs(model).refusals() == ["no program: KeyError: 'on purpose'"]


def test_wrong_inputs_raise_what_the_model_raises(lab: Any) -> None:
    model = lab.pack(Pair(), rows())
    with torch.no_grad():
        for _ in range(4):
            model(rows(), torch.randint(0, 10, (6,)))
        with pytest.raises(IndexError):
            model(rows(), torch.full((6,), 77))
    check(lab, model, lambda: (rows(), torch.randint(0, 10, (6,))))


def test_many_threads_at_once(lab: Any) -> None:
    model = lab.pack(Body(lambda net, h: h.relu() * 2), rows(64, 8))
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
        check(lab, twin)
        assert lab.programs(twin).steps()
        with torch.no_grad():
            twin.net[2].bias.add_(1)
        check(lab, twin)
    check(lab, model.to("cpu"))
    assert not any(isinstance(f, Made) for f in lab.programs(copy.deepcopy(model)).found.values())


def test_a_model_within_a_model(lab: Any) -> None:
    inner = lab.pack(Body(lambda net, h: h.relu()), rows())
    outer = nn.Sequential(inner, nn.Linear(8, 8))
    check_of = lab.pack(outer, rows())
    check(lab, check_of)
    check(lab, inner)
    with torch.no_grad():
        x = rows()
        assert lab.equal(check_of.net[0](x), inner.run_net(x))
        assert lab.equal(check_of.net[1](x), check_of.net[1](x))
