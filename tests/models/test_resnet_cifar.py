"""The CIFAR networks: their shortcut, their normalisation, and the released checkpoints."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from bitcompress.models import MODELS
from bitcompress.models.load import load_model
from bitcompress.models.resnet_cifar import BasicBlock, CosineLinear, ResNetCifar


def test_the_shortcut_skips_pixels_and_pads_channels() -> None:
    block = BasicBlock(4, 8, 2).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.rand(1, 4, 5, 6)
    result = block(x)
    expected = torch.zeros(1, 8, 3, 3)
    for c in range(4):
        for i in range(3):
            for j in range(3):
                expected[0, 2 + c, i, j] = x[0, c, 2 * i, 2 * j]
    assert torch.equal(result, expected)


def test_pixels_are_normalised_inside() -> None:
    model = ResNetCifar([1, 1, 1]).eval()
    grey = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    with torch.no_grad():  # the mean colour is zero, of which convolutions without bias make zero
        assert torch.equal(model.conv1((grey - model.mean) / model.std), torch.zeros(1, 16, 32, 32))
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_any_size_is_classified() -> None:
    model = ResNetCifar([1, 1], classes=7).eval()
    assert model(torch.rand(1, 3, 1, 3)).shape == (1, 7)


@pytest.mark.parametrize(
    ("name", "blocks", "count", "share"),
    [("resnet20-12fca82f", 3, 269_722, 0.75), ("resnet56-4bfd9763", 9, 853_018, 0.75)],
)
def test_the_released_checkpoints_load_and_classify(
    shared: Path, name: str, blocks: int, count: int, share: float
) -> None:
    image = pytest.importorskip("skimage.io")
    data = shared / "data"
    loaded = load_model(data / "weights" / "resnet_cifar10" / f"{name}.th")
    assert loaded.config == {"blocks": [blocks] * 3, "width": 16, "classes": 10}
    assert (loaded.arch, loaded.task, loaded.scale) == ("resnet-cifar", "classify", None)
    assert sum(p.numel() for p in loaded.model.parameters()) == count
    with zipfile.ZipFile(data / "cifar10_jpeg.zip") as archive:
        files = [n for n in archive.namelist() if "test" in n and n.endswith((".jpg", ".jpeg"))]
        classes = sorted({n.split("/")[-2] for n in files})
        chosen = [n for c in classes for n in sorted(f for f in files if f"/{c}/" in f)[:20]]
        pictures = [image.imread(io.BytesIO(archive.read(n))) for n in chosen]
    batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        found = loaded.model(batch).argmax(1)
    truth = torch.tensor([classes.index(n.split("/")[-2]) for n in chosen])
    assert len(chosen) == 200 and len(classes) == 10
    assert float((found == truth).float().mean()) > share


def test_the_cosine_classifier_sees_directions_alone() -> None:
    model = ResNetCifar([1], width=4, classes=3, cosine=True)
    head = model.linear
    assert isinstance(head, CosineLinear) and list(head.state_dict()) == ["weight"]
    x = torch.randn(5, 4)
    cosines = torch.nn.functional.cosine_similarity(x[:, None], head.weight[None], dim=2)
    assert torch.allclose(head(x), 30 * cosines, atol=1e-5)
    with torch.no_grad():
        before = head(x)
        head.weight[1] *= 7
        assert torch.allclose(head(3 * x), before, atol=1e-5)


@pytest.mark.parametrize("cosine", [False, True])
def test_a_state_dict_tells_its_classifier(cosine: bool) -> None:
    model = ResNetCifar([1, 1, 1], width=4, classes=3, cosine=cosine).eval()
    state = model.state_dict()
    target = MODELS["resnet-cifar"]
    assert target.detect(state)
    again = target.build(**target.config(state)).eval()
    again.load_state_dict(state)
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(again(x), model(x))
