"""Tests of `bitcompress.binarize`: models and data of one's own, time, resuming, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitcompress
from bitcompress.errors import CaptureError, DataError, LoadError, RecipeError, UsageError
from bitcompress.layers.binary import Clock
from bitcompress.models.convnext_uper import ConvNeXtUper

FEW = {"train.steps": 2, "train.settle_batches": 1, "blocks.min_channels": 8}


class Net(nn.Module):
    """Two inner convolutions between a first and a last one."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.one = nn.Conv2d(width, width, 3, padding=1)
        self.two = nn.Conv2d(width, 2 * width, 3, padding=1, stride=2)
        self.last = nn.Conv2d(2 * width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, 3, H, W) -> (N, 1, H/2, W/2)."""
        y: Tensor = self.last(self.two(self.one(self.first(x)).relu()).relu())
        return y


class Timed(Net):
    """The same, told the time."""

    time_steps = 100

    def forward(self, x: Tensor, t: Tensor) -> Tensor:  # type: ignore[override]
        """Shapes: as Net's, t (N,) int64 below 100."""
        return super().forward(x) * (1 + t.view(-1, 1, 1, 1) / 100)


def pictures(count: int = 5) -> list[Tensor]:
    return [
        torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(n)) for n in range(count)
    ]


@pytest.fixture(scope="module")
def timed() -> bitcompress.BinaryResult:
    """A binary model with five time groups."""
    torch.manual_seed(0)
    data = [{"x": x, "t": torch.tensor([7, 93])} for x in pictures()]
    over = FEW | {"blocks.time_groups": 5, "blocks.time_steps": 100, "data.task": "auto",
                  "train.start": "float", "target": None}  # fmt: skip
    return bitcompress.binarize(Timed().eval(), recipe="bidiffsr", data=data, overrides=over)


@pytest.mark.parametrize("recipe", ["reactnet", "bidense"])
def test_inputs_alone_are_enough(recipe: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net().eval()
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    result = bitcompress.binarize(net, recipe=recipe, data=pictures(), overrides=FEW)
    assert all(torch.equal(kept[name], value) for name, value in net.state_dict().items())
    report = result.report
    assert report["states"] == {"packed": 2, "float": 2} and report["task"] == "imitate"
    assert report["quality"]["binary"] == report["quality"]["packed"]
    assert report["quality"]["float"] == {"apart": 0.0}
    bitcompress.save(result, tmp_path / "o")
    again = bitcompress.load(tmp_path / "o", model=Net()).model
    x = torch.rand(1, 3, 20, 8)
    with torch.no_grad():
        assert torch.equal(again(x), result.model(x))


def test_a_depth_network_learns_is_packed_and_reported(tmp_path: Path) -> None:
    """On the one scene that comes with scikit-image, which says nothing about quality."""
    pytest.importorskip("skimage")
    torch.manual_seed(0)
    net = ConvNeXtUper(max_depth=8.0, depths=(1, 1), dims=(16, 32), width=16).eval()
    over = FEW | {"train.batch": 2, "data.options": {"crop": [64, 96]}}
    result = bitcompress.binarize(net, recipe="bidense", data="stereo", overrides=over)
    report = result.report
    assert report["task"] == "depth" and report["states"]["packed"] > 4
    assert report["quality"]["packed"] == report["quality"]["binary"]
    assert 0 <= report["quality"]["packed"]["delta1"] <= 1
    assert report["parity"]["flipped_share"] == 0
    assert result.samples[0][1].shape[2] == 3
    bitcompress.save(result, tmp_path / "o")
    again = bitcompress.load(tmp_path / "o", model=net).model
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(x), result.model(x))


def test_the_time_chooses_the_tables(timed: bitcompress.BinaryResult) -> None:
    x = pictures(1)[0]
    with torch.no_grad():
        both = timed.model(x, torch.tensor([7, 93]))
        alone = [timed.model(x[i : i + 1], torch.tensor([t])) for i, t in enumerate((7, 93))]
    # The float layers sum in another order for another batch.
    assert torch.allclose(both, torch.cat(alone), atol=1e-5)


class Noised(Net):
    """The same, told a noise level."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:  # type: ignore[override]
        """Shapes: as Net's, sigma (N,) above 0."""
        return super().forward(x) * (1 + sigma.log().view(-1, 1, 1, 1) / 10)


def test_noise_levels_choose_the_tables(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = [{"x": x, "sigma": torch.tensor([0.02, 50.0])} for x in pictures()]
    over = FEW | {"blocks.time_groups": 3, "data.task": "auto", "train.start": "float",
                  "target": None}  # fmt: skip
    with pytest.raises(DataError, match=r"a timestep is 0\.02: .*blocks\.time_span"):
        bitcompress.binarize(Noised().eval(), recipe="bidiffsr", data=data, overrides=over)
    over["blocks.time_span"] = [0.002, 80.0]
    result = bitcompress.binarize(Noised().eval(), recipe="bidiffsr", data=data, overrides=over)
    bitcompress.save(result, tmp_path / "o")
    again = bitcompress.load(tmp_path / "o", model=Noised()).model
    x = pictures(1)[0]
    with torch.no_grad():
        for sigma in ([0.02, 50.0], [50.0, 0.02], [1.0, 1e-4]):
            wanted = result.model(x, torch.tensor(sigma))
            assert torch.equal(again(x, torch.tensor(sigma)), wanted)
    clock = next(m for m in again.modules() if isinstance(m, Clock))
    assert clock.index(2).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("t", "said"),
    [
        (torch.tensor([0.5, 0.5]), "whole numbers"),
        (torch.tensor([[1, 2]]), "shape"),
        (torch.tensor([1, 2, 3]), "3 timesteps"),
        (torch.tensor([1, 100]), "out of range"),
        (torch.tensor([-1, 0]), "out of range"),
    ],
)
def test_a_timestep_that_is_none(timed: bitcompress.BinaryResult, t: Tensor, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        timed.model(pictures(1)[0], t)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no model": ({"model": None}, UsageError, "no target of its own"),
    "no data": ({"data": []}, DataError, "no batch"),
    "a recipe of quantize": ({"recipe": "default"}, RecipeError, "reactnet"),
    "no timestep": ({"recipe": "bidiffsr"}, RecipeError, "no timestep"),
    "scratch without labels": ({"from_scratch": True}, UsageError, "--from-scratch"),
    "thin layers": ({"overrides": {"blocks.min_channels": 99}}, CaptureError, "99"),
    "an unknown layer": ({"overrides": {"blocks.keep": ["nose"]}}, RecipeError, "nose"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str) -> None:
    change, kind, said = REFUSED[case]
    given = {"model": Net().eval(), "data": pictures(), "recipe": "reactnet"} | change
    given["overrides"] = FEW | change.get("overrides", {})
    with pytest.raises(kind, match=said):
        bitcompress.binarize(given.pop("model"), **given)


def test_a_resumed_run_is_of_the_same_recipe(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, many = Net().eval(), FEW | {"train.steps": 4, "train.save_every": 2}
    whole = bitcompress.binarize(net, data=pictures(), overrides=many, workdir=tmp_path / "w")
    again = bitcompress.binarize(
        net, data=pictures(), overrides=many, workdir=tmp_path / "w", resume=True
    )
    x = pictures(1)[0]
    with torch.no_grad():
        assert torch.equal(whole.model(x), again.model(x))
    with pytest.raises(LoadError, match="another model, recipe, data or seed"):
        bitcompress.binarize(
            net, recipe="xnor", data=pictures(), overrides=many, workdir=tmp_path / "w", resume=True
        )
