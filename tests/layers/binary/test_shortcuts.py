"""CFB has the published rows, and shortcuts meet every size and pair of channels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitcompress.errors import UsageError
from bitcompress.layers.binary import CFB, BlockSpec, Shortcut, binary_block
from bitcompress.layers.binary.shortcuts import Bridge, cfb_rows, fitted


@pytest.mark.parametrize(
    ("cin", "cout", "order", "wanted"),
    [
        (8, 4, "paper2d", [1.5, 2.5, 3.5, 6.5]), (7, 3, "paper2d", [1, 2, 5]),
        (4, 6, "paper2d", [0, 1, 2, 3, 0.5, 2.5]), (8, 4, "contiguous", [0.5, 2.5, 4.5, 6.5]),
        (4, 4, "paper2d", [0, 1, 2, 3]), (4, 8, "paper2d", [0, 1, 2, 3, 0, 1, 2, 3]),
        (8, 1, "paper2d", [3.5]), (4, 5, "contiguous", [0, 1, 2, 3, 1.5]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("axis", [1, -1])
def test_published_examples(
    cin: int, cout: int, order: str, wanted: list[float], axis: int
) -> None:
    x = torch.arange(float(cin))
    x = x.view(1, -1, 1, 1).expand(2, -1, 3, 2) if axis == 1 else x.expand(2, 3, cin)
    y = CFB(cin, cout, order, axis)(x).movedim(axis, -1)
    assert torch.equal(y, torch.tensor(wanted, dtype=torch.float32).expand(y.shape))


@pytest.mark.parametrize("order", ["paper2d", "contiguous"])
def test_every_pair_of_channels_is_the_matrix_of_its_rows(order: str) -> None:
    for cin in range(1, 28):
        x = torch.randn(cin, dtype=torch.float64)
        for cout in range(1, 28):
            rows = cfb_rows(cin, cout, order)
            assert len(rows) == cout and sorted({i for row in rows for i in row}) == [*range(cin)]
            y = CFB(cin, cout, order, -1)(x)
            wanted = torch.stack([x[row].mean() for row in rows])
            assert torch.allclose(y, wanted, atol=1e-12)


def test_no_other_order() -> None:
    with pytest.raises(UsageError, match="order of a CFB"):
        CFB(4, 8, "random")


def test_a_stride_averages_what_it_steps_over() -> None:
    x = torch.arange(15.0).view(1, 1, 3, 5)
    y = fitted(x, (2, 3), (2, 2), None)
    assert y[0, 0].tolist() == [[3, 5, 6.5], [10.5, 12.5, 14]]


def test_an_enlargement_repeats_and_a_border_is_cut_evenly() -> None:
    x = torch.arange(6.0).view(1, 1, 2, 3)
    up = fitted(x, (4, 6), (1, 1), (2, 2))
    assert torch.equal(up, x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert torch.equal(fitted(up, (2, 3), (1, 1), None), up[..., 1:3, 1:4])
    wide = fitted(x, (4, 4), (1, 1), None)
    assert wide.shape == (1, 1, 4, 4) and float(wide.sum()) == float(x.sum())


LAYERS = {
    "strided": nn.Conv2d(6, 9, 3, 2, 1), "coarse": nn.Conv2d(6, 4, 5, 3, 0),
    "valid": nn.Conv2d(6, 6, 3), "wide": nn.Conv2d(6, 13, 3, padding=3),
    "even": nn.Conv2d(6, 5, 4, 2, 1), "rows": nn.Conv2d(6, 7, (3, 1), (2, 1), (1, 0)),
    "up": nn.ConvTranspose2d(6, 3, 4, 2, 1), "odd up": nn.ConvTranspose2d(6, 6, 6, 3, 2, 1),
    "line": nn.Conv1d(6, 8, 4, 4), "line up": nn.ConvTranspose1d(6, 8, 2, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_has_a_shortcut_of_its_size(name: str) -> None:
    layer = LAYERS[name]
    line = isinstance(layer, nn.Conv1d | nn.ConvTranspose1d)
    block = binary_block(layer, BlockSpec("bireal")).eval()
    packed = block.pack()
    for height in (7, 8, 9) if not line else (8, 16, 20):
        for width in (range(7, 18, 3)) if not line else (0,):
            x = torch.randn(2, 6, height) if line else torch.randn(2, 6, height, width)
            with torch.no_grad():
                y = block(x)
                assert y.shape == layer(x).shape
                assert torch.equal(y, packed(x))
                if not line:
                    last = x.to(memory_format=torch.channels_last)
                    assert torch.equal(packed(last), y), "memory order shows in no bit"


def test_a_gain_scales_and_stays_in_the_twin() -> None:
    shortcut, x = Shortcut(Bridge(4, 6), learn=True), torch.randn(2, 4, 3, 3)
    assert torch.equal(shortcut(x, (3, 3)), CFB(4, 6)(x))
    with torch.no_grad():
        assert shortcut.gain is not None
        shortcut.gain[2] = 0.5
    wanted = CFB(4, 6)(x)
    wanted[:, 2] *= 0.5
    assert torch.equal(shortcut(x, (3, 3)), wanted)
    assert torch.equal(shortcut.twin()(x, (3, 3)), wanted)
    assert not list(Shortcut(Bridge(4, 6)).twin().parameters()), "ones are not stored"
