"""Float convolutions to few channels: near float64, and the same bits in the native kernels."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bitcompress import native as native_module
from bitcompress.graph.intercept import Rewritten
from bitcompress.packed.few import define_few_conv2d, few_conv2d, is_few

needs_native = pytest.mark.skipif(native_module.kernels() is None, reason="no native kernels")
LEVELS = ("scalar", "avx2", "avx512vnni", "avx512vbmi")
two = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=40, deadline=None)
@given(
    channels=st.sampled_from([1, 3, 8, 16, 17, 48, 60, 64]),
    filters=st.sampled_from([1, 2, 3, 4, 5, 7, 8, 12]),
    kernel=two, stride=two, padding=two, dilation=two,
    more=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    last=st.booleans(), biased=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_few_is_near_float64_and_native_gives_the_bits_of_the_definition(
    channels: int, filters: int, kernel: tuple[int, int], stride: tuple[int, int],
    padding: tuple[int, int], dilation: tuple[int, int], more: tuple[int, int], last: bool,
    biased: bool, seed: int,
) -> None:  # fmt: skip
    make = torch.Generator().manual_seed(seed)
    sides = [d * (k - 1) + 1 + m for d, k, m in zip(dilation, kernel, more, strict=True)]
    x = torch.randn(2, channels, *sides, generator=make)
    x = x.to(memory_format=torch.channels_last) if last else x
    weight = torch.randn(filters, channels, *kernel, generator=make)
    bias = torch.randn(filters, generator=make) if biased else None
    defined = define_few_conv2d(x, weight, bias, stride, padding, dilation)
    exact = F.conv2d(
        x.double(), weight.double(), None if bias is None else bias.double(), stride, padding,
        dilation,
    )  # fmt: skip
    torch.testing.assert_close(defined.double(), exact, rtol=0, atol=1e-6 * weight[0].numel())
    assert torch.equal(few_conv2d(x, weight, bias, stride, padding, dilation), defined)


def test_what_few_is() -> None:
    assert is_few(torch.empty(3, 64, 3, 3)) and is_few(torch.empty(8, 16, 1, 1))
    assert not is_few(torch.empty(64, 64, 3, 3)) and not is_few(torch.empty(3, 12, 3, 3))


@needs_native
def test_every_level_has_the_same_bits() -> None:
    code = (
        "import torch; from bitcompress.packed.few import few_conv2d; g = torch.Generator()\n"
        "for c, f in ((3, 2), (16, 8), (64, 3), (48, 12), (60, 5)):\n"
        "    x = torch.randn(1, c, 9, 13, generator=g.manual_seed(c))\n"
        "    w = torch.randn(f, c, 3, 3, generator=g)\n"
        "    print(few_conv2d(x, w, None, (1, 1), (1, 1)).double().sum().item().hex())\n"
    )
    found = set()
    for level in LEVELS:
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False,
            env={**os.environ, "BITCOMPRESS_ISA": level},
        )  # fmt: skip
        if ran.returncode == 0:
            found.add(ran.stdout)
    assert len(found) == 1


class Tail(nn.Module):
    def __init__(self, **how: object) -> None:
        super().__init__()
        self.conv = nn.Conv2d(20, 3, 3, **how)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "how", [{}, {"padding": "same"}, {"padding_mode": "reflect", "padding": 1}]
)
def test_a_model_on_codes_convolves_so_and_gradients_are_torchs(how: dict[str, object]) -> None:
    model = Rewritten(Tail(**how))
    model.on_codes = True
    x = torch.randn(1, 20, 8, 9)
    with torch.no_grad():
        torch.testing.assert_close(model(x), model.net(x), rtol=1e-5, atol=1e-5)
    y = model(x)
    y.sum().backward()
    assert torch.equal(y, model.net(x)) and model.net.conv.weight.grad is not None


def test_shapes_that_do_not_fit_are_refused_by_torch() -> None:
    model = Rewritten(Tail())
    model.on_codes = True
    for size in ((1, 17, 8, 8), (1, 20, 2, 8)):
        with torch.no_grad(), pytest.raises(RuntimeError):
            model(torch.randn(*size))
