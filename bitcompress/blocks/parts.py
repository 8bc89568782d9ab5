"""Several blocks in the place of one layer: what BI-DiffSR builds so that each keeps its shape.

A binary block can carry an identity shortcut only where it has as many channels out as in, and
keeps height and width. So a layer that changes either becomes several blocks that do not, and moves
of channels and pixels around them:

            spread over the blocks          joined by   then
split       all channels to each            cat
wide        all channels to each            cat                         Cout = m Cin
narrow      every m-th channel              sum                         Cin = m Cout
fusion      odd and even ones exchanged     sum                         CS-Fusion
down        side by side                    sum         pixel unshuffle CP-Down
up          all channels to each            cat         pixel shuffle   CP-Up
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bitcompress.errors import ShapeError

Spread = Literal["all", "strided", "exchanged", "chunks"]
Join = Literal["cat", "sum"]
After = Literal["", "unshuffle", "shuffle"]


@dataclass(frozen=True)
class Wiring:
    """How several blocks stand in the place of a layer."""

    spread: Spread
    join: Join
    after: After = ""


WIRINGS: dict[str, Wiring] = {
    "split": Wiring("all", "cat"),
    "wide": Wiring("all", "cat"),
    "narrow": Wiring("strided", "sum"),
    "fusion": Wiring("exchanged", "sum"),
    "down": Wiring("chunks", "sum", "unshuffle"),
    "up": Wiring("all", "cat", "shuffle"),
}


class Parts(nn.Module):
    """Blocks and the wiring of one form between them.

    Shapes: as the layer that they stand for. Pictures with an odd side get one more row or column
    at the end, a copy of the last, before their pixels become channels.
    Source: BI-DiffSR (NeurIPS 2024): CP-Down, CP-Up, CS-Fusion. Differs: any number of blocks.
    """

    def __init__(
        self, form: str, parts: Sequence[nn.Module], layer: str, stands_for: Sequence[int]
    ) -> None:
        super().__init__()
        self.form = form
        self.layer, self.stands_for = layer, tuple(stands_for)
        """The class and the weight shape of the float layer in whose place they stand."""
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        """What the blocks give together."""
        return self.joined([part(x) for part, x in zip(self.parts, self.spread(x), strict=True)])

    def spread(self, x: Tensor) -> list[Tensor]:
        """What each block is given."""
        if WIRINGS[self.form].after == "unshuffle":
            x = _even(x)
        return spread(x, WIRINGS[self.form].spread, len(self.parts))

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """What becomes of the blocks' results."""
        wiring = WIRINGS[self.form]
        axis = -1 if self.form == "split" else -3
        y = torch.cat(list(parts), axis) if wiring.join == "cat" else _sum(parts)
        if wiring.after:
            return F.pixel_unshuffle(y, 2) if wiring.after == "unshuffle" else F.pixel_shuffle(y, 2)
        return y

    def extra_repr(self) -> str:
        """The form, for print(model)."""
        return self.form


def spread(x: Tensor, how: Spread, parts: int) -> list[Tensor]:
    """The channels that each of `parts` blocks is given.

    Shapes: x (..., C, H, W). Raises: ShapeError where channels do not go round.
    """
    if how == "all":
        return [x] * parts
    index = channel_index(x.shape[-3], how, parts)
    if how == "chunks":
        return list(x.chunk(parts, -3))
    if how == "strided":
        return [x[..., j::parts, :, :] for j in range(parts)]
    return [x.index_select(-3, each.to(x.device)) for each in index]


def channel_index(channels: int, how: Spread, parts: int) -> list[Tensor]:
    """The numbers of the channels that each block is given."""
    if how == "all":
        return [torch.arange(channels)] * parts
    if channels % (parts * (2 if how == "exchanged" else 1)):
        raise ShapeError(f"{channels} channels cannot be shared out to {parts} blocks")
    numbers = torch.arange(channels)
    if how == "chunks":
        return list(numbers.chunk(parts))
    if how == "strided":
        return [numbers[j::parts] for j in range(parts)]
    one, other = numbers.chunk(2)
    return [torch.cat([one[1::2], other[0::2]]), torch.cat([one[0::2], other[1::2]])]


def _sum(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _even(x: Tensor) -> Tensor:
    rows, columns = x.shape[-2] % 2, x.shape[-1] % 2
    return F.pad(x, (0, columns, 0, rows), mode="replicate") if rows or columns else x
