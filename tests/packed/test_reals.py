"""Layer norm, GELU and sigmoid: near float64, and the same bits in the native kernels."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitcompress import native as native_module
from bitcompress.packed.gelu import define_gelu, gelu
from bitcompress.packed.norm import define_layer_norm, layer_norm
from bitcompress.packed.sigmoid import define_sigmoid, define_silu, sigmoid, silu

native = native_module.kernels()
quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
needs_native = pytest.mark.skipif(native is None, reason="no native kernels")

Map = Callable[[Tensor], Tensor]
MAPS: dict[str, tuple[Map, Map, Map, float]] = {
    "gelu": (define_gelu, gelu, F.gelu, 5e-7),
    "gelu by tanh": (
        lambda x: define_gelu(x, "tanh"),
        lambda x: gelu(x, "tanh"),
        lambda x: F.gelu(x, approximate="tanh"),
        5e-7,
    ),
    "sigmoid": (define_sigmoid, sigmoid, torch.sigmoid, 1.1e-7),
    "silu": (define_silu, silu, F.silu, 2e-7),
}
"""Definition, what is called, torch's own, and how far from that in float64 it may be."""
EDGES = torch.tensor(
    [0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, 3e38, -3e38, math.inf, -math.inf, math.nan, 5.6875,
     -5.6875, 5.625, -5.625, 87.3, -87.3, 1.0, -1.0]
)  # fmt: skip


def all_kinds_of_floats(step: int) -> Tensor:
    """Every step-th float32 of them all: subnormal, huge, infinite and NaN ones among them."""
    words = torch.arange(-(2**31), 2**31, step, dtype=torch.int64).to(torch.int32)
    return torch.cat([words.view(torch.float32), EDGES])


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal bit for bit; all NaN are alike."""
    bits = [torch.where(t.isnan(), 0, t.contiguous().view(torch.int32)) for t in (a, b)]
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(*bits)


@pytest.mark.parametrize("name", MAPS)
def test_maps_are_near_float64(name: str) -> None:
    definition, _, wanted, most = MAPS[name]
    x = torch.cat([torch.linspace(-8, 8, 2_000_001), all_kinds_of_floats(9973)])
    x = x[x.isfinite()]
    error = (definition(x).double() - wanted(x.double())).abs()
    if name == "silu":  # its one division is by a rounded number, also where x is large
        error = error / x.abs().clamp(min=1)
    assert float(error.max()) < most


@pytest.mark.parametrize("name", MAPS)
def test_maps_keep_nan_and_end_exactly(name: str) -> None:
    definition = MAPS[name][0]
    assert bool(definition(torch.tensor([math.nan, -math.nan])).isnan().all())
    large = torch.tensor([6.0, 88.0, 3e38, math.inf])
    if name == "sigmoid":
        assert definition(large[1:]).tolist() == [1.0] * 3
        assert bool((definition(-large[1:]) < 1e-37).all())
        assert definition(torch.zeros(1)).item() == 0.5
    else:
        first = 1 if name == "silu" else 0
        assert definition(large[first:]).tolist() == large[first:].tolist()
        assert definition(-large[first:]).abs().max() < (1e-35 if name == "silu" else 1e-45)
        tiny = torch.tensor([0.0, 1e-30, -1e-30])
        assert torch.allclose(definition(tiny), tiny / 2, rtol=1e-6, atol=0)


@needs_native
@pytest.mark.parametrize("name", MAPS)
def test_native_maps_are_the_same_bits(level: str, name: str) -> None:
    definition, entry, _, _ = MAPS[name]
    x = all_kinds_of_floats(4001)
    assert same_bits(entry(x), definition(x))


@needs_native
@quick
@given(n=st.integers(1, 200), threads=st.sampled_from([1, 3]), seed=st.integers(0, 99))
def test_native_maps_of_every_length(level: str, n: int, threads: int, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(n) * 4
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for definition, entry, _, _ in MAPS.values():
            assert same_bits(entry(x), definition(x))
    finally:
        torch.set_num_threads(before)


@needs_native
def test_maps_of_large_tensors_do_not_depend_on_threads() -> None:
    x = torch.randn(300_000) * 3
    before = torch.get_num_threads()
    for definition, entry, _, _ in MAPS.values():
        torch.set_num_threads(4)
        try:
            assert same_bits(entry(x), definition(x))
        finally:
            torch.set_num_threads(before)


LAYOUTS: dict[str, Map] = {
    "dense": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(1, 3),
    "sliced": lambda x: x[:, :, 1:, ::2],
    "expanded": lambda x: x[:, :1].expand(-1, 5, -1, -1),
    "empty": lambda x: x[:0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_maps_keep_the_layout_of_torch(layout: str) -> None:
    x = LAYOUTS[layout](torch.randn(2, 5, 6, 7))
    for definition, entry, theirs, _ in MAPS.values():
        got = entry(x)
        assert same_bits(got, definition(x))
        assert got.stride() == theirs(x).stride()
    eight = x.new_ones(x.shape[-1])
    assert same_bits(layer_norm(x, eight, None, 1e-5), define_layer_norm(x, eight, None, 1e-5))


@st.composite
def rows(draw: st.DrawFn) -> tuple[Tensor, Tensor | None, Tensor | None, float]:
    count, n = draw(st.integers(1, 9)), draw(st.integers(1, 200))
    torch.manual_seed(draw(st.integers(0, 9999)))
    x = torch.randn(count, n) * 10 ** draw(st.sampled_from([-40.0, -20.0, -3.0, 0.0, 3.0, 20.0]))
    x = x + draw(st.sampled_from([0.0, 1.0, -1e4]))
    if draw(st.booleans()):
        x[draw(st.integers(0, count - 1)), draw(st.integers(0, n - 1))] = draw(
            st.sampled_from([math.nan, math.inf, -math.inf, 3e38, 1e-42, -0.0])
        )
    gain = torch.randn(n) if draw(st.booleans()) else None
    shift = torch.randn(n) if draw(st.booleans()) else None
    return x, gain, shift, draw(st.sampled_from([1e-5, 1e-6, 0.1, 0.0]))


@needs_native
@quick
@given(case=rows())
def test_native_layer_norm_is_the_same_bits(
    level: str, case: tuple[Tensor, Tensor | None, Tensor | None, float]
) -> None:
    assert same_bits(layer_norm(*case), define_layer_norm(*case))


@needs_native
@pytest.mark.parametrize("n", [16, 60, 64, 128, 129, 180, 500, 513])
def test_native_layer_norm_of_many_rows(level: str, n: int) -> None:
    torch.manual_seed(n)
    x, gain, shift = torch.randn(700, n), torch.randn(n), torch.randn(n)
    wanted = define_layer_norm(x, gain, shift, 1e-5)
    for threads in (1, 3):
        out = torch.empty_like(x)
        assert native is not None
        native.layer_norm(x, gain, shift, 1e-5, out, threads)
        assert same_bits(out, wanted)
    native.layer_norm(x, gain, shift, 1e-5, x, 1)
    assert same_bits(x, wanted)


@quick
@given(case=rows())
def test_layer_norm_is_that_of_plain_numbers(
    case: tuple[Tensor, Tensor | None, Tensor | None, float],
) -> None:
    """The formula once more, number by number."""
    x, gain, shift, eps = case
    got = define_layer_norm(x, gain, shift, eps)
    for row, y in zip(x, got, strict=True):
        mean = sum_of(list(row)) / len(row)
        apart = [value - mean for value in row]
        variance = sum_of([d * d for d in apart]) / len(row)
        root = torch.tensor(math.sqrt(float(variance + eps))) if variance >= 0 else variance
        wanted = torch.stack([d * (1 / root) for d in apart])
        wanted = wanted if gain is None else wanted * gain
        assert same_bits(wanted if shift is None else wanted + shift, y)


def sum_of(values: list[Tensor]) -> Tensor:
    lanes = [torch.zeros(()) for _ in range(16)]
    for i, value in enumerate(values):
        lanes[i % 16] = lanes[i % 16] + value
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [low + high for low, high in zip(lanes[:half], lanes[half:], strict=True)]
    return lanes[0]


@pytest.mark.parametrize("n", [1, 7, 60, 180, 500])
def test_layer_norm_is_near_torch(n: int) -> None:
    torch.manual_seed(n)
    x, gain, shift = torch.randn(40, n) * 3 + 1, torch.randn(n), torch.randn(n)
    wanted = F.layer_norm(x.double(), (n,), gain.double(), shift.double(), 1e-5)
    error = (define_layer_norm(x, gain, shift, 1e-5).double() - wanted).abs()
    assert float((error / (1 + wanted.abs())).max()) < 2e-6


@needs_native
def test_refusals() -> None:
    assert native is not None
    x, out, three = torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(3)
    for call in (
        lambda: native.layer_norm(x, three, None, 1e-5, out),
        lambda: native.layer_norm(x, None, three, 1e-5, out),
        lambda: native.layer_norm(x, None, None, 1e-5, torch.zeros(4, 2)),
        lambda: native.layer_norm(x, None, None, 1e-5, out, 0),
        lambda: native.layer_norm(x.t(), None, None, 1e-5, out.t()),
        lambda: native.gelu(three, False, torch.zeros(4)),
        lambda: native.gelu(x, False, out),
        lambda: native.sigmoid(three, three, 0),
    ):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(TypeError):
        native.gelu(three.double(), False, three)
