"""The packed twin of a binary block: one bit a weight, the rest folded into a list of steps.

It holds named tensors only, so that it can be stored: `settings()` says what it is in plain
numbers, `fields` which tensors that needs, and `build` makes it again from both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from torch import Tensor, nn

from bitcompress.errors import LoadError
from bitcompress.layers.binary.axes import PICTURES, TOKENS, along, over_places
from bitcompress.layers.binary.clock import Clock
from bitcompress.layers.binary.form import Field, PackedForm, TailForm
from bitcompress.layers.binary.shortcuts import Shortcut
from bitcompress.layers.binary.thresholds import DAB, Cut, Threshold, picked
from bitcompress.layers.binary.twin import bordered, runs_natively, twin_of
from bitcompress.layers.geometry import ConvGeometry, pad_for
from bitcompress.packed.binary import (
    TailStep,
    as_pixels,
    as_tokens,
    binary_conv2d,
    run_tail,
    sample_scaled,
)
from bitcompress.packed.dab import DabTables, dab_bounds


class Scaling(str, Enum):
    """Where DAB's scale meets the sums: nowhere, after them for each sample (and channel, where a
    layer is depthwise), for each word of 32 input channels, or inside them."""

    NONE = "none"
    SAMPLE = "sample"
    WORD = "word"
    CHANNEL = "channel"


class PackedThreshold(nn.Module):
    """What x is compared with: a table theta (K, C), or DAB's tables.

    Buffers: theta; or slope, bias (K, C), exponent (K, words) and gain (C,).
    """

    NAMES = ("theta", "slope", "bias", "exponent", "gain")
    theta: Tensor | None
    slope: Tensor | None
    bias: Tensor | None
    exponent: Tensor | None
    gain: Tensor | None

    def __init__(self, mode: str, tensors: Mapping[str, Tensor | None], axis: int) -> None:
        super().__init__()
        self.mode, self.axis = mode, axis
        for name in self.NAMES:
            self.register_buffer(name, tensors.get(name))

    @classmethod
    def of(cls, threshold: Threshold) -> PackedThreshold:
        """That of a trained threshold; mode is `static` or DAB's."""
        if not isinstance(threshold, DAB):
            return cls("static", {"theta": threshold.table().clone()}, threshold.axis)
        kept = {
            "slope": threshold.slope, "bias": threshold.bias, "gain": threshold.gain,
            "exponent": None if threshold.mode == "none" else threshold.exponent,
        }  # fmt: skip
        copies = {k: None if v is None else v.detach().clone() for k, v in kept.items()}
        return cls(threshold.mode, copies, threshold.axis)

    @property
    def groups(self) -> int:
        """How many rows its tables have."""
        table = self.theta if self.theta is not None else self.bias
        assert table is not None
        return len(table)

    @property
    def static(self) -> bool:
        """Whether no number of x is needed to know where to cut."""
        return self.theta is not None

    def bounds(self, x: Tensor, index: Tensor | None) -> Cut:
        """theta (C,) or (N, C), and DAB's scale (N, words)."""
        if self.theta is not None:
            return Cut(picked(self.theta, index), None)
        assert self.slope is not None and self.bias is not None and self.gain is not None
        exponent = None if self.exponent is None else picked(self.exponent, index)
        tables = DabTables(
            picked(self.slope, index), picked(self.bias, index), exponent, self.gain, self.mode
        )
        return Cut(*dab_bounds(over_places(x, self.axis), tables))


class PackedBlock(nn.Module):
    """A binary block on bits.

    threshold   a PackedThreshold: x >= theta is the bit of x, on raw x
    codes       the bits of the weight in stored form (buffer `weight`), of weight_shape
    scale       (O,) of rows: what the exact integer sum is multiplied by, norm's gain included
    scaling     where DAB's scale comes in
    tail        the steps after that, in order (packed/binary.py): tables (1 or K, Cout)
    shortcut    what the step `shortcut` adds, or None
    clock       gives the row of tables that have more than one
    geometry, pad_value, axis: where the convolution looks; axis -1 is a Linear on tokens
    Shapes: as the trained block.
    """

    scale: nn.Parameter

    def __init__(
        self, threshold: PackedThreshold, bits: Tensor, weight_shape: Sequence[int], scale: Tensor,
        geometry: ConvGeometry, pad_value: int, scaling: Scaling, tail: Sequence[TailStep],
        shortcut: Shortcut | None, clock: Clock | None, axis: int, method: str,
    ) -> None:  # fmt: skip
        super().__init__()
        self.threshold, self.shortcut, self.clock = threshold, shortcut, clock
        self.weight_shape, self.geometry, self.pad_value = tuple(weight_shape), geometry, pad_value
        self.scaling, self.axis, self.method = scaling, axis, method
        self._buffers["weight"] = bits
        self.scale = nn.Parameter(scale.detach().clone(), requires_grad=False)
        self.kinds = [(step.kind, step.eps) for step in tail]
        for number, step in enumerate(tail):
            self.register_buffer(f"tail{number}", step.table)
            self.register_buffer(f"tail{number}_shift", step.shift)

    @property
    def codes(self) -> Tensor:
        """The weight in stored form, bytes."""
        codes = self._buffers["weight"]
        assert codes is not None
        return codes

    @property
    def weight(self) -> Tensor:
        """Type, place and shape of the float weight, NaN: only bits are kept."""
        shape = self.geometry.float_shape(self.weight_shape)
        shape = shape if self.axis == PICTURES else shape[:2]
        return self.scale.new_full((), float("nan")).expand(shape)

    @property
    def channels(self) -> tuple[int, int]:
        """Input and output channels."""
        g = self.geometry
        copies = 1 if g.up is None else g.up[0] * g.up[1]
        return self.weight_shape[1] * g.groups, self.weight_shape[0] // copies

    @property
    def tail(self) -> list[TailStep]:
        """The steps after the sums."""
        found = []
        for number, (kind, eps) in enumerate(self.kinds):
            table, shift = self._buffers[f"tail{number}"], self._buffers[f"tail{number}_shift"]
            found.append(TailStep(kind, table, shift, eps))
        return found

    @property
    def weights(self) -> int:
        """How many weights are stored in one bit each."""
        return math.prod(self.weight_shape)

    @property
    def form(self) -> PackedForm:
        """What it is beside its tensors."""
        tail = [
            TailForm(s.kind, 0 if s.table is None else len(s.table), s.eps, s.shift is not None)
            for s in self.tail
        ]
        s = self.shortcut
        return PackedForm(
            self.method, self.axis, self.weight_shape, self.geometry, self.pad_value,
            self.scaling.value, self.threshold.mode, self.threshold.groups, tuple(tail),
            None if s is None else s.bridge, s is not None and s.gain is not None,
        )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """`form` in plain numbers, for a file; its tensors are those of `state_dict`."""
        return self.form.to_json()

    @staticmethod
    def fields(settings: Mapping[str, Any]) -> dict[str, Field]:
        """The tensors that belong to such settings, with shape and type. Raises: LoadError."""
        return PackedForm.from_json(settings).fields()

    @classmethod
    def build(
        cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], clock: Clock | None = None
    ) -> PackedBlock:
        """The block of `settings` with these tensors, those of `fields`.

        Raises: LoadError where they do not belong to each other, or a clock is missing.
        """
        form = PackedForm.from_json(settings)
        for name, (shape, kind) in form.fields().items():
            t = tensors.get(name)
            if t is None or tuple(t.shape) != shape or t.dtype != kind:
                raise LoadError(f"a binary block needs {name} of {shape} {kind}")
        if form.rows_of_tables() > 1 and clock is None:
            raise LoadError("a binary block with time groups needs the clock of its model")
        named = {name: tensors.get(f"threshold.{name}") for name in PackedThreshold.NAMES}
        tail = [
            TailStep(step.kind, tensors.get(f"tail{i}"), tensors.get(f"tail{i}_shift"), step.eps)
            for i, step in enumerate(form.tail)
        ]
        made = cls(
            PackedThreshold(form.mode, named, form.axis), tensors["weight"], form.weight_shape,
            tensors["scale"], form.geometry, form.pad_value, Scaling(form.scaling), tail,
            None if form.shortcut is None else Shortcut.fixed_of(
                form.shortcut, tensors.get("shortcut.gain")
            ),
            clock if form.rows_of_tables() > 1 else None, form.axis, form.method,
        )  # fmt: skip
        return made.eval()

    def bits(self, x: Tensor) -> Tensor:
        """Which numbers of x are +1 in this run. Returns: like x, bool."""
        pictures = self.geometry.opened(x) if self.axis == PICTURES else x
        theta = self.threshold.bounds(pictures, self.index(x)).theta
        return (pictures >= along(theta, pictures.dim(), self.axis)).view(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Bits of x, exact sums, one reading, the tail."""
        pictures = self.geometry.opened(x) if self.axis == PICTURES else x
        index = self.index(x)
        cut = self.threshold.bounds(pictures, index)
        z = self.scaled(pictures, cut)
        shortcut = None
        if self.shortcut is not None:
            size = (z.shape[2], z.shape[3]) if self.axis == PICTURES else None
            shortcut = self.shortcut(pictures, size)
        y = run_tail(z, self.tail, self.axis, index, shortcut)
        return self.geometry.reduced(y, x) if self.axis == PICTURES else y

    def index(self, x: Tensor) -> Tensor | None:
        """The time group of each sample of x; None where there is one for all."""
        if self.clock is None:
            return None
        whole = self.axis == TOKENS or x.dim() == (3 if self.geometry.line else 4)
        return self.clock.index(x.shape[0] if whole else 1)

    def scaled(self, x: Tensor, cut: Cut) -> Tensor:
        """The scaled sums of pictures, or of tokens, that are cut there."""
        if self.scaling is not Scaling.WORD and runs_natively(x):
            z = self._by_twin(x, cut.theta)
        else:
            z = self._by_operator(x, cut)
        if self.scaling is Scaling.SAMPLE:
            assert cut.scale is not None
            z = sample_scaled(z, cut.scale, self.axis)
        return z

    def _by_twin(self, x: Tensor, theta: Tensor) -> Tensor:
        """The sums by a packed layer. A threshold of each sample is taken off x before: rounding
        keeps which of two numbers is the larger."""
        fixed = self.threshold.theta if theta.dim() == 1 else None
        tokens = self.axis == TOKENS
        if not tokens:
            x = pad_for(x, self.geometry)
        if fixed is None:
            x = x - along(theta, x.dim(), self.axis)
        look = None
        if not tokens:
            x, look = bordered(x, self.geometry, self.pad_value)
        twin = twin_of(self, self.codes, self.weight_shape, self.scale, fixed, look)
        y: Tensor = twin(x)
        return y if tokens else self.geometry.placed(y)

    def _by_operator(self, x: Tensor, cut: Cut) -> Tensor:
        """The sums by one opaque operator, for gradients, capture and export."""
        theta = cut.theta if cut.theta.dim() == 2 else cut.theta[None]
        g = self.geometry
        seen = as_pixels(x) if self.axis == TOKENS else pad_for(x, g)
        words = cut.scale if self.scaling is Scaling.WORD else None
        z = binary_conv2d(
            seen, theta, words, self.codes, self.weight_shape, self.scale,
            g.stride, g.padding, g.dilation, g.groups, self.pad_value,
        )  # fmt: skip
        return as_tokens(z, x) if self.axis == TOKENS else g.placed(z)
