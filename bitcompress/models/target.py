"""What the loader knows about one architecture, and how shapes become hyper-parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bitcompress.errors import LoadError

StateDict = Mapping[str, Tensor]

BATCHES = "*num_batches_tracked"
"""The step counter of every BatchNorm: no number of the output depends on it."""


@dataclass(frozen=True)
class Target:
    """One architecture that a state dict can be recognised as."""

    name: str
    signature: tuple[str, ...]
    """Keys that every state dict of this architecture has."""
    config: Callable[[StateDict], dict[str, Any]]
    """Hyper-parameters for `build`, deduced from shapes; what cannot be deduced is left out."""
    build: Callable[..., nn.Module]
    task: str
    """"sr", "classify", "segment", "depth" or "diffusion"."""
    derivable: tuple[str, ...] = (BATCHES,)
    """Patterns of keys that may be absent or ignored: they follow from the hyper-parameters."""
    absent: tuple[str, ...] = ()
    """Keys that a state dict of this architecture never has."""
    translate: Callable[[StateDict], dict[str, Tensor]] = dict
    """Brings other spellings of the keys to those of `build`."""
    undeducible: str = ""
    """What to say where a hyper-parameter without a default could not be deduced."""

    def detect(self, state: StateDict) -> bool:
        """Whether a state dict is one of this architecture."""
        return all(k in state for k in self.signature) and not any(k in state for k in self.absent)


def tensor(state: StateDict, key: str, dimensions: int) -> Tensor:
    """The tensor under a key.

    Raises: LoadError where it is missing, has another number of dimensions, or holds nothing.
    """
    if key not in state:
        raise LoadError(f"tensor {key!r} is missing: the file is incomplete or of another network")
    found = state[key]
    if found.dim() != dimensions or found.numel() == 0:
        raise LoadError(
            f"tensor {key!r} has shape {tuple(found.shape)}; {dimensions} dimensions, none of them "
            "0, are expected: the file is damaged or of another network"
        )
    return found


def size(state: StateDict, key: str, dimensions: int, axis: int = 0) -> int:
    """One size of the tensor under a key. Raises: as `tensor`."""
    return int(tensor(state, key, dimensions).shape[axis])


def count(state: StateDict, pattern: str, start: int = 0) -> int:
    """How many children a prefix has: `pattern` is a regular expression with one group, the index.

    Raises: LoadError where the indices are not `start`, `start` + 1 and so on; an absurd index can
    therefore never ask for an absurd model.
    """
    compiled = re.compile(pattern)
    found = {match[1] for key in state if (match := compiled.match(key))}
    for index in range(start, start + len(found)):
        if str(index) not in found:
            names = ", ".join(sorted(found)[:4])
            raise LoadError(
                f"the keys like {pattern!r} have the indices {names} but lack {index}: the file is "
                "incomplete, or not a checkpoint of this network"
            )
    return len(found)


def root(number: float, what: str) -> int:
    """The square root of a square number, at least 1. Raises: LoadError for other numbers."""
    result = math.isqrt(int(number)) if number >= 1 else 0
    if result * result != number or result == 0:
        raise LoadError(f"{what} should be a square number but is {number:g}: damaged shapes")
    return result


def ratio(number: int, by: int, what: str) -> int:
    """`number / by`, which must be whole. Raises: LoadError where it is not."""
    if by < 1 or number % by:
        raise LoadError(f"{what} should be a multiple of {by} but is {number}: damaged shapes")
    return number // by


def chain_scale(state: StateDict, prefix: str = "upsample") -> int:
    """The scale of a chain of convolutions `prefix.0`, `prefix.2`, ... with pixel shuffles."""
    scale = 1
    for index in range(0, 16, 2):
        key = f"{prefix}.{index}.weight"
        if key not in state:
            break
        weight = tensor(state, key, 4)
        rows = ratio(weight.shape[0], weight.shape[1], f"the first size of {key!r}")
        scale *= root(rows, f"the expansion of {key!r}")
    return scale
