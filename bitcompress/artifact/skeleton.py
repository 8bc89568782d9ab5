"""The float skeleton of a packed model: its module tree without the memory of its floats.

Parameters are dropped (moved to the meta device) as they are registered, so the floats of no more
than one layer exist at a time. An architecture named by a file is first built without any memory
at all and compared with what the file holds; only then is it built.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registry
from torch.nn.modules.batchnorm import _NormBase

from bitcompress.artifact import checks
from bitcompress.artifact.source import Source
from bitcompress.errors import LoadError, UsageError
from bitcompress.graph.capture import plain_numbers, without_compilers
from bitcompress.graph.decompose import decompose
from bitcompress.graph.plain import make_plain
from bitcompress.graph.record import LAYERS
from bitcompress.models import MODELS
from bitcompress.models.foreign import from_factory
from bitcompress.models.targets import builder_of

Check = Callable[[nn.Module], None]
"""Raises LoadError where a skeleton is not what the file was made from."""

Edits = tuple[tuple[str, tuple[str, ...]], ...]


def build(
    source: Source,
    edits: Edits,
    check: Check,
    *,
    model: nn.Module | None,
    trust_arch: bool,
    size: int,
) -> nn.Module:
    """The edited module tree, its parameters on the meta device, its other buffers alive.

    `size` is how many names the file has: a skeleton of many times more modules is refused.
    Raises: LoadError where there is no way to build it, or where it is another one.
    """
    if model is not None:
        net = hollow_copy(model)
    elif (builder := builder_of(source.arch)) is not None:
        with torch.device("meta"):
            check(replay(_built(source, builder, size), edits))
        with _hollow():
            net = _built(source, builder, size)
    elif ":" in source.arch and not source.arch.startswith("spandrel:") and trust_arch:
        net = _from_factory(source, size)
    else:
        raise LoadError(_remedy(source))
    net = replay(net, edits)
    check(net)
    return net


def _remedy(source: Source) -> str:
    """Why a file alone is not enough, and what is."""
    kind = f" ({source.class_name})" if source.class_name else ""
    if source.arch == "pt2":
        return (
            "this model was made from an exported program, whose code the packed file does not "
            "hold: give the program's module, load(path, model=load_model('NAME.pt2').model)"
        )
    if source.arch.startswith("spandrel:") or source.arch == "pickle":
        return (
            f"this model was made from a file of a foreign class{kind}: give that float model, "
            "load(path, model=load_model('FILE').model)"
        )
    if ":" in source.arch:
        return (
            f"this model is built by {checks.shorten(source.arch)}; a file may not choose code to "
            "run: if you know it, give trust_arch=True, or an instance, load(path, model=...)"
        )
    if source.arch:
        return (
            f"this model is a {checks.shorten(source.arch)}, which is none of {', '.join(MODELS)}: "
            "it may be of a newer version; give an instance, load(path, model=...)"
        )
    return (
        f"this model was made from a live module{kind}: give an instance of the same sizes, "
        "load(path, model=...); its weights do not matter"
    )


def _built(source: Source, factory: Callable[..., nn.Module], size: int) -> nn.Module:
    """What a factory of ours makes of the configuration in a file."""
    with _counted(size), torch.random.fork_rng(devices=[]):
        try:
            return factory(**source.config)
        except LoadError:
            raise
        except Exception as error:
            raise LoadError(
                f"a {source.arch} of these settings cannot be built ({error}): the file is "
                "damaged, or of another version of bitcompress"
            ) from error


def _from_factory(source: Source, size: int) -> nn.Module:
    """What the user's factory makes; dropped parameters are tried first, then as it is."""
    try:
        with _hollow(), torch.random.fork_rng(devices=[]):
            net = from_factory(source.arch, source.config)
        if not _leftovers(net):
            return net
    except Exception:
        # Code that computes with its parameters while it builds them needs them alive; what else
        # is wrong, the second try says.
        pass
    with torch.random.fork_rng(devices=[]):
        return from_factory(source.arch, source.config)


def _leftovers(net: nn.Module) -> bool:
    """Whether a tensor that no file holds was lost with the parameters that it was made from."""
    for module in net.modules():
        loose = [t for t in vars(module).values() if isinstance(t, Tensor)]
        loose += [
            t
            for name, t in module._buffers.items()
            if t is not None and name in module._non_persistent_buffers_set
        ]
        if any(t.is_meta for t in loose):
            return True
    return False


def hollow_copy(model: nn.Module) -> nn.Module:
    """A deep copy of a user's model whose parameters are on the meta device."""
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is a {type(model).__name__}; an nn.Module is needed")
    memo = {**plain_numbers(model), **{id(p): _dropped(p) for p in model.parameters()}}
    try:
        return without_compilers(copy.deepcopy(model, memo))
    except Exception as error:
        raise UsageError(
            f"{type(model).__name__} cannot be deep-copied ({type(error).__name__}: {error}); "
            "detach cached tensors and drop open files or locks held by the module"
        ) from error


def _dropped(parameter: nn.Parameter) -> nn.Parameter:
    empty = torch.empty_like(parameter, device="meta", requires_grad=False)
    return nn.Parameter(empty, requires_grad=False)


@contextlib.contextmanager
def _hollow() -> Iterator[None]:
    """While this is open, this thread's modules drop each parameter as they get it."""
    me = threading.get_ident()

    def drop(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        if threading.get_ident() != me or parameter.is_meta:
            return None
        return _dropped(parameter)

    handle = registry.register_module_parameter_registration_hook(drop)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _counted(size: int) -> Iterator[None]:
    """While this is open, this thread may make so many modules as a file of `size` names needs."""
    me, limit = threading.get_ident(), 1000 + 64 * size
    made = 0

    def count(module: nn.Module, name: str, child: nn.Module | None) -> None:
        nonlocal made
        if threading.get_ident() == me:
            made += 1
            if made > limit:
                raise LoadError(
                    f"the settings in the file ask for more than {limit} modules for the {size} "
                    "names that it holds: it is damaged"
                )

    handle = registry.register_module_module_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def replay(net: nn.Module, edits: Edits) -> nn.Module:
    """The module tree after the edits that were made to it before layers were replaced.

    Raises: LoadError where an edit is unknown or does not fit.
    """
    for edit, names in edits:
        if edit not in EDITS:
            raise LoadError(f"the file has the edit {edit!r}, unknown here: update bitcompress")
        EDITS[edit](net, names)
    return net


def _decompose(net: nn.Module, names: tuple[str, ...]) -> None:
    with torch.device("meta"):
        opened = decompose(net)
    if set(opened) != set(names):
        wrong = min(set(opened) ^ set(names))
        raise LoadError(f"{wrong!r} is an attention layer in one of file and model only")


def _plain(net: nn.Module, names: tuple[str, ...]) -> None:
    for name in names:
        try:
            layer = net.get_submodule(name)
        except AttributeError as error:
            raise LoadError(f"the file has a layer {name!r}, which the model lacks") from error
        if not (isinstance(layer, LAYERS) and make_plain(layer.to("meta"))):
            raise LoadError(
                f"the weight of {name!r} was computed on each run (weight norm, a parametrization) "
                "when the file was made, and is not in this model: give a model of that form"
            )


def _identity(net: nn.Module, names: tuple[str, ...]) -> None:
    for name in names:
        owner, _, leaf = name.rpartition(".")
        try:
            parent = net.get_submodule(owner)
            if not isinstance(net.get_submodule(name), _NormBase):
                raise LoadError(f"the file folds {name!r}, which is no norm in the model")
        except AttributeError as error:
            raise LoadError(f"the file folds {name!r}, which the model does not have") from error
        parent._modules[leaf] = nn.Identity()


EDITS: dict[str, Callable[[nn.Module, tuple[str, ...]], None]] = {
    "decompose": _decompose,
    "identity": _identity,
    "plain": _plain,
}
