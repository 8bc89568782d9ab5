"""The native module stores, encodes and counts exactly as its definitions in torch and NumPy do.

The definitions are written down again here from the words of csrc/include/bitcompress/bits.h, so
that they are an independent truth. The exact sums of codes are in test_native_sums.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitcompress.packed import ops
from bitcompress.quant.spec import codes_of

if os.environ.get("BITCOMPRESS_NATIVE", "").lower() == "off":
    pytest.skip("the native module is switched off", allow_module_level=True)
native: ModuleType = pytest.importorskip("bitcompress._native")

LEVELS = native.isa_levels()
quick = settings(deadline=None, max_examples=40, derandomize=True)


def codes(shape: tuple[int, ...], bits: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2**bits, shape, generator=generator, dtype=torch.uint8)


# ---- Instruction sets ---------------------------------------------------------------------------


def test_levels_end_with_the_one_in_use() -> None:
    assert LEVELS[0] == "scalar"
    with pytest.raises(ValueError, match="instruction set"):
        native.set_isa("avx1024")


@pytest.mark.parametrize("wish", [*LEVELS, "nonsense"])
def test_environment_chooses_the_level(wish: str) -> None:
    program = "from bitcompress import _native; print(_native.isa())"
    environment = {**os.environ, "BITCOMPRESS_ISA": wish}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == (wish if wish in LEVELS else LEVELS[-1])


# ---- Stored form --------------------------------------------------------------------------------


def packed_by_definition(values: np.ndarray, bits: int) -> np.ndarray:
    if bits in (1, 2, 4, 8):
        planes = [(values >> j) & 1 for j in range(bits)]
        return np.packbits(np.stack(planes, axis=1).reshape(-1), bitorder="little")
    return np.concatenate([np.packbits((values >> j) & 1, bitorder="little") for j in range(bits)])


@quick
@given(bits=st.integers(1, 8), n=st.integers(0, 200), seed=st.integers(0, 999))
def test_pack_is_the_definition_and_comes_back(bits: int, n: int, seed: int) -> None:
    values = codes((n,), bits, seed)
    packed = torch.full((native.packed_bytes(n, bits),), 255, dtype=torch.uint8)
    native.pack(values, bits, packed)
    np.testing.assert_array_equal(packed.numpy(), packed_by_definition(values.numpy(), bits))
    back = torch.full_like(values, 255)
    native.unpack(packed, bits, n, back)
    assert torch.equal(back, values)


@pytest.mark.parametrize(
    ("bits", "values", "stored"),
    [
        (1, [1, 0, 1, 1, 0, 0, 0, 0, 1], [0b00001101, 0b1]),
        (2, [3, 0, 2, 1, 1], [0b01100011, 0b01]),
        (3, [1, 2, 4, 7], [0b1001, 0b1010, 0b1100]),
        (4, [10, 3, 15], [0x3A, 0x0F]),
        (8, [0, 255], [0, 255]),
    ],
)
def test_golden_bytes(bits: int, values: list[int], stored: list[int]) -> None:
    out = np.zeros(len(stored), np.uint8)
    native.pack(np.array(values, np.uint8), bits, out)
    assert out.tolist() == stored


@pytest.mark.parametrize("bits", range(1, 9))
def test_long_tensors_pack_the_same_on_many_threads(bits: int) -> None:
    values = codes((300_001,), bits)
    alone, together = (
        torch.empty(native.packed_bytes(300_001, bits), dtype=torch.uint8) for _ in "ab"
    )
    native.pack(values, bits, alone, threads=1)
    native.pack(values, bits, together, threads=4)
    assert torch.equal(alone, together)
    back = torch.empty_like(values)
    native.unpack(together, bits, 300_001, back, threads=4)
    assert torch.equal(back, values)


SPARE = {1: [0xF8], 2: [0xC0], 4: [0x00, 0xF0], **{bits: [0xF8] * bits for bits in (3, 5, 6, 7)}}


@pytest.mark.parametrize("bits", SPARE)
def test_unpack_ignores_the_spare_bits(bits: int) -> None:
    values = codes((3,), bits)
    packed = torch.empty(native.packed_bytes(3, bits), dtype=torch.uint8)
    native.pack(values, bits, packed)
    back = torch.empty_like(values)
    native.unpack(packed | torch.tensor(SPARE[bits], dtype=torch.uint8), bits, 3, back)
    assert torch.equal(back, values)


# ---- Reals and codes ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """A tensor with a scale and offset for each group."""

    x: Tensor
    scale: Tensor
    offset: Tensor
    bits: int

    @property
    def codes(self) -> Tensor:
        scale, offset = self.scale[None, :, None], self.offset[None, :, None]
        return torch.clamp(torch.round((self.x - offset) / scale), 0, 2**self.bits - 1)


any_real = st.floats(width=32, allow_nan=True, allow_infinity=True)
positive = st.floats(2.0**-100, 2.0**60, width=32)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    outer, groups, inner = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 5)),
        draw(st.integers(1, 37)),
    )
    size = outer * groups * inner
    bits = draw(st.integers(1, 8))
    scale = torch.tensor(draw(st.lists(positive, min_size=groups, max_size=groups)))
    offset = torch.tensor(
        draw(st.lists(st.floats(-1e6, 1e6, width=32), min_size=groups, max_size=groups))
    )
    wild = draw(st.lists(any_real, min_size=1, max_size=12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    # Points of the grid, the middles between them (where rounding is decided), and wild values.
    steps = torch.randint(-4, 2 * 2**bits + 4, (outer, groups, inner), generator=generator) * 0.5
    x = (offset[None, :, None] + steps * scale[None, :, None]).to(torch.float32)
    places = torch.randint(0, size, (len(wild),), generator=generator)
    x.view(-1)[places] = torch.tensor(wild, dtype=torch.float32)
    return Grid(x.contiguous(), scale, offset, bits)


@quick
@given(grid=grids())
def test_encode_is_torch_bit_for_bit(level: str, grid: Grid) -> None:
    out = torch.empty(grid.x.shape, dtype=torch.uint8)
    native.encode(grid.x, grid.scale, grid.offset, grid.bits, out)
    assert torch.equal(out, torch.nan_to_num(grid.codes, nan=0.0).to(torch.uint8))


@quick
@given(grid=grids(), data=st.data())
def test_a_scale_of_0_is_a_step(level: str, grid: Grid, data: st.DataObject) -> None:
    """Its code is x >= offset: for the offset itself, for -0 at 0, and never for a NaN."""
    steps = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(grid.scale),
                                            max_size=len(grid.scale))))  # fmt: skip
    at_zero = data.draw(st.booleans())
    scale = torch.where(steps, 0.0, grid.scale)
    offset = torch.zeros_like(grid.offset) if at_zero else grid.offset
    x = torch.where(grid.x == 0, -0.0, grid.x) if at_zero else grid.x
    out = torch.empty(x.shape, dtype=torch.uint8)
    native.encode(x, scale, offset, grid.bits, out)
    rounded = torch.nan_to_num(replace(grid, x=x, offset=offset).codes, nan=0.0).to(torch.uint8)
    above = (x.numpy() >= offset[None, :, None].numpy()).astype(np.uint8)
    assert torch.equal(out, torch.where(steps[None, :, None], torch.from_numpy(above), rounded))
    assert torch.equal(out, ops.encode(x, scale[:, None], offset[:, None], grid.bits))
    with torch.no_grad():
        defined = codes_of(x, scale[:, None], offset[:, None], 2**grid.bits - 1)
    assert torch.equal(out, defined.to(torch.uint8))


@quick
@given(grid=grids())
def test_fake_quantize_is_torch_bit_for_bit(level: str, grid: Grid) -> None:
    out = torch.empty_like(grid.x)
    native.fake_quantize(grid.x, grid.scale, grid.offset, grid.bits, out)
    real = grid.codes * grid.scale[None, :, None] + grid.offset[None, :, None]
    torch.testing.assert_close(out, real, rtol=0, atol=0, equal_nan=True)


def test_encode_of_every_kind_of_float(level: str) -> None:
    x = torch.arange(-(2**31), 2**31, 40_009, dtype=torch.int64).to(torch.int32).view(torch.float32)
    scale, offset = torch.tensor([0.37]), torch.tensor([-1.3])
    grid = Grid(x.view(1, 1, -1), scale, offset, 8)
    out = torch.empty(1, 1, x.numel(), dtype=torch.uint8)
    native.encode(grid.x, scale, offset, 8, out, threads=2)
    assert torch.equal(out, torch.nan_to_num(grid.codes, nan=0.0).to(torch.uint8))


def test_fake_quantize_in_place(level: str) -> None:
    grid = Grid(torch.randn(2, 3, 100), torch.rand(3) + 0.1, -torch.rand(3), 3)
    x = grid.x.clone()
    native.fake_quantize(x, grid.scale, grid.offset, 3, x)
    assert torch.equal(x, grid.codes * grid.scale[:, None] + grid.offset[:, None])


def gradients(x: Tensor, grad: Tensor, lo: Tensor, hi: Tensor, bits: int) -> tuple[Tensor, ...]:
    """2DQuant's straight-through gradients in float64, on the codes that float32 gives."""
    top = 2**bits - 1
    low, high = lo[None, :, None], hi[None, :, None]
    code = torch.clamp(torch.round((x - low) / ((high - low) / top)), 0, top).double()
    inside = ((x >= low) & (x <= high)).double()
    where = code / top - (x - low).double() / (high - low).double()
    upper = (x > high).double() + inside * where
    lower = (x < low).double() - inside * where
    grad64 = grad.double()
    return grad64 * inside, (grad64 * lower).sum((0, 2)), (grad64 * upper).sum((0, 2))


SHAPES = [
    (1, 1, 1),
    (1, 1, 70_001),
    (3, 5, 67),
    (7, 4, 9),
    (300, 24, 1),
    (5, 1, 33),
    (2, 3, 40_000),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [1, 2, 8])
def test_backward_is_the_formula(level: str, shape: tuple[int, int, int], bits: int) -> None:
    x, grad = torch.randn(shape), torch.randn(shape)
    groups = shape[1]
    lo, hi = -0.5 - torch.rand(groups), 0.5 + torch.rand(groups)
    x[0, 0, 0] = lo[0]  # the bounds themselves are inside
    grad_x, grad_lo, grad_hi = torch.empty_like(x), torch.empty(groups), torch.empty(groups)
    native.fake_quantize_backward(x, grad, lo, hi, bits, grad_x, grad_lo, grad_hi)
    truth_x, truth_lo, truth_hi = gradients(x, grad, lo, hi, bits)
    assert torch.equal(grad_x.double(), truth_x)
    scale = grad.abs().double().sum((0, 2))
    assert ((grad_lo - truth_lo).abs() <= 2e-7 * scale + 1e-7).all()
    assert ((grad_hi - truth_hi).abs() <= 2e-7 * scale + 1e-7).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_backward_gives_the_same_bits_on_all_threads_and_levels(
    shape: tuple[int, int, int],
) -> None:
    x, grad, groups = torch.randn(shape), torch.randn(shape), shape[1]
    lo, hi = torch.full((groups,), -0.7), torch.full((groups,), 0.9)
    results = []
    for isa in LEVELS:
        native.set_isa(isa)
        for threads in (1, 2, 5):
            out = [torch.empty_like(x), torch.empty(groups), torch.empty(groups)]
            native.fake_quantize_backward(x, grad, lo, hi, 4, *out, threads=threads)
            results.append(out)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_backward_of_wild_values_outside() -> None:
    x = torch.tensor([float("inf"), float("-inf"), float("nan"), 0.5]).view(1, 1, 4)
    grad = torch.tensor([2.0, 3.0, 5.0, 7.0]).view(1, 1, 4)
    out = [torch.empty(1, 1, 4), torch.empty(1), torch.empty(1)]
    native.fake_quantize_backward(x, grad, torch.zeros(1), torch.ones(1), 1, *out)
    assert out[0].view(-1).tolist() == [0, 0, 0, 7]
    # 0.5 is half way: code 0 (even), r/n - t = -0.5
    assert out[1].item() == 3 + 3.5
    assert out[2].item() == 2 - 3.5


# ---- Statistics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_minmax_is_amin_and_amax(level: str, shape: tuple[int, int, int]) -> None:
    x = torch.randn(shape)
    lo, hi = torch.empty(shape[1]), torch.empty(shape[1])
    native.minmax(x, lo, hi, threads=3)
    assert torch.equal(lo, x.amin((0, 2)))
    assert torch.equal(hi, x.amax((0, 2)))


@pytest.mark.parametrize("place", [0, 15, 16, 40, 99])
def test_minmax_passes_nan_on(level: str, place: int) -> None:
    x = torch.randn(1, 2, 100)
    x[0, 1, place] = float("nan")
    lo, hi = torch.empty(2), torch.empty(2)
    native.minmax(x, lo, hi)
    assert lo.isnan().tolist() == [False, True]
    assert hi.isnan().tolist() == [False, True]


def test_minmax_of_infinities(level: str) -> None:
    x = torch.tensor([float("inf")] * 20 + [float("-inf")]).view(1, 1, 21)
    lo, hi = torch.empty(1), torch.empty(1)
    native.minmax(x, lo, hi)
    assert (lo.item(), hi.item()) == (float("-inf"), float("inf"))


def bins_by_definition(x: Tensor, lo: Tensor, hi: Tensor, bins: int) -> Tensor:
    place = torch.floor((x - lo[None, :, None]) / (hi - lo)[None, :, None] * bins)
    place = torch.nan_to_num(place.clamp(0, bins - 1), nan=0.0).long()
    return torch.stack(
        [torch.bincount(place[:, g].reshape(-1), minlength=bins) for g in range(len(lo))]
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bins", [1, 7, 2048, 5000])
def test_histogram_is_the_definition(level: str, shape: tuple[int, int, int], bins: int) -> None:
    x = torch.randn(shape)
    lo, hi = -torch.rand(shape[1]), torch.rand(shape[1])
    counts = torch.ones(shape[1], bins, dtype=torch.int64)
    native.histogram(x, lo, hi, counts, threads=2)
    assert torch.equal(counts - 1, bins_by_definition(x, lo, hi, bins))


def test_histogram_of_undefined_positions_counts_in_the_first_bin(level: str) -> None:
    x = torch.tensor([[[1.0, 1.0, 1.0], [float("nan"), float("inf"), float("-inf")]]])
    counts = torch.zeros(2, 4, dtype=torch.int64)
    native.histogram(x, torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]), counts)
    assert counts.tolist() == [[3, 0, 0, 0], [2, 0, 0, 1]]
