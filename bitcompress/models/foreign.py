"""Models that are not ours: factories of the user, and what spandrel knows."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.errors import UsageError


@dataclass(frozen=True)
class Found:
    """A model that another loader recognised."""

    model: nn.Module
    name: str
    scale: int


def from_factory(arch: str, config: Mapping[str, Any]) -> nn.Module:
    """What "package.module:factory" makes of the settings; the current folder is importable.

    Raises: UsageError where there is no such factory, or where it fails or makes no module.
    """
    name, _, attribute = arch.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        factory: Any = importlib.import_module(name)
        for part in attribute.split("."):
            factory = getattr(factory, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"--arch {arch}: {error}; it should read package.module:factory, importable from the "
            "current folder or installed"
        ) from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"--arch {arch}: importing {name} fails: {_told(error)}") from error
    finally:
        sys.path.remove(here)
    try:
        with torch.random.fork_rng(devices=[]):
            model = factory(**config)
    except TypeError as error:
        raise UsageError(
            f"--arch {arch} cannot be called with {dict(config)}: {error}; arguments are given "
            "with --arch-set KEY=VALUE"
        ) from error
    except (Exception, SystemExit) as error:
        said = f"--arch {arch} called with {dict(config)} fails: {_told(error)}"
        raise UsageError(said) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"--arch {arch} returned a {type(model).__name__}, not an nn.Module")
    return model


def _told(error: BaseException) -> str:
    """What went wrong in somebody else's code."""
    return f"{type(error).__name__}: {error}".rstrip(": ")


def with_spandrel(state: Mapping[str, Tensor]) -> Found | str:
    """What spandrel makes of a state dict, or why there is nothing, as the end of a message."""
    if importlib.util.find_spec("spandrel") is None:
        return "or install spandrel, which knows many more: pip install 'bitcompress[sr]'"
    try:
        spandrel: Any = importlib.import_module("spandrel")
    except Exception as error:  # its own dependencies may fail in any way
        return f"or repair spandrel, which cannot be imported ({error})"
    try:
        descriptor = spandrel.ModelLoader(device="cpu").load_from_state_dict(dict(state))
    except Exception as error:  # an unknown network, or one that it cannot build
        reason = str(error).partition("\n")[0][:120] or type(error).__name__
        return f"or check that the file is complete: spandrel says {reason!r}"
    model = descriptor.model.eval().float()
    return Found(model, f"spandrel:{descriptor.architecture.name}", int(descriptor.scale))
