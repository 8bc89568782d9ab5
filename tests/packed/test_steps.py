"""Chains of steps inside a layer's run and alone give the bits of their definitions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitcompress import native
from bitcompress.errors import ShapeError, UsageError
from bitcompress.packed import ops
from bitcompress.packed.steps import Step, apply, bind, shuffled, to_codes

needs_native = pytest.mark.skipif(native.kernels() is None, reason="no native kernels")
quick = settings(deadline=None, max_examples=80, derandomize=True)
Grid = tuple[Tensor, Tensor, Tensor]


def some_operand(draw: st.DrawFn, shape: tuple[int, ...]) -> Tensor | float:
    """A number, a vector, one a row, one an element, dense or a slice of something wider."""
    c = shape[-1]
    forms = ["number", "one", "vector", "row", "each", "slice", "planes", "sample", "scale"]
    form = draw(st.sampled_from(forms))
    if form == "number":
        return draw(st.floats(-2, 2, width=32))
    if form == "one":
        return torch.randn(1)
    if form == "vector":
        return torch.randn(c)
    if form == "row":
        return torch.randn(*shape[:-1], 1)
    if form in ("sample", "scale") and len(shape) > 2:  # one for each picture
        return torch.randn(shape[0], *[1] * (len(shape) - 2), c if form == "sample" else 1)
    if form == "planes":  # the channels first, of one image
        first = len(shape) > 2 and shape[0] == 1
        return torch.randn(1, c, *shape[1:-1]).movedim(1, -1) if first else torch.randn(c)
    return (
        torch.randn(*shape[:-1], c + 3)[..., 1 : c + 1] if form == "slice" else torch.randn(shape)
    )


def some_steps(draw: st.DrawFn, shape: tuple[int, ...]) -> list[Step]:
    plain = ["relu", "gelu", "gelu_tanh", "sigmoid", "silu"]
    kinds = st.sampled_from(
        ["add", "mul", "sub", "leaky", "prelu", "mul_add", "norm", "store", *plain]
    )
    chain = []
    for kind in draw(st.lists(kinds, max_size=4)):
        if kind == "store":
            wide = draw(st.integers(0, 2))
            chain.append(
                Step(kind, out=torch.full((*shape[:-1], shape[-1] + wide), 7.0)[..., wide:])
            )
        elif kind == "norm":
            gain, shift = (torch.randn(shape[-1]) if draw(st.booleans()) else None for _ in "gs")
            chain.append(Step(kind, gain, shift, eps=1e-5))
        else:
            shift = torch.randn(shape[-1]) if kind == "mul_add" else None
            operand = None if kind in plain else some_operand(draw, shape)
            chain.append(Step(kind, operand, shift))
    return chain


def some_grid(draw: st.DrawFn, channels: int) -> Grid:
    n = draw(st.sampled_from([1, channels]))
    bits = torch.randint(1, 9, (n,)) if draw(st.booleans()) else torch.full((n,), 2)
    top = (1 << bits).float() - 1
    if draw(st.booleans()):  # steps, of all channels or of some
        where = torch.rand(n) < draw(st.sampled_from([1.0, 0.5]))
        return torch.where(where, 0.0, torch.rand(n) + 0.1), torch.randn(n) * 0.3, top
    return (torch.rand(n) * 6 + 0.5) / top, -torch.rand(n) * 4, top


def outputs(steps: list[Step]) -> list[Tensor]:
    """What the stores of a chain hold, cleared."""
    found = []
    for step in steps:
        if step.out is not None:
            found.append(step.out.clone())
            step.out.fill_(7.0)
    return found


def same(a: Tensor, b: Tensor) -> bool:
    """Equal bits, one NaN being like another."""
    return torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) and torch.equal(a != a, b != b)


@needs_native
@quick
@given(data=st.data(), rows=st.integers(1, 90), c=st.integers(1, 70), 
       threads=st.sampled_from([1, 3]), seed=st.integers(0, 9999))  # fmt: skip
def test_rows_through_a_chain(
    level: str, data: Any, rows: int, c: int, threads: int, seed: int
) -> None:
    torch.manual_seed(seed)
    kernels, wide = native.kernels(), data.draw(st.integers(0, 3))
    x = torch.randn(rows, c + wide)[:, wide:] * 3
    if data.draw(st.booleans()):
        x[0, 0] = float("nan")
    steps = some_steps(data.draw, (rows, c))
    wanted = apply(steps, x)
    stored = outputs(steps)
    chain = bind(kernels, steps, (rows, c))
    out = torch.zeros(rows, c + wide)[:, wide:]
    kernels.Rows(chain, x, out)(threads)
    assert same(out, wanted)
    assert all(same(a, b) for a, b in zip(outputs(steps), stored, strict=True))
    grid = some_grid(data.draw, c)
    codes = torch.full((rows, c + wide), 99, dtype=torch.uint8)
    run = kernels.Rows(chain, x, codes[:, wide:], grid)
    run(threads)
    assert torch.equal(codes[:, wide:], to_codes(wanted, *grid))
    assert (codes[:, :wide] == 99).all()


def layer_of(draw: st.DrawFn) -> tuple[Any, Any, tuple[int, int, int]]:
    """A native layer, the function that it is on codes, and its channels, filters, taps."""
    kernels = native.kernels()
    groups, each, filters = draw(
        st.sampled_from([(1, 7, 5), (1, 32, 64), (1, 20, 60), (1, 33, 48), (3, 5, 4), (20, 1, 1)])
    )
    kernel = draw(st.sampled_from([(1, 1), (1, 1), (3, 3), (2, 3)]))
    bits, w_bits = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    plain = kernel == (1, 1)
    stride = (1, 1) if plain else (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    padding = (0, 0) if plain else (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    channels, all_filters = groups * each, groups * filters
    w = torch.randint(0, 1 << w_bits, (all_filters, each, *kernel), dtype=torch.uint8)
    stretched = draw(st.booleans())
    cut = (torch.rand(channels if stretched else 1) + 0.5) * 4 / ((1 << bits) - 1)
    low = -torch.rand(channels if stretched else 1) * 3
    if draw(st.booleans()):  # steps, of all channels or of some
        where = torch.rand(len(cut)) < draw(st.sampled_from([1.0, 0.5]))
        cut, low = torch.where(where, 0.0, cut), torch.where(where, low + 1.5, low)
    x_grid = torch.tensor([4 / ((1 << bits) - 1)]), torch.tensor([-2.0])
    symmetric = draw(st.booleans())
    w_grid = torch.rand(all_filters) * 0.1 + 0.01, -torch.rand(all_filters)
    if symmetric:
        w_grid = w_grid[0], torch.zeros(all_filters)
    bias = torch.randn(all_filters) if draw(st.booleans()) else None
    made = kernels.Layer(
        w.permute(0, 2, 3, 1).contiguous(), cut, low, bits, *x_grid, w_bits, *w_grid, bias,
        stride, padding, (1, 1), groups,
    )  # fmt: skip

    def on_codes(codes: Tensor) -> Tensor:
        return ops.conv2d_reals(
            codes, w, (bits, w_bits), x_grid, w_grid, bias, stride, padding, (1, 1), groups
        ).permute(0, 2, 3, 1)

    def cut_of(x: Tensor) -> Tensor:
        return ops.encode(x, cut, low, bits)

    return made, (cut_of, on_codes, bits), (channels, all_filters, kernel[0] * kernel[1])


@needs_native
@quick
@given(data=st.data(), threads=st.sampled_from([1, 3]), seed=st.integers(0, 9999))
def test_a_run_of_a_layer_is_its_parts(level: str, data: Any, threads: int, seed: int) -> None:
    torch.manual_seed(seed)
    draw, kernels = data.draw, native.kernels()
    made, (cut, on_codes, bits), (channels, filters, _) = layer_of(draw)
    images, h, w = draw(st.integers(1, 2)), draw(st.integers(3, 12)), draw(st.integers(3, 60))
    wide = draw(st.integers(0, 2))
    if draw(st.booleans()):
        x = torch.randint(0, 1 << bits, (images, h, w, channels + wide), dtype=torch.uint8)[
            ..., wide:
        ]
        head: list[Step] = []
        codes = x.contiguous()
    else:
        x = torch.randn(images, h, w, channels + wide)[..., wide:] * 2
        head = some_steps(draw, tuple(x.shape))
        codes = cut(apply(head, x).contiguous())
    reals = on_codes(codes)
    tail = some_steps(draw, tuple(reals.shape))
    wanted = apply(tail, reals)
    stored = outputs(head) + outputs(tail)
    ends = st.sampled_from(["reals", "first", "codes", "shuffle", "stored"])
    kind, grid, shuffle = draw(ends), None, 1
    head_chain, tail_chain = bind(kernels, head, x.shape), bind(kernels, tail, reals.shape)
    out: Tensor | None = torch.zeros(*wanted.shape[:-1], filters + wide)[..., wide:]
    if kind == "first":
        out, wanted = torch.zeros(wanted.movedim(-1, 1).shape), wanted.movedim(-1, 1)
    elif kind == "codes":
        grid = some_grid(draw, filters)
        wanted = to_codes(wanted, *grid)
        out = torch.zeros(*wanted.shape[:-1], filters + wide, dtype=torch.uint8)[..., wide:]
    elif kind == "shuffle" and filters % 4 == 0:
        shuffle, wanted = 2, shuffled(wanted, 2)
        out = torch.zeros(*wanted.shape[:-1], filters // 4 + wide)[..., wide:]
    elif kind == "stored" and any(step.kind == "store" for step in tail):
        out = None
    run = kernels.LayerRun(
        made, x, out, head_chain, tail_chain, grid, out_first=kind == "first", shuffle=shuffle
    )
    run(threads)
    assert out is None or torch.equal(out, wanted)
    assert all(same(a, b) for a, b in zip(outputs(head) + outputs(tail), stored, strict=True))


@needs_native
@quick
@given(data=st.data(), rows=st.integers(1, 700), threads=st.sampled_from([1, 3]))
def test_a_linear_from_codes_to_codes(level: str, data: Any, rows: int, threads: int) -> None:
    torch.manual_seed(rows)
    kernels = native.kernels()
    k, n, bits = data.draw(st.integers(1, 130)), data.draw(st.integers(1, 140)), 2
    w = torch.randint(0, 4, (n, k, 1, 1), dtype=torch.uint8)
    x_grid = torch.tensor([0.7]), torch.tensor([-1.0])
    w_grid = torch.rand(n) * 0.1 + 0.01, -torch.rand(n) * 0.2
    bias = torch.randn(n)
    made = kernels.Layer(
        w.permute(0, 2, 3, 1).contiguous(), *x_grid, bits, *x_grid, 2, *w_grid, bias
    )
    x = torch.randint(0, 4, (rows, k), dtype=torch.uint8)
    reals = ops.conv2d_reals(
        x[None, None], w, (2, 2), x_grid, w_grid, bias, (1, 1), (0, 0), (1, 1), 1
    ).permute(0, 2, 3, 1)[0, 0]
    grid = some_grid(data.draw, n)
    out = torch.zeros(rows, n, dtype=torch.uint8)
    made.run(x, out, grid=grid, threads=threads)
    assert torch.equal(out, to_codes(reals, *grid))


def test_an_addend_may_be_the_output() -> None:
    if native.kernels() is None:
        pytest.skip("no native kernels")
    kernels = native.kernels()
    x, out = torch.randn(50, 20), torch.randn(50, 20)
    steps = [Step("add", 1.0), Step("add", out), Step("relu")]
    wanted = apply(steps, x)
    kernels.Rows(bind(kernels, steps, x.shape), x, out)()
    assert torch.equal(out, wanted)


@needs_native
def test_what_does_not_fit_is_refused() -> None:
    kernels = native.kernels()
    x, out = torch.randn(5, 4), torch.zeros(5, 4)
    for steps in ([Step("add", torch.ones(6, 4))], [Step("add", torch.ones(3))]):
        with pytest.raises(ShapeError):
            bind(kernels, steps, x.shape)
    with pytest.raises(ShapeError):
        bind(kernels, [Step("add", torch.ones(5, 2, 3).mT)], (5, 3, 4))
    chain = bind(kernels, [Step("add", torch.ones(6, 4))], (6, 4))
    with pytest.raises(ValueError, match="rows and channels"):
        kernels.Rows(chain, x, out)
    empty = bind(kernels, [], x.shape)
    grid = torch.ones(1), torch.zeros(1), torch.tensor([0.5])
    codes = torch.zeros(5, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="."):
        kernels.Rows(empty, x, codes, grid)()
    with pytest.raises(ValueError, match="grid"):
        kernels.Rows(empty, x, codes, (torch.ones(3), torch.ones(3), torch.ones(3)))
    with pytest.raises(TypeError):
        kernels.Rows(empty, x, codes)
    with pytest.raises(ValueError, match="."):
        kernels.Rows(empty, x, None)()
    with pytest.raises(ValueError, match="contiguous"):
        kernels.Rows(empty, torch.randn(4, 5).T, out)


def test_steps_say_what_they_are() -> None:
    for wrong in ({"kind": "tanh"}, {"kind": "add"}, {"kind": "store"},
                  {"kind": "relu", "operand": 1.0},
                  {"kind": "relu", "out": torch.ones(1)}):  # fmt: skip
        with pytest.raises(UsageError):
            Step(**wrong)


def test_by_hand() -> None:
    x = torch.tensor([[1.0, -2.0], [3.0, -0.5]])
    held = torch.empty(2, 2)
    steps = [Step("add", 1.0), Step("store", out=held), Step("leaky", torch.tensor([0.5, 0.25])),
             Step("mul", torch.tensor([[2.0], [4.0]])), Step("sub", 1.0)]  # fmt: skip
    assert apply(steps, x).tolist() == [[3.0, -1.5], [15.0, 1.0]]
    assert held.tolist() == [[2.0, -1.0], [4.0, 0.5]]
    grid = torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([3.0])
    assert to_codes(torch.tensor([[-1.0, 0.5, 1.5, 9.0, float("nan")]]), *grid).tolist() == [
        [0, 0, 2, 3, 0]
    ]
    pixels = torch.arange(8.0).reshape(1, 1, 2, 4)
    assert shuffled(pixels, 2).flatten(1).tolist() == [[0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]]
