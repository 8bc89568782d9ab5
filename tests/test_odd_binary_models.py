"""Models as people bring them to `binarize`: each becomes blocks, is stored and comes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import bitcompress
from bitcompress.errors import CaptureError
from bitcompress.graph.arguments import tensors_of
from bitcompress.graph.capture import as_inputs

FEW = {
    "train.steps": 2, "train.settle_batches": 1, "blocks.min_channels": 8, "data.task": "auto",
    "train.start": "float", "blocks.time_groups": 1,
}  # fmt: skip


def pictures(side: int = 12) -> list[Tensor]:
    return [
        torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(n)) for n in range(4)
    ]


class Body(nn.Module):
    """A first and a last convolution; what is between them is odd."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)

    def between(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Any) -> Any:
        return self.last(self.between(self.first(x)))


class InPlace(Body):
    """Depthwise separable, ReLU6 in place, and a sum in place."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.point, self.norm, self.act = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU6(True)

    def between(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.point(self.deep(x))))
        y += x
        return y


class Auxiliary(Body):
    """A dict, with a second head while it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.mid, self.side = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Any:
        first = self.first(x)
        made = {"out": self.last(F.relu(self.mid(first)))}
        return made | {"aux": self.side(first)} if self.training else made


class AuxiliaryPair(Auxiliary):
    """The same as torch's Inception does it: a pair while it learns, else one."""

    def forward(self, x: Tensor) -> Any:
        made = super().forward(x)
        return (made["out"], made["aux"]) if self.training else made["out"]


class Functions(Body):
    """Convolutions and linears called as functions, on parameters in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(16, 16, 3, 3) / 12 for _ in range(2))
        self.linear = nn.Parameter(torch.randn(16, 16) / 4)

    def between(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = x + F.conv2d(F.relu(x), weight, padding=1)
        return x + F.linear(x.permute(0, 2, 3, 1), self.linear).permute(0, 3, 1, 2)


class Attends(Body):
    """torch's own attention, on pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def between(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        seen: Tensor = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return x + seen.transpose(1, 2).view_as(x)


class Again(Body):
    """One layer three times, computed again for gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.same, self.norm = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)

    def between(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x + checkpoint(self.once, x, use_reentrant=False)
        return x

    def once(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.same(x)))


class Skips(nn.Module):
    """A UNet of odd channel counts that takes a dict."""

    def __init__(self, a: int = 11, b: int = 19) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, a, 3, padding=1), nn.Conv2d(a, b, 4, 2, 1)
        self.mid, self.up = nn.Conv2d(b, b, 3, padding=1), nn.ConvTranspose2d(b, a, 2, 2)
        self.join, self.last = nn.Conv2d(2 * a, a, 3, padding=1), nn.Conv2d(a, 3, 1)

    def forward(self, given: dict[str, Tensor]) -> dict[str, Any]:
        x = F.silu(self.first(given["image"]))
        low = F.silu(self.mid(F.silu(self.down(x))))
        up = F.interpolate(self.up(low), size=x.shape[2:])
        return {"seen": self.last(F.silu(self.join(torch.cat([up, x], 1)))), "features": [low]}


class Layers(nn.Module):
    """A ConvNeXt block: depthwise, a norm of channels, two linears, a scale of the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 7, padding=3, groups=16)
        self.norm, self.one, self.two = nn.LayerNorm(16), nn.Linear(16, 64), nn.Linear(64, 16)
        self.gamma, self.head = nn.Parameter(torch.full((16,), 1e-6)), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.two(F.gelu(self.one(self.norm(self.deep(x).permute(0, 2, 3, 1)))))
        x = x + (self.gamma * y).permute(0, 3, 1, 2)
        made: Tensor = self.head(x.mean((2, 3)))
        return made


def generator() -> nn.Module:
    """A GAN's: noise to pictures by transposed convolutions; it has no convolution else."""
    return nn.Sequential(
        nn.ConvTranspose2d(12, 32, 4, 1, 0, bias=False), nn.BatchNorm2d(32), nn.ReLU(True),
        nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True),
        nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


MODELS: dict[str, tuple[Callable[[], nn.Module], list[Any], int]] = {
    "in place": (InPlace, pictures(), 1),
    "auxiliary heads": (Auxiliary, pictures(), 1),
    "a pair while it learns": (AuxiliaryPair, pictures(), 1),
    "functions": (Functions, pictures(), 3),
    "torch's attention": (Attends, pictures(), 4),
    "computed again": (Again, pictures(), 1),
    "a dict, odd channels and sizes": (Skips, [({"image": x},) for x in pictures(15)], 4),
    "ConvNeXt": (Layers, pictures(16), 2),
    "a generator": (generator, [torch.randn(2, 12, 1, 1) for _ in range(4)], 1),
}


def outputs(model: nn.Module, example: Any) -> list[Tensor]:
    args, kwargs = as_inputs(example)
    with torch.no_grad():
        return tensors_of(model(*args, **kwargs))


@pytest.mark.parametrize("recipe", ["reactnet", "bidense", "bidiffsr"])
@pytest.mark.parametrize("name", MODELS)
def test_it_learns_is_stored_and_comes_back(name: str, recipe: str, tmp_path: Path) -> None:
    make, data, least = MODELS[name]
    torch.manual_seed(0)
    net = make().eval()
    over = FEW | ({"target": None, "blocks.fp_tail_levels": 0} if recipe == "bidiffsr" else {})
    result = bitcompress.binarize(net, recipe=recipe, data=data, overrides=over)
    report = result.report
    assert report["states"]["packed"] >= least
    assert report["quality"]["binary"] == report["quality"]["packed"]
    assert all(row["reason"] for row in report["layers"] if row["state"] == "float")
    bitcompress.save(result, tmp_path / "o")
    again = bitcompress.load(tmp_path / "o", model=make()).model
    for _ in range(3):  # as it is written, then as a program
        made, wanted = outputs(again, data[0]), outputs(result.model, data[0])
        assert made and all(map(torch.equal, made, wanted))


class Computed(Body):
    """Weights that no parameter is, or that two calls share."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.gain = (
            nn.Parameter(torch.randn(16, 16, 3, 3) / 12),
            nn.Parameter(torch.ones(16, 1, 1, 1)),
        )

    def between(self, x: Tensor) -> Tensor:
        x = x + F.conv2d(x, self.weight * self.gain, padding=1)
        return F.conv2d(x, self.weight, padding=1) + F.conv2d(x, self.weight, padding=1)


def test_why_no_layer_of_a_model_can_be_a_block_is_told() -> None:
    with pytest.raises(CaptureError, match="no layer becomes a block: ") as caught:
        bitcompress.binarize(Computed().eval(), recipe="reactnet", data=pictures(), overrides=FEW)
    said = str(caught.value)
    assert "weight is computed, not a parameter" in said or "is also used by" in said
    assert "\n" not in said
