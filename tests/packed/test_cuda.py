"""The packed operators through the CUDA kernels' C interface, against the definition in torch.

The library here is the twin on the CPU; the same cases run on a device where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitcompress.errors import UsageError
from bitcompress.packed import cuda, ops
from bitcompress.packed.stored import pack
from tests.packed.twin import twin_library


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    library = twin_library(tmp_path_factory.mktemp("twin"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "_load", lambda: (library, ""))
        patch.setenv("BITCOMPRESS_CUDA_LIBRARY", "the twin")
        yield


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def conv_arguments(step: bool, groups: int, bits: tuple[int, int], g: torch.Generator) -> list:
    shape = [12, 6 // groups, 3, 2]
    codes = torch.randint(0, 1 << bits[1], shape, generator=g, dtype=torch.uint8)
    scale = torch.rand(12, generator=g) + 0.1
    stretch = torch.zeros(6) if step else torch.rand(6, generator=g) + 0.5
    shift = torch.randn(6, generator=g)
    x_scale, x_offset = (2.0, -1.0) if step else (0.3, -1.0)
    grid = [torch.tensor([x_scale]), torch.tensor([x_offset])]
    return [
        pack(codes, bits[1]), shape, scale, -scale / 2, torch.randn(12, generator=g), *grid,
        stretch, shift, bits[1], bits[0],
    ]  # fmt: skip


CONVS = [
    (False, 1, (2, 2), [1, 1], [1, 1], [1, 1]),
    (True, 1, (1, 1), [2, 1], [1, 0], [1, 2]),
    (False, 3, (8, 3), [1, 2], [3, 1], [2, 1]),
]


def check_conv(case: tuple, order: torch.memory_format, device: str) -> None:
    step, groups, bits, stride, padding, dilation = case
    g = draw(3)
    x = torch.randn(2, 6, 9, 8, generator=g).contiguous(memory_format=order)
    arguments = [*conv_arguments(step, groups, bits, g), stride, padding, dilation, groups]
    moved = [a.to(device) if isinstance(a, Tensor) else a for a in arguments]
    got = ops.conv2d(x.to(device), *moved)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "takes", lambda x: False)
        wanted = ops.conv2d(x, *arguments)
    assert torch.equal(got.cpu(), wanted) and got.is_contiguous(memory_format=order)


@pytest.mark.parametrize("case", CONVS)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("form", ["direct", "dots", "tensor"])
def test_convolutions_are_the_definition(
    twin: None, case: tuple, order: torch.memory_format, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITCOMPRESS_CUDA_FORM", form)
    check_conv(case, order, "cpu")


def check_linear(device: str) -> None:
    g = draw(1)
    x = torch.randn(3, 5, 10, generator=g)
    codes = torch.randint(0, 16, (7, 10), generator=g, dtype=torch.uint8)
    arguments = [
        pack(codes, 4), [7, 10], torch.tensor([0.2]), torch.tensor([-1.1]), None,
        torch.tensor([0.1]), torch.tensor([-1.0]), None, None, 4, 5,
    ]  # fmt: skip
    moved = [a.to(device) if isinstance(a, Tensor) else a for a in arguments]
    first, again = (ops.linear(x.to(device), *moved) for _ in range(2))
    moved[0].add_(1)  # the weight made ready must follow
    changed = ops.linear(x.to(device), *moved)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "takes", lambda x: False)
        wanted = ops.linear(x, *[a.clone() if isinstance(a, Tensor) else a for a in arguments])
        if device == "cpu":
            assert torch.equal(changed, wanted)
            assert not torch.equal(first, wanted)
    assert torch.equal(first, again) and not torch.equal(first, changed)


def test_a_linear_follows_its_weight(twin: None) -> None:
    check_linear("cpu")


@pytest.mark.parametrize("per_row", [False, True])
def test_products_are_the_definition(twin: None, per_row: bool) -> None:
    check_matmul(per_row, "cpu")


def check_matmul(per_row: bool, device: str) -> None:
    g = draw(2)
    a = torch.rand(2, 3, 9, 20, generator=g) - (0.0 if per_row else 0.5)
    b = torch.randn(2, 3, 20, 11, generator=g)
    heads = [torch.rand(3, 1, 1, generator=g) * 0.1 + 0.01 for _ in range(4)]
    grids = [heads[0], -heads[1], heads[2], -heads[3]]
    got = ops.matmul(
        a.to(device), b.to(device), *(part.to(device) for part in grids), 4, 6, per_row
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "takes", lambda x: False)
        wanted = ops.matmul(a, b, *grids, 4, 6, per_row)
    assert torch.equal(got.cpu(), wanted)


def test_other_numbers_take_the_definition(twin: None) -> None:
    assert cuda.takes(torch.ones(3))
    assert not cuda.takes(torch.ones(3).half()) and not cuda.takes(torch.ones(0))
    assert not cuda.takes(torch.ones(3, device="meta"))


def test_an_unknown_form_is_refused(twin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITCOMPRESS_CUDA_FORM", "fast")
    with pytest.raises(UsageError, match="one of auto, direct, dots, tensor"):
        check_linear("cpu")


def test_a_file_that_is_no_library_is_told(tmp_path: Path) -> None:
    (tmp_path / "lib.so").write_bytes(b"not a library")
    found, reason = cuda.open_library(tmp_path / "lib.so")
    assert found is None and "cannot be loaded" in reason


def test_without_a_library_nothing_is_taken() -> None:
    if cuda.library() is None:
        assert cuda.why_not()
        assert not cuda.takes(torch.ones(3))


DEVICE = pytest.mark.skipif(
    not torch.cuda.is_available() or cuda.library() is None,
    reason="no CUDA device here, or libbitcompress_cuda is not built: make tensorrt-plugins",
)


@DEVICE
@pytest.mark.parametrize("case", CONVS)
@pytest.mark.parametrize("form", ["direct", "dots", "tensor"])
def test_a_device_gives_the_same_convolutions(
    case: tuple, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITCOMPRESS_CUDA_FORM", form)
    for order in (torch.contiguous_format, torch.channels_last):
        check_conv(case, order, "cuda")


@DEVICE
def test_a_device_gives_the_same_products() -> None:
    check_linear("cuda")
    for per_row in (False, True):
        check_matmul(per_row, "cuda")
