"""Any checkpoint as a float model in eval mode: the architecture is told from the tensors.

State dicts of the architectures in `MODELS`, state dicts for a factory of the user, exported
programs, and, only where the user insists, whole pickled modules.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bitcompress.errors import LoadError, UsageError
from bitcompress.models import MODELS, Target, exported, fitting, foreign
from bitcompress.models.checkpoint import (
    check_tensors,
    digest,
    kind_of,
    read_safetensors,
    stored_config,
    unwrap,
)
from bitcompress.models.pickles import read_object, whole_module
from bitcompress.models.probe import picture_scale


@dataclass(frozen=True)
class Loaded:
    """A float model and what is known about it."""

    model: nn.Module
    """In eval mode, on the CPU, float32."""
    arch: str
    """A name of `MODELS`, "pkg.mod:factory", "pt2", "pickle" or "spandrel:NAME"."""
    config: dict[str, Any]
    """The hyper-parameters that built it, where it was built here."""
    task: str | None
    """"sr", "classify" or None where nobody knows."""
    scale: int | None
    image_range: float
    """Pixels go in and come out in [0, image_range]."""
    path: Path
    sha256: str


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name, without envelope and wrapper prefix.

    Raises: LoadError where the file is no state dict, or holds NaN or infinite values.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "pt2":
        raise LoadError(f"{path} is an exported program, not a state dict: load it as a model")
    if kind == "safetensors":
        state = unwrap(read_safetensors(path)[0], path)
    else:
        state = unwrap(read_object(path), path)
    check_tensors(state, path)
    return state


def load_model(
    path: str | Path,
    *,
    arch: str | None = None,
    config: Mapping[str, Any] | None = None,
    unsafe_pickle: bool = False,
) -> Loaded:
    """The model of a checkpoint file, float32, in eval mode.

    `arch` names an entry of `MODELS` or a "pkg.mod:factory" of the user; without it the tensors
    decide. `config` overrides hyper-parameters. `unsafe_pickle` lets a file run code on load.

    Raises: LoadError where the file cannot be loaded as what it is; UsageError where `arch` or
    `config` are impossible.
    """
    path, overrides = Path(path), dict(config or {})
    _check_arch(arch)
    kind = kind_of(path)
    if kind == "pt2":
        _refuse_settings("an exported program", arch, overrides)
        model, scale = exported.load(path, trusted=unsafe_pickle)
        return _loaded(model, "pt2", {}, path, scale=scale)
    said_arch: str | None = None
    said: dict[str, Any] = {}
    if kind == "safetensors":
        content: object
        content, metadata = read_safetensors(path)
        said_arch, said = stored_config(path, metadata)
    else:
        content = read_object(path, trusted=unsafe_pickle)
        module = whole_module(content)
        if module is not None:
            _refuse_settings("a whole pickled module", arch, overrides)
            check_tensors(module.state_dict(), path)
            return _loaded(module.float().eval(), "pickle", {}, path)
    state = unwrap(content, path)
    check_tensors(state, path)
    if arch is not None and ":" in arch:
        model = foreign.from_factory(arch, overrides)
        fitting.fill(model, state, path)
        return _loaded(model, arch, overrides, path)
    target = _target(state, arch or _known(said_arch, path))
    if target is not None:
        model, settings = fitting.build(target, state, said, overrides, path)
        return _loaded(model, target.name, settings, path, task=target.task)
    found = foreign.with_spandrel(state)
    if isinstance(found, str):
        raise LoadError(f"{path}: {_unknown(state)}, {found}")
    _refuse_settings(found.name, arch, overrides)
    return _loaded(found.model, found.name, {}, path, scale=found.scale, task="sr")


def _check_arch(arch: str | None) -> None:
    """Refuse an architecture that is neither known nor a factory."""
    if arch is None or arch in MODELS or ":" in arch:
        return
    near = difflib.get_close_matches(arch, MODELS, 1, 0.75)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise UsageError(
        f"architecture {arch!r} is unknown{hint}: give one of {', '.join(MODELS)} or a "
        "package.module:factory of your own"
    )


def _refuse_settings(what: str, arch: str | None, overrides: Mapping[str, Any]) -> None:
    """Say where `arch` or `config` would be ignored, instead of ignoring them."""
    if arch is not None or overrides:
        raise UsageError(f"{what} is complete as it is: leave out --arch and the settings")


def _known(said: str | None, path: Path) -> str | None:
    """The architecture that a file says of itself; a file may not name code to import."""
    if said is not None and said not in MODELS:
        raise LoadError(
            f"{path} says that it is a {said!r}, which is none of {', '.join(MODELS)}: it may be "
            "of a newer version; name the architecture with --arch"
        )
    return said


def _target(state: Mapping[str, Tensor], name: str | None) -> Target | None:
    if name is not None:
        return MODELS[name]
    return next((target for target in MODELS.values() if target.detect(state)), None)


def _unknown(state: Mapping[str, Tensor]) -> str:
    """What to say about a state dict that no architecture fits."""
    scores = {
        name: sum(key in state for key in target.signature) / len(target.signature)
        for name, target in MODELS.items()
    }
    nearest = max(scores, key=lambda name: scores[name])
    lacking = [key for key in MODELS[nearest].signature if key not in state]
    text = f"unknown architecture; the first of {len(state)} keys are {', '.join(list(state)[:4])}"
    if scores[nearest] > 0 and lacking:
        text += f"; the nearest is {nearest}, but {lacking[0]} is missing"
    return (
        f"{text}. Known are {', '.join(MODELS)}: name one with --arch, give the network's own code "
        "with --arch package.module:factory"
    )


def _loaded(
    model: nn.Module,
    arch: str,
    config: dict[str, Any],
    path: Path,
    *,
    scale: int | None = None,
    task: str | None = None,
) -> Loaded:
    """The record of a loaded model; what is not said is read from the model's own attributes, and
    whether an unknown one enlarges pictures is seen in a small run."""
    own_scale = getattr(model, "scale", None)
    if scale is None and isinstance(own_scale, int):
        scale = own_scale
    elif scale is None and task is None and arch != "pt2":
        scale = picture_scale(model)
    own_range = getattr(model, "image_range", 1.0)
    return Loaded(
        model=model,
        arch=arch,
        config=config,
        task=task if task is not None else ("sr" if scale is not None else None),
        scale=scale,
        image_range=float(own_range) if isinstance(own_range, int | float) else 1.0,
        path=path,
        sha256=digest(path),
    )
