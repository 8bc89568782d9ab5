"""Real-valued shortcuts around binary layers: parameter-free, for any channel counts and sizes.

CFB is BiDense's bypass for any Cin -> Cout. Sizes are met before it: an average over each stride,
the nearest pixel where a transposed convolution enlarges, the centre where a convolution has no
border. What is summed is summed in an order written down here: trained and packed agree bit for
bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bitcompress.errors import UsageError
from bitcompress.layers.binary.axes import PICTURES

ORDERS = ("paper2d", "contiguous")


def cfb_rows(cin: int, cout: int, order: str = "paper2d") -> list[list[int]]:
    """Which inputs each output is the mean of.

    With q = cout // cin and r = cout % cin: q copies of all inputs, then r means. For r > 1 with
    n = cin // r, the first r - 1 means are over n inputs each, strided through the first n (r - 1)
    (`paper2d`) or side by side (`contiguous`); the last is over all that are left.
    Source: BiDense's code. Differs: r = 1, which crashes there, is the mean of all inputs.
    """
    if order not in ORDERS:
        raise UsageError(f"the order of a CFB is one of {', '.join(ORDERS)}, not {order!r}")
    copies, merged = divmod(cout, cin)
    rows = [[c] for _ in range(copies) for c in range(cin)]
    if merged == 0:
        return rows
    n = cin // merged
    used = n * (merged - 1)
    for j in range(merged - 1):
        near = range(j * n, (j + 1) * n)
        rows.append([i * (merged - 1) + j for i in range(n)] if order == "paper2d" else list(near))
    rows.append(list(range(used, cin)))
    return rows


class CFB(nn.Module):
    """x (N, Cin, ...) or (..., Cin) -> Cout channels, each a copy or a mean of inputs.

    Linear, without parameters; its rows are `cfb_rows`. A mean adds from the lowest input up and is
    multiplied by float32(1 / n).
    """

    def __init__(self, cin: int, cout: int, order: str = "paper2d", axis: int = PICTURES) -> None:
        super().__init__()
        self.cin, self.cout, self.order, self.axis = cin, cout, order, axis
        self.rows = cfb_rows(cin, cout, order)

    def forward(self, x: Tensor) -> Tensor:
        """Returns: like x with Cout channels."""
        copies, merged = divmod(self.cout, self.cin)
        parts = [x] * copies
        if merged:
            n = self.cin // merged
            used = n * (merged - 1)
            if merged > 1:
                first = x.narrow(self.axis, 0, used)
                axis = self.axis % x.dim()
                paper = self.order == "paper2d"
                split = (n, merged - 1) if paper else (merged - 1, n)
                parts.append(
                    _mean(torch.unflatten(first, axis, split), axis if paper else axis + 1)
                )
            last = x.narrow(self.axis, used, self.cin - used)
            parts.append(_mean(last, self.axis % x.dim()).unsqueeze(self.axis))
        return parts[0] if len(parts) == 1 else torch.cat(parts, self.axis)

    def extra_repr(self) -> str:
        """Sizes, for print(model)."""
        return f"{self.cin}, {self.cout}, {self.order}"


def _mean(x: Tensor, axis: int) -> Tensor:
    pieces = x.unbind(axis)
    total = pieces[0]
    for piece in pieces[1:]:
        total = total + piece
    return total if len(pieces) == 1 else total * (1.0 / len(pieces))


@dataclass(frozen=True)
class Bridge:
    """What a shortcut spans: channels, the stride or enlargement of its layer, the order of CFB."""

    cin: int
    cout: int
    axis: int = PICTURES
    stride: tuple[int, int] = (1, 1)
    up: tuple[int, int] | None = None
    order: str = "paper2d"


class Shortcut(nn.Module):
    """What is added to a binary layer: its input, brought to the size and channels of its output.

    gain (Cout,) of a trained one: 1 at first, fixed unless learn; all ones multiply nothing. A
    packed one has a gain only where it is not all ones.
    """

    gain: nn.Parameter | None

    def __init__(self, bridge: Bridge, *, learn: bool = False, gain: bool = True) -> None:
        super().__init__()
        self.bridge, self.axis = bridge, bridge.axis
        same = bridge.cin == bridge.cout
        self.channels = None if same else CFB(bridge.cin, bridge.cout, bridge.order, bridge.axis)
        self.gain = nn.Parameter(torch.ones(bridge.cout), requires_grad=learn) if gain else None
        self.fixed = False
        """Whether the gain is known to matter: nobody looks at its numbers then."""

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """x for an output of that height and width; tokens have none."""
        bridge = self.bridge
        s = x if size is None else fitted(x, size, bridge.stride, bridge.up)
        s = s if self.channels is None else self.channels(s)
        if self.gain is None or not (self.fixed or self.gain.requires_grad or self.scales()):
            return s
        return s * (self.gain.view(-1, 1, 1) if self.axis == PICTURES else self.gain)

    def scales(self) -> bool:
        """Whether the gain is anything but ones."""
        return self.gain is not None and not bool((self.gain.detach() == 1).all())

    def twin(self) -> Shortcut:
        """The same, fixed, for a packed block."""
        gain = self.gain.detach().clone() if self.gain is not None and self.scales() else None
        return Shortcut.fixed_of(self.bridge, gain)

    @classmethod
    def fixed_of(cls, bridge: Bridge, gain: Tensor | None) -> Shortcut:
        """One that does not learn, with a gain or without."""
        made = cls(bridge, gain=False)
        made.fixed = True
        made.gain = None if gain is None else nn.Parameter(gain, requires_grad=False)
        return made


def fitted(
    x: Tensor, size: tuple[int, int], stride: tuple[int, int], up: tuple[int, int] | None
) -> Tensor:
    """x (N, C, H, W) at another height and width.

    A stride takes the average of each stride x stride pixels, fewer at the end; an enlarging layer
    takes the nearest pixel; what is left is cut off, or filled with zeros, evenly on both sides.
    """
    if up is not None:
        large = (x.shape[2] * up[0], x.shape[3] * up[1])
        x = F.interpolate(x, size=large, mode="nearest")
    elif stride != (1, 1):
        x = F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False)
    rows, columns = (x.shape[2 + i] - size[i] for i in range(2))
    if rows == 0 and columns == 0:
        return x
    top, left = rows // 2, columns // 2
    return F.pad(x, (-left, left - columns, -top, top - rows))
