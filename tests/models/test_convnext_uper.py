"""BiDense's network: the published counts, its decoder by the formula, odd sizes, loading."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitcompress.errors import ShapeError
from bitcompress.models import MODELS
from bitcompress.models.convnext import TINY_DEPTHS, TINY_DIMS
from bitcompress.models.convnext_uper import ConvNeXtUper

FLOAT = ("encoder.stem.0", "score")
"""What stays float in BiDense."""


def small(**head: float) -> ConvNeXtUper:
    return ConvNeXtUper(**head, depths=(1, 2, 1), dims=(8, 16, 24), width=12)


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}


def test_the_published_counts() -> None:
    with torch.device("meta"):
        model = ConvNeXtUper(classes=151)
    count = sum(p.numel() for p in model.parameters())
    binary = {n: m for n, m in convolutions(model).items() if n not in FLOAT}
    assert sum(m.weight.numel() for m in binary.values()) == 39_759_840
    assert all(m.bias is None for m in binary.values())
    # A block adds three numbers an input channel, and a shift before each PReLU; the published
    # network has one more shift behind the decoder, and a classifier that it does not use.
    thresholds = 3 * sum(m.in_channels for m in binary.values())
    shifts = sum(m.num_parameters for m in model.modules() if isinstance(m, nn.PReLU))
    assert count + thresholds + shifts + 96 == 40_839_039 - 770_536
    effective = count + thresholds + shifts + 96 - 39_759_840 + 39_759_840 / 32
    assert round(effective / 1000) == 1551
    assert count == pytest.approx(39_913_000, rel=5e-4)  # its float twin


def test_the_published_operations() -> None:
    done: dict[str, int] = {}

    def count(name: str, m: nn.Conv2d) -> None:
        def hook(module: nn.Module, x: tuple[Tensor, ...], y: Tensor) -> None:
            done[name] = done.get(name, 0) + y[0, 0].numel() * m.weight.numel()

        m.register_forward_hook(hook)

    with torch.device("meta"):
        model = ConvNeXtUper(classes=151).eval()
        for name, conv in convolutions(model).items():
            count(name, conv)
        model(torch.empty(1, 3, 480, 480))
    total_float = sum(v for n, v in done.items() if n in FLOAT)
    assert round((sum(done.values()) - total_float) / 1e9, 2) == 64.81
    assert round(total_float / 1e9, 2) == 4.52


def test_the_tiny_one() -> None:
    model = ConvNeXtUper(classes=11, depths=TINY_DEPTHS, dims=TINY_DIMS, width=32)
    assert sum(p.numel() for p in model.parameters()) == 2_367_883
    binary = [m for n, m in convolutions(model).items() if n not in FLOAT]
    assert min(min(m.in_channels, m.out_channels) for m in binary) >= 32


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 40)])
def test_any_size(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size)
    assert small(classes=5)(x).shape == (2, 5, *size)
    depth = small(max_depth=8.0)(x)
    assert depth.shape == (2, 1, *size) and 0 < depth.min().item() < depth.max().item() < 8


def test_the_decoder_by_the_formula() -> None:
    model = small(classes=3).eval()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.running_mean, -0.1, 0.1)
    decoder = model.decoder
    maps = [torch.rand(1, c, s, s) for c, s in ((8, 12), (16, 6), (24, 3))]

    def up(x: Tensor, size: int) -> Tensor:
        return functional.interpolate(x, size=(size, size), mode="bilinear", align_corners=True)

    pools = [
        up(part(functional.adaptive_avg_pool2d(maps[2], size)), 3)
        for part, size in zip(decoder.pyramid.parts, (1, 2, 4, 6), strict=True)
    ]
    top = decoder.pyramid.fuse(torch.cat([maps[2], *pools], 1))
    f2, f3 = decoder.laterals[0](maps[1]), decoder.laterals[1](top)
    p1, p2 = decoder.smooth(up(f2, 12) + maps[0]), decoder.smooth(up(f3, 6) + f2)
    expected = decoder.fuse(torch.cat([p1, up(p2, 12), up(f3, 12)], 1))
    assert torch.allclose(decoder(maps), expected, atol=1e-6)


def test_pixels_are_normalised_inside() -> None:
    model = small(classes=2).eval()
    grey = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    seen: list[Tensor] = []
    model.encoder.register_forward_hook(lambda m, x, y: seen.append(x[0]))
    model(grey)
    assert torch.equal(seen[0], torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("head", "name"),
    [({"classes": 7}, "convnext-uper"), ({"max_depth": 80.0}, "convnext-uper-depth")],
)
def test_a_state_dict_tells_its_sizes(head: dict[str, float], name: str) -> None:
    model = small(**head).eval()
    state = model.state_dict()
    target = next(target for target in MODELS.values() if target.detect(state))
    assert target.name == name and target.task == model.task
    again = target.build(**target.config(state)).eval()
    again.load_state_dict(state)
    x = torch.rand(1, 3, 32, 40)
    assert torch.equal(again(x), model(x))


def test_what_it_refuses() -> None:
    with pytest.raises(ShapeError, match="on one picture at a time"):
        small(classes=2)(torch.rand(1, 3, 32, 32))
    with pytest.raises(ShapeError, match="a picture of 40x31 is too small"):
        small(classes=2)(torch.rand(1, 3, 31, 40))
    for head in ({}, {"classes": 2, "max_depth": 1.0}):
        with pytest.raises(ShapeError, match="has one head"):
            small(**head)
