"""The packed operators of one bit: integers are those of a plain loop, on every path."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitcompress.errors import ShapeError
from bitcompress.packed.binary import (
    Look,
    TailStep,
    binary_conv2d,
    bits_of,
    leaky,
    run_tail,
    scaled_sums,
    sign_sums,
    word_sums,
)
from bitcompress.packed.stored import pack

quick = settings(deadline=None, max_examples=120, derandomize=True)


def naive(bits: Tensor, w: Tensor, look: Look) -> np.ndarray:
    """Sums of signs by loops over taps: an exclusive or and a count, as the contract has it."""
    n, c, height, width = bits.shape
    o, per, kh, kw = w.shape
    (sy, sx), (py, px), (dy, dx) = look.stride, look.padding, look.dilation
    oh = (height + 2 * py - dy * (kh - 1) - 1) // sy + 1
    ow = (width + 2 * px - dx * (kw - 1) - 1) // sx + 1
    a, b = bits.numpy().astype(int), w.numpy().astype(int)
    out = np.zeros((n, o, oh, ow), int)
    for i in range(o):
        group = i // (o // look.groups)
        for y in range(oh):
            for x in range(ow):
                for u in range(kh):
                    for v in range(kw):
                        yy, xx = y * sy - py + u * dy, x * sx - px + v * dx
                        inside = 0 <= yy < height and 0 <= xx < width
                        if not inside and look.pad_value == 0:
                            continue
                        seen = np.full((n, per), int(look.pad_value > 0))
                        if inside:
                            seen = a[:, group * per : (group + 1) * per, yy, xx]
                        out[:, i, y, x] += per - 2 * (seen ^ b[i, :, u, v]).sum(1)
    return out


@st.composite
def layers(draw: st.DrawFn) -> tuple[Tensor, Tensor, Look]:
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    per = draw(st.sampled_from([1, 3, 31, 32, 33, 64, 65, 130]))
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    look = Look(
        (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        (draw(st.integers(0, 3)), draw(st.integers(0, 3))),
        (draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        groups, draw(st.sampled_from([0, 0, 1, -1])),
    )  # fmt: skip
    spans = [look.dilation[i] * (kernel[i] - 1) + 1 - 2 * look.padding[i] for i in range(2)]
    size = [max(span, 1) + draw(st.integers(0, 3)) for span in spans]
    bits = torch.randint(0, 2, (draw(st.integers(1, 2)), per * groups, *size), dtype=torch.uint8)
    filters = groups * draw(st.integers(1, 3))
    return bits, torch.randint(0, 2, (filters, per, *kernel), dtype=torch.uint8), look


@quick
@given(layers())
def test_sums_are_those_of_a_plain_loop(layer: tuple[Tensor, Tensor, Look]) -> None:
    bits, w, look = layer
    wanted = torch.from_numpy(naive(bits, w, look))
    assert torch.equal(sign_sums(bits, w, look).long(), wanted)
    scale = torch.randn(len(w))
    real = (wanted.double() * scale.double().view(1, -1, 1, 1)).float()
    assert torch.equal(scaled_sums(bits, w, scale, look), real)


def test_borders_differ_by_what_stands_outside_and_the_inside_does_not() -> None:
    bits = torch.randint(0, 2, (1, 8, 6, 6), dtype=torch.uint8)
    w = torch.randint(0, 2, (4, 8, 3, 3), dtype=torch.uint8)
    zero, plus, minus = (
        sign_sums(bits, w, Look(padding=(1, 1), pad_value=value)) for value in (0, 1, -1)
    )
    inside = (..., slice(1, -1), slice(1, -1))
    assert torch.equal(zero[inside], plus[inside]) and torch.equal(zero[inside], minus[inside])
    assert not torch.equal(zero, plus) and not torch.equal(zero, minus)
    assert torch.equal(2 * zero, plus + minus), "a true zero lies halfway"


def test_bits_compare_raw_numbers() -> None:
    x = torch.tensor([0.0, -0.0, 1.0, float("nan"), float("inf"), -1e-45])
    assert bits_of(x, torch.zeros(())).tolist() == [1, 1, 1, 0, 1, 0]
    assert bits_of(x, torch.ones(())).tolist() == [0, 0, 1, 0, 1, 0]


def test_words_have_their_own_scale(arithmetic: str) -> None:
    bits = torch.randint(0, 2, (2, 70, 5, 4), dtype=torch.uint8)
    w = torch.randint(0, 2, (3, 70, 3, 3), dtype=torch.uint8)
    scale, words, look = torch.randn(3), torch.rand(2, 3), Look(padding=(1, 1))
    total = torch.zeros(2, 3, 5, 4)
    for number, (first, last) in enumerate([(0, 32), (32, 64), (64, 70)]):
        part = torch.from_numpy(naive(bits[:, first:last], w[:, first:last], look)).float()
        term = part * words[:, number].view(2, 1, 1, 1)
        total = term if number == 0 else total + term
    assert torch.equal(word_sums(bits, w, scale, words, look), total * scale.view(1, 3, 1, 1))


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("samples", [1, 2])
def test_the_operator_cuts_sums_and_scales(order: torch.memory_format, samples: int) -> None:
    x = torch.randn(2, 40, 6, 5).contiguous(memory_format=order)
    theta, w = torch.randn(samples, 40), torch.randint(0, 2, (7, 40, 3, 3), dtype=torch.uint8)
    scale, look = torch.randn(7), Look((2, 1), (1, 1))
    y = binary_conv2d(
        x, theta, None, pack(w, 1), w.shape, scale, look.stride, look.padding, look.dilation, 1, 0
    )
    wanted = naive((x >= theta[:, :, None, None]).to(torch.uint8), w, look)
    real = torch.from_numpy(wanted).double() * scale.double().view(1, -1, 1, 1)
    assert torch.equal(y, real.float())
    assert y.is_contiguous(memory_format=order)


def test_the_operator_is_well_formed() -> None:
    w = torch.randint(0, 2, (6, 4, 3, 3), dtype=torch.uint8)
    args = (
        torch.randn(2, 8, 6, 5), torch.randn(1, 8), None, pack(w, 1), list(w.shape),
        torch.randn(6), [2, 1], [1, 1], [1, 1], 2, 0,
    )  # fmt: skip
    torch.library.opcheck(binary_conv2d, args)
    with pytest.raises(ShapeError, match="takes"):
        binary_conv2d(torch.randn(2, 9, 6, 5), *args[1:])


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_leaky_has_the_bits_of_its_definition(low: float) -> None:
    z = torch.randn(2, 3, 40, 5)
    z[0, :, ::3], z[1, :, ::3] = 0.0, -0.0
    z[0, 0, 1, :3] = torch.tensor([float("nan"), float("inf"), float("-inf")])
    slope = (torch.rand(3) + low).view(3, 1, 1)
    got, wanted = leaky(z, slope), torch.where(z < 0, z * slope, z)
    assert torch.equal(got.view(torch.int32), wanted.view(torch.int32))


def test_a_tail_runs_in_order() -> None:
    z, x = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    rows = torch.randn(4, 2, 3)
    index = torch.tensor([1, 0])
    kinds = ["add", "mul", "leaky", "add"]
    steps = [TailStep(kind, rows[i]) for i, kind in enumerate(kinds)]
    got = run_tail(z, [*steps[:2], TailStep("shortcut"), *steps[2:]], 1, index, x)
    for n in range(2):
        a, m, s, b = (rows[i, index[n]].view(3, 1, 1) for i in range(4))
        v = (z[n] + a) * m + x[n]
        assert torch.equal(got[n], torch.where(v < 0, v * s, v) + b)
    with pytest.raises(ShapeError, match="a step of a tail"):
        run_tail(z, [TailStep("exp", rows[0])], 1, index, None)
