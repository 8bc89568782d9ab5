"""CP-Down, CP-Up, CS-Fusion and the paper's other wirings, against plain indexing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bitcompress.errors import UsageError
from bitcompress.models.reshape import CPDown, CPUp, CSFusion, ShuffleDown, ShuffleUp, SplitFusion


def identity(c_in: int, c_out: int, kernel: int) -> nn.Module:
    """What a body block is whose binary part gives zero: its shortcut."""
    assert c_in == c_out
    return nn.Identity()


def unshuffled(z: Tensor) -> Tensor:
    n, c, h, w = z.shape
    out = torch.empty(n, 4 * c, h // 2, w // 2)
    for channel in range(c):
        for i in range(2):
            for j in range(2):
                out[:, channel * 4 + 2 * i + j] = z[:, channel, i::2, j::2]
    return out


@pytest.mark.parametrize("channels", [16, 64, 512])
def test_with_identities_they_only_move_numbers(channels: int) -> None:
    x, skip = torch.randn(2, channels, 4, 6), torch.randn(2, channels, 4, 6)
    down = CPDown(channels, identity)(x)
    assert torch.equal(down, unshuffled(x[:, : channels // 2] + x[:, channels // 2 :]))
    up = CPUp(channels, identity)(x)
    assert up.shape == (2, channels // 2, 8, 12)
    assert torch.equal(unshuffled(up), torch.cat([x, x], 1))
    first, second = torch.empty_like(x), torch.empty_like(x)
    half = channels // 2
    for c in range(half):
        first[:, c], first[:, half + c] = x[:, 2 * c + 1], skip[:, 2 * c]
        second[:, c], second[:, half + c] = x[:, 2 * c], skip[:, 2 * c + 1]
    assert torch.equal(CSFusion(channels, identity)(x, skip), first + second)
    assert torch.equal(SplitFusion(channels, identity)(x, skip), x + skip)


def test_both_convolutions_of_cp_down_see_their_half() -> None:
    layer, x = CPDown(4), torch.randn(1, 4, 4, 4)
    z = layer.conv1(x[:, :2]) + layer.conv2(x[:, 2:])
    assert torch.equal(layer(x), unshuffled(z))


@pytest.mark.parametrize("kind", [CPDown, CPUp, CSFusion, ShuffleDown, ShuffleUp])
def test_odd_channels_are_refused(kind: type[nn.Module]) -> None:
    with pytest.raises(UsageError, match="3 of them"):
        kind(3)
