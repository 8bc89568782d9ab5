"""What no list of steps can repeat: numbers that Python reads, random numbers, other memory.

An operator is judged by its tags and its schema, a function of a tensor that no operator stands
for by a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten

READS = "Python reads numbers of a tensor"
REFUSED = {
    aten.as_strided.default: "memory is read by strides",
    aten.as_strided_.default: "memory is read by strides",
    aten.is_nonzero.default: READS,
}
"""Operators that are refused by name."""
TAGS = {
    torch.Tag.nondeterministic_seeded: "random numbers are drawn",
    torch.Tag.data_dependent_output: READS,
    torch.Tag.dynamic_output_shape: "a shape follows from numbers",
    torch.Tag.inplace_view: "a tensor is given another shape in place",
}
"""Operators that are refused by what torch says of them."""
DROPOUTS = frozenset(
    {
        aten.dropout.default, aten.native_dropout.default, aten.alpha_dropout.default,
        aten.feature_dropout.default, aten.feature_alpha_dropout.default,
    }
)  # fmt: skip
"""They draw numbers only in training, of which their third argument tells."""
ATTENTIONS = frozenset({aten._scaled_dot_product_flash_attention_for_cpu.default})
"""They draw numbers only where their fourth argument, a share to drop, is above 0."""
BY_PLACE = (aten.index.Tensor, aten.index.Tensor_out)
"""Their shape follows from numbers only where an index is a mask."""
MAY_READ = (READS, "a shape follows from numbers")
"""What is harmless where the numbers are the same in every run."""
NORMS = frozenset({aten.native_batch_norm.default, aten.cudnn_batch_norm.default})
"""They change running statistics, which their schema does not say."""


def refusal(func: Any, args: Sequence[Any], constant: bool) -> str:
    """Why an operator cannot be repeated; empty where it can. constant: its tensors all are."""
    reason = REFUSED.get(func, "")
    if func in DROPOUTS and not args[2]:
        return ""
    if func in ATTENTIONS and (len(args) < 4 or args[3] == 0):
        return ""
    for tag, why in TAGS.items():
        if not reason and tag in func.tags and not _by_place(func, args):
            reason = why
    if func in NORMS and args[3] is not None and args[5]:
        reason = "statistics of batches are kept"
    return "" if constant and reason in MAY_READ else reason


def _by_place(func: Any, args: Sequence[Any]) -> bool:
    masks = (torch.bool, torch.uint8)
    return func in BY_PLACE and not any(
        isinstance(index, Tensor) and index.dtype in masks for index in args[1]
    )


UNSEEN = {
    Tensor.tolist: READS,
    Tensor.numpy: READS,
    Tensor.__array__: READS,
    Tensor.data_ptr: "an address is read",
    Tensor.untyped_storage: "memory is read as a storage",
    Tensor.storage: "memory is read as a storage",
    Tensor.__dlpack__: "memory is handed on",
    Tensor.data.__set__: "a tensor is given other memory",  # type: ignore[attr-defined]
    Tensor.set_: "a tensor is given other memory",
}
"""Functions that read or change what no operator shows."""


class Unseen(TorchFunctionMode):
    """Tells of functions of `UNSEEN` on tensors."""

    def __init__(self, tell: Callable[[Tensor, str], None]) -> None:
        super().__init__()
        self.tell = tell

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        why = UNSEEN.get(func)
        if why is not None and args and isinstance(args[0], Tensor):
            self.tell(args[0], why)
        return func(*args, **(kwargs or {}))
