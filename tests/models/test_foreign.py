"""Networks of the user, and those that spandrel knows."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bitcompress.errors import LoadError, UsageError
from bitcompress.models.load import load_model

Write = Callable[[object], Path]

SOURCE = """
from torch import nn

class Net(nn.Module):
    scale = 2
    image_range = 255.0

    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, 3 * width, 3, padding=1)
        self.norm = nn.BatchNorm2d(3 * width)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x):
        return self.shuffle(self.norm(self.conv(x)))

class nets:
    @staticmethod
    def make(width):
        return Net(width)

def nothing():
    return 3

def failing():
    raise RuntimeError("no weights today")

def leaving():
    raise SystemExit(0)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_networks.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    return tmp_path


def weights(width: int = 4) -> dict[str, Tensor]:
    conv, norm = nn.Conv2d(3, 3 * width, 3, padding=1), nn.BatchNorm2d(3 * width)
    state = {f"module.conv.{k}": v for k, v in conv.state_dict().items()}
    return state | {f"module.norm.{k}": v for k, v in norm.state_dict().items()}


def test_a_factory_of_the_current_folder(here: Path, write: Write) -> None:
    before = list(sys.path)
    state = weights()
    loaded = load_model(write({"state_dict": state}), arch="my_networks:Net")
    assert (loaded.arch, loaded.config) == ("my_networks:Net", {})
    assert (loaded.task, loaded.scale, loaded.image_range) == ("sr", 2, 255.0)
    assert torch.equal(loaded.model.state_dict()["conv.weight"], state["module.conv.weight"])
    assert sys.path == before
    state = {k: v for k, v in weights(16).items() if "tracked" not in k}
    loaded = load_model(write(state), arch="my_networks:nets.make", config={"width": 16})
    assert loaded.config == {"width": 16}


@pytest.mark.parametrize(
    ("arch", "config", "expected"),
    [
        ("no_such_networks:Net", {}, "No module named 'no_such_networks'.*package.module:factory"),
        ("my_networks:Other", {}, "has no attribute 'Other'"),
        (":Net", {}, "package.module:factory"),
        ("my_networks:nothing", {}, "returned a int, not an nn.Module"),
        ("my_networks:nothing", {"width": 3}, "cannot be called with {'width': 3}"),
    ],
)
def test_impossible_factories(
    here: Path, write: Write, arch: str, config: dict[str, object], expected: str
) -> None:
    with pytest.raises(UsageError, match=expected):
        load_model(write(weights()), arch=arch, config=config)


def test_weights_of_another_network(here: Path, write: Write) -> None:
    with pytest.raises(LoadError, match="'conv.weight' should have shape"):
        load_model(write(weights(2)), arch="my_networks:Net")


@pytest.fixture
def spandrel(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A stand-in with the part of spandrel's interface that is used."""
    module = types.ModuleType("spandrel")
    module.__spec__ = importlib.machinery.ModuleSpec("spandrel", None)

    class UnsupportedModelError(Exception):
        pass

    class ModelLoader:
        def __init__(self, device: str) -> None:
            assert device == "cpu"

        def load_from_state_dict(self, state: dict[str, Tensor]) -> types.SimpleNamespace:
            if "known.weight" not in state:
                raise UnsupportedModelError("no such model")
            model = nn.Conv2d(3, 3, 1).double().train()
            architecture = types.SimpleNamespace(name="SPAN")
            return types.SimpleNamespace(model=model, scale=4, architecture=architecture)

    module.ModelLoader = ModelLoader  # type: ignore[attr-defined]
    module.UnsupportedModelError = UnsupportedModelError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spandrel", module)
    return module


def test_spandrel_serves_unknown_state_dicts(spandrel: types.ModuleType, write: Write) -> None:
    path = write({"known.weight": torch.ones(2)})
    loaded = load_model(path)
    assert (loaded.arch, loaded.scale, loaded.task) == ("spandrel:SPAN", 4, "sr")
    assert loaded.image_range == 1.0
    assert not loaded.model.training
    assert loaded.model.state_dict()["weight"].dtype == torch.float32
    with pytest.raises(UsageError, match="complete as it is: leave out"):
        load_model(path, config={"scale": 2})


def test_spandrel_may_not_know_it_either(spandrel: types.ModuleType, write: Write) -> None:
    with pytest.raises(LoadError, match="unknown architecture.*spandrel says 'no such model'"):
        load_model(write({"w": torch.ones(2)}))


def test_spandrel_may_be_broken(monkeypatch: pytest.MonkeyPatch, write: Write, here: Path) -> None:
    (here / "spandrel.py").write_text("raise RuntimeError('operator does not exist')")
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.delitem(sys.modules, "spandrel", raising=False)
    with pytest.raises(LoadError, match="repair spandrel.*operator does not exist"):
        load_model(write({"w": torch.ones(2)}))


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("failing", r"called with \{\} fails: RuntimeError: no weights today"),
        ("leaving", r"called with \{\} fails: SystemExit: 0"),
        ("nets.make", "missing 1 required positional argument: 'width'; .* with --arch-set"),
    ],
)
def test_a_factory_that_fails_says_why(here: Path, write: Write, factory: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_model(write(weights()), arch=f"my_networks:{factory}")


def test_a_module_that_cannot_be_imported_says_why(here: Path, write: Write) -> None:
    (here / "half_a_module.py").write_text("x = 1 +")
    with pytest.raises(UsageError, match="importing half_a_module fails: SyntaxError"):
        load_model(write(weights()), arch="half_a_module:x")
