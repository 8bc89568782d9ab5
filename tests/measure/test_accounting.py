"""Counts of the papers: BI-DiffSR's integers from our own blocks, and small nets by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitcompress.blocks import BlockPolicy, insert_blocks, pack_blocks, prepare_binary
from bitcompress.layers.binary import METHODS, BinaryBlock, BlockSpec, binary_block
from bitcompress.measure.accounting import Accounting, account
from bitcompress.models.bidiffsr import TINY, BiDiffSR
from bitcompress.tasks.bidiffsr import binary_unet


def unet_inputs(side: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.rand(1, 3, side, side), torch.rand(1, 3, side, side), torch.tensor([700])


def test_bidiffsr_at_the_size_of_the_paper() -> None:
    """All convolutions keep sizes, so a picture of 16 x 16 takes 1/256 of one of 256 x 256."""
    net, _ = binary_unet("paper", time_groups=5)
    found = account(net, *unet_inputs(16))
    assert sum(isinstance(m, BinaryBlock) for m in net.modules()) == 56
    assert found.binary_weights == 48_211_968
    assert found.real_parameters + found.binary_weights == 51_280_387
    assert found.parameters == 4_575_043
    assert 256 * found.binary_macs == 98_650_030_080
    times = [net.time.fc1, net.time.fc2, *(m.time for m in net.modules() if hasattr(m, "norm2"))]
    once = sum(layer.weight.numel() for layer in times)
    real, products, norm = found.real_macs - once, found.product_macs, found.norm_ops
    assert 256 * real + once == 33_626_140_672
    assert 256**2 * products == 2 * 1024**2 * 512
    total = 256 * (real + norm) + once + 256**2 * products + 98_650_030_080 / 64
    assert round(total / 1e9, 3) == 36.669


@pytest.mark.parametrize(
    ("groups", "stored", "counted"), [(2, 51_072_259, 4_366_915), (1, 51_002_883, 4_297_539)]
)
def test_parameters_for_fewer_time_groups(groups: int, stored: int, counted: int) -> None:
    net, _ = binary_unet("paper", time_groups=groups)
    found = account(net, *unet_inputs(8))
    assert found.real_parameters + found.binary_weights == stored
    assert found.parameters == counted


@pytest.mark.parametrize(("timed", "millions"), [("thresholds", "4.37"), ("activations", "4.51")])
def test_parameters_of_tar_alone_and_of_taa_alone(timed: Any, millions: str) -> None:
    """As the ablation of BI-DiffSR prints them."""
    net, _ = binary_unet("paper", timed=timed)
    assert f"{account(net, *unet_inputs(8)).parameters / 1e6:.2f}" == millions


@pytest.mark.slow
def test_bidiffsr_at_256_pixels() -> None:
    net, _ = binary_unet("paper")
    found = account(net, *unet_inputs(256))
    assert (found.binary_macs, found.real_macs) == (98_650_030_080, 33_626_140_672)
    assert f"{found.ops / 1e9:.3f} {found.parameters / 1e6:.3f}" == "36.669 4.575"


def test_a_small_net_by_hand() -> None:
    block = binary_block(nn.Conv2d(8, 8, 3, padding=1, bias=False), BlockSpec("bidiffsr"))
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), block, nn.ConvTranspose2d(8, 4, 2, 2)
    )
    found = account(net, torch.rand(2, 3, 6, 5))
    assert found == Accounting(
        real_parameters=3 * 8 * 9 + 8 + 16 + 4 * 8 + 8 * 4 * 4 + 4,
        binary_weights=8 * 8 * 9,
        real_macs=2 * 30 * 3 * 8 * 9 + 2 * 30 * 8 * 4 * 4,
        product_macs=0,
        norm_ops=5 * 2 * 8 * 30,
        binary_macs=2 * 30 * 8 * 8 * 9,
    )
    assert found.parameters == found.real_parameters + 576 / 32
    assert found.ops == found.real_ops + found.binary_macs / 64
    assert found.bytes_if_exact == 4 * found.real_parameters + 72


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(6, 10), torch.rand(3, 7, 6)),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1), torch.rand(1, 4, 8, 8)),
        (nn.ConvTranspose2d(4, 2, 2, 2), torch.rand(1, 4, 5, 5)),
    ],
)
def test_a_block_counts_as_its_float_layer_does(layer: nn.Module, x: Tensor) -> None:
    net = nn.Sequential(binary_block(layer, BlockSpec("reactnet")))
    plain, found = account(nn.Sequential(layer), x), account(net, x)
    assert plain.real_macs == found.binary_macs > 0
    assert found.real_macs == 0
    assert found.float_ops == plain.float_ops
    assert found.binary_weights == layer.weight.numel()


@pytest.mark.parametrize("method", ["bidiffsr", "reactnet", "bireal", "xnor"])
def test_a_packed_block_counts_as_the_trained_one(method: str) -> None:
    block = binary_block(nn.Conv2d(8, 8, 3, padding=1), BlockSpec(method, norm="none"))
    trained, packed = nn.Sequential(block), nn.Sequential(block.eval().pack())
    x = torch.rand(1, 8, 6, 6)
    assert account(packed, x) == account(trained, x)
    assert METHODS[method].threshold != "none" or account(packed, x).real_parameters <= 3 * 8


def test_a_packed_network_counts_as_the_trained_one() -> None:
    """Also its norms, which it runs by a definition of our own, and with a program made."""
    net = BiDiffSR(**TINY | {"inner": 8, "groups": 4}).eval()
    given = unet_inputs(8)
    policy = BlockPolicy("bidiffsr", keep=net.float_layers, min_channels=4, start="scratch")
    student = insert_blocks(prepare_binary(net, given, policy))
    trained = account(student, *given[:2], t=given[2])
    pack_blocks(student)
    assert account(student, *given) == trained
    assert trained.norm_ops > 0 and trained.binary_macs > 0


def test_modes_and_lines_are_as_before() -> None:
    net, _ = binary_unet("tiny")
    net.train()
    net.mid1.eval()
    found = account(net, *unet_inputs(8))
    assert net.training and not net.mid1.training
    said = "\n".join(found.lines(stored=123456, milliseconds=7.25))
    for part in ("Params 0.", "/ 32", "OPs", "/ 64", "123,456 bytes", "7.2 ms"):
        assert part in said
    assert set(found.figures()) >= {"params", "ops", "ops_real", "ops_binary", "bytes_if_exact"}


def test_attention_is_counted_in_any_form() -> None:
    class Attention(nn.Module):
        def __init__(self, fused: bool) -> None:
            super().__init__()
            self.fused = fused

        def forward(self, x: Tensor) -> Tensor:
            if self.fused:
                return nn.functional.scaled_dot_product_attention(x, x, x)
            return torch.softmax(x @ x.transpose(1, 2) / 8**0.5, -1) @ x

    x = torch.rand(2, 6, 8)
    for fused in (True, False):
        assert account(Attention(fused), x).product_macs == 2 * 2 * 6 * 6 * 8
