"""What a small run tells of a network: how many times larger it makes pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bitcompress
from bitcompress.artifact import load
from bitcompress.data.images import write_image
from bitcompress.data.synthetic import synthetic_pictures
from bitcompress.models.load import load_model
from bitcompress.models.probe import picture_scale


class Enlarges(nn.Module):
    """A small network of somebody's own."""

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.tail = nn.Conv2d(16, 3 * scale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, 3, H, W) -> (N, 3, scale H, scale W)."""
        y = self.head(x)
        made: Tensor = self.shuffle(self.tail(y + self.body(y).relu()))
        return made


class Squares(Enlarges):
    """Takes no other than squares of 64, and draws random numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, 3, 64, 64) -> (N, 3, 128, 128)."""
        if tuple(x.shape[2:]) != (64, 64):
            raise ValueError("64 x 64 alone")
        return super().forward(x) + 0 * torch.rand(1)


class Flat(Enlarges):
    """Gives something else than a picture."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: those of `what`."""
        y = super().forward(x)
        return {
            "logits": y.mean((2, 3)), "same": y[..., ::2, ::2], "wider": y[..., ::2, :],
            "map": y[:, :1], "odd": y[..., :-1, :-1],
        }[self.what]  # fmt: skip


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_scale_is_seen(scale: int) -> None:
    net = Enlarges(scale).train()
    assert picture_scale(net) == scale and not net.training


def test_networks_of_one_size_are_tried_at_it_and_random_numbers_are_left() -> None:
    net = Squares()
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    assert picture_scale(net) == 2
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize("what", ["logits", "same", "wider", "map", "odd"])
def test_others_have_none(what: str) -> None:
    assert picture_scale(Flat(what)) is None


def test_a_network_that_fails_has_none() -> None:
    assert picture_scale(nn.Linear(5, 5)) is None


def test_a_checkpoint_of_ones_own_network_is_known_to_enlarge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ownnet.py").write_text(
        "from torch import nn\n"
        "def build(scale=2):\n"
        "    conv = nn.Conv2d(3, 3 * scale**2, 3, padding=1)\n"
        "    return nn.Sequential(conv, nn.PixelShuffle(scale))\n"
    )
    monkeypatch.chdir(tmp_path)
    torch.save({"0.weight": torch.rand(27, 3, 3, 3), "0.bias": torch.rand(27)}, tmp_path / "m.pt")
    found = load_model(tmp_path / "m.pt", arch="ownnet:build", config={"scale": 3})
    assert (found.scale, found.task) == (3, "sr")


@pytest.mark.parametrize("given", [None, "folder"])
def test_a_live_network_needs_no_batches_and_enlarges_from_its_folder(
    given: str | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = Enlarges()
    data = None
    if given:
        data = tmp_path / "photos"
        data.mkdir()
        for number, picture in enumerate(synthetic_pictures(3, 96, seed=1)):
            write_image(data / f"{number}.png", picture)
    done = bitcompress.quantize(net, recipe="minmax", bits=4, data=data)
    assert net.training, "the caller's network keeps its mode"
    assert (done.source.scale, done.source.task) == (2, "sr")
    bitcompress.save(done, tmp_path / "out")
    again = load(tmp_path / "out", Enlarges())
    assert again.source.scale == 2
    x = torch.rand(1, 3, 24, 20)
    with torch.no_grad():
        assert torch.equal(again.model(x), done.model(x))
