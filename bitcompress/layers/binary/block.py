"""A binary layer, trainable: threshold, product, norm, activation and shortcut.

    s, alpha = threshold(x)                signs, and DAB's scale of the sample
    z = gain scale conv(s, Sign(w))        gain of the norm, one rounding
    y = tail(z)                            alpha, shift, activation and shortcut, in order

In eval the tail is the list of steps that the packed twin runs (packed/binary.py), in float32 and
in the same order, so both give the same bits. In training a batch norm uses its batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitcompress.errors import NotPackable, UsageError
from bitcompress.layers.binary import fused
from bitcompress.layers.binary.activations import Activation
from bitcompress.layers.binary.axes import PICTURES, TOKENS, along
from bitcompress.layers.binary.clock import Clock
from bitcompress.layers.binary.core import BinaryCore, binary_weight
from bitcompress.layers.binary.gradients import laid, shown
from bitcompress.layers.binary.norms import BlockNorm, ChannelBatchNorm, ChannelLayerNorm
from bitcompress.layers.binary.packed import PackedBlock, PackedThreshold, Scaling
from bitcompress.layers.binary.shortcuts import Shortcut
from bitcompress.layers.binary.spec import BlockSpec
from bitcompress.layers.binary.thresholds import DAB, Threshold
from bitcompress.layers.geometry import pad_for
from bitcompress.packed.binary import TailStep, as_pixels, as_tokens, run_tail, sample_scaled, times
from bitcompress.packed.dab import WORD
from bitcompress.packed.ops import conv2d_size, memory_format_like
from bitcompress.packed.stored import pack

STAGES = ("activations", "both")


class BinaryBlock(nn.Module):
    """What a float layer becomes; made by `binary_block`.

    Shapes: x (N, C, ...) or (C, ...) for convolutions, (..., C) for a Linear. Returns: as the float
    layer.
    """

    bias: nn.Parameter | None

    def __init__(
        self, spec: BlockSpec, threshold: Threshold, core: BinaryCore, norm: BlockNorm | None,
        activation: Activation | None, shortcut: Shortcut | None, clock: Clock | None,
        bias: Tensor | None, axis: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.spec, self.axis = spec, axis
        self.threshold, self.core, self.norm = threshold, core, norm
        self.activation, self.shortcut, self.clock = activation, shortcut, clock
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    @property
    def channels(self) -> tuple[int, int]:
        """Input and output channels."""
        weight, g = self.core.weight, self.core.geometry
        return weight.shape[1] * g.groups, len(weight) // self.core.copies

    @property
    def timed(self) -> bool:
        """Whether any of its tables has a row for each time group."""
        rows = [self.threshold.groups, 1 if self.activation is None else self.activation.groups]
        return max(rows) > 1

    @property
    def weights(self) -> int:
        """How many weights are stored in one bit each."""
        return self.core.weight.numel()

    @property
    def stage(self) -> str:
        """`both`, or `activations` while the weights are still real."""
        return self.core.stage

    @stage.setter
    def stage(self, stage: str) -> None:
        if stage not in STAGES:
            raise UsageError(f"a stage is one of {', '.join(STAGES)}, not {stage!r}")
        self.core.stage = stage

    def progress(self, share: float) -> None:
        """Tells surrogates that change over the training which share of it is done."""
        self.threshold.sign.progress(share)
        self.core.share = share

    def forward(self, x: Tensor) -> Tensor:
        """The layer, with its shortcut."""
        index = self._index(x)
        if self.training:
            quick = self._quick(x, index)
            if quick is not None:
                return quick
            if isinstance(self.norm, ChannelBatchNorm | ChannelLayerNorm):
                return self.finish(*self.parts(x), x)
            z, shortcut = self._parts(x, *self.folded())
            return self._reduced(self._closing(z, shortcut, index), x)
        gain, shift = self.folded()
        z, shortcut = self._parts(x, gain)
        y = run_tail(z, self.tail(shift), self.axis, index, shortcut)
        if x.dim() == y.dim() == 4 and self.axis == PICTURES:
            # As the packed twin gives it: what follows may round by the order in memory.
            y = y.contiguous(memory_format=memory_format_like(x))
        return self._reduced(y, x)

    def _quick(self, x: Tensor, index: Tensor | None) -> Tensor | None:
        """Forward in training by the kernels of `fused.py`; None where they do not take it."""
        g, norm, act = self.core.geometry, self.norm, self.activation
        plain = self.axis == PICTURES and g.up is None and g.trim == (0, 0)
        one = not isinstance(self.threshold, DAB) or self.threshold.mode in ("none", "tensor")
        if not plain or not one or isinstance(norm, ChannelLayerNorm):
            return None
        pictures = self._opened(x)
        pictures = pictures.float() if pictures.dtype == torch.bfloat16 else pictures
        if not fused.takes(pictures):
            return None
        pictures = laid(pictures)
        s, alpha = self.threshold(pictures, index, self._bordered(pictures))
        s, look = self.core.bordered(s)
        shape = self.core.weight.shape
        size = conv2d_size(s.shape, shape, look.stride, look.padding, look.dilation)
        beside = None if self.shortcut is None else self.shortcut(pictures, size)
        batch = norm if isinstance(norm, ChannelBatchNorm) else None
        gain, shift = self.folded() if batch is None else (batch.weight, batch.bias)
        tables = [None] * 3 if act is None else [act.before, act.slope, act.after]
        rows = [t if t is None or len(t) == 1 else t[index] for t in tables]
        if both := self.stage == "both":
            self.core.prepare()
        latent = self.core.latent() if both else None
        plan = fused.Plan(latent, look, self.spec.rule.before, batch, self.bias)
        numbers = fused.Numbers(alpha, gain, shift, *rows)
        return self._reduced(fused.fused(s, self.core.weight, numbers, beside, plan), x)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The scaled sums before any norm, and what the shortcut adds; pictures (N, O, H, W)."""
        return self._parts(x, None)

    def finish(self, scaled: Tensor, shortcut: Tensor | None, x: Tensor) -> Tensor:
        """The rest of forward, from what `parts` gave of x; a batch norm in training as such."""
        if self.training and isinstance(self.norm, ChannelBatchNorm | ChannelLayerNorm):
            z = self.norm(scaled if self.bias is None else self._moved(scaled, self.bias))
        else:
            gain, shift = self.folded()
            z = scaled if gain is None else scaled * along(gain, scaled.dim(), self.axis)
            if not self.training:
                y = run_tail(z, self.tail(shift), self.axis, self._index(x), shortcut)
                return self._reduced(y, x)
            z = z if shift is None else self._moved(z, shift)
        return self._reduced(self._closing(z, shortcut, self._index(x)), x)

    def _moved(self, z: Tensor, shift: Tensor) -> Tensor:
        return z + along(shift, z.dim(), self.axis)

    def _closing(self, z: Tensor, shortcut: Tensor | None, index: Tensor | None) -> Tensor:
        """Activation and shortcut, in the order of the method, for training."""
        act = self.activation
        if self.spec.rule.before:
            z = z if act is None else act(z, self.axis, index)
            z, act = (z if shortcut is None else z + shortcut), None
        else:
            z = z if shortcut is None else z + shortcut
        z = z if act is None else act(z, self.axis, index)
        return laid(z) if self.axis == PICTURES else z

    def sums(self, x: Tensor) -> Tensor:
        """The exact sums of signs, (N, rows, OH, OW) int32; tokens are pixels of one row."""
        with torch.no_grad():
            pictures = self._opened(x)
            theta = self.threshold.bounds(pictures, self._index(x)).theta
            seen = self._bordered(pictures)
            bits = seen >= along(theta, seen.dim(), self.axis)
            s = torch.where(bits, 1.0, -1.0)
            signs, _ = binary_weight(self.core.weight, self.core.latent())
            p = self.core.sums(s if self.axis == PICTURES else as_pixels(s), signs)
            return p.to(torch.int32)

    def bits(self, x: Tensor) -> Tensor:
        """Which numbers of x are +1 in this run. Returns: like x, bool."""
        with torch.no_grad():
            pictures = self._opened(x)
            theta = self.threshold.bounds(pictures, self._index(x)).theta
            return (pictures >= along(theta, pictures.dim(), self.axis)).view(x.shape)

    def folded(self) -> tuple[Tensor | None, Tensor | None]:
        """Gain and shift of the norm for each output channel, or the bias of a block without."""
        if self.norm is None or isinstance(self.norm, ChannelLayerNorm):
            return None, self.bias
        return self.norm.fold()

    def tail(self, shift: Tensor | None) -> list[TailStep]:
        """The steps after the scaled sums."""
        steps = [] if shift is None else [TailStep("add", shift[None])]
        if isinstance(self.norm, ChannelLayerNorm):
            steps.append(TailStep("norm", self.norm.weight[None], self.norm.bias, self.norm.eps))
        acts = [] if self.activation is None else self.activation.steps()
        cut = [] if self.shortcut is None else [TailStep("shortcut")]
        return [*steps, *acts, *cut] if self.spec.rule.before else [*steps, *cut, *acts]

    def pack(self) -> PackedBlock:
        """The twin that stores and multiplies bits.

        Raises: NotPackable for DAB's published scale, and while the weights are real.
        """
        if self.stage != "both":
            raise NotPackable("its weights are still real: end the stage of real weights first")
        scaling = self.scaling
        if scaling is Scaling.CHANNEL:
            raise NotPackable(
                "DAB's published scale differs for each input channel inside the sum over "
                "channels, which no popcount computes: train with dab_scale tensor or group"
            )
        signs, scale = binary_weight(self.core.weight, self.core.latent())
        gain, shift = self.folded()
        if gain is not None:
            scale = scale * gain.detach().repeat_interleave(self.core.copies)
        return PackedBlock(
            PackedThreshold.of(self.threshold), pack((signs > 0).to(torch.uint8), 1), signs.shape,
            scale, self.core.geometry, self.core.pad_value, scaling,
            [step.detached() for step in self.tail(shift)],
            None if self.shortcut is None else self.shortcut.twin(),
            self.clock if self.timed else None, self.axis, self.spec.method,
        )  # fmt: skip

    @property
    def scaling(self) -> Scaling:
        """Where DAB's scale meets the sums."""
        if not isinstance(self.threshold, DAB) or self.threshold.mode == "none":
            return Scaling.NONE
        if self.threshold.mode == "channel":
            depthwise = self.core.weight.shape[1] == 1
            return Scaling.SAMPLE if depthwise else Scaling.CHANNEL
        return Scaling.SAMPLE if self.threshold.exponent.shape[1] == 1 else Scaling.WORD

    def _opened(self, x: Tensor) -> Tensor:
        return self.core.geometry.opened(x) if self.axis == PICTURES else x

    def _bordered(self, x: Tensor) -> Tensor:
        return pad_for(x, self.core.geometry) if self.axis == PICTURES else x

    def _reduced(self, y: Tensor, given: Tensor) -> Tensor:
        return self.core.geometry.reduced(y, given) if self.axis == PICTURES else y

    def _index(self, x: Tensor) -> Tensor | None:
        if self.clock is None or not self.timed:
            return None
        whole = self.axis == TOKENS or x.dim() == (3 if self.core.geometry.line else 4)
        return self.clock.index(x.shape[0] if whole else 1)

    def _parts(
        self, x: Tensor, gain: Tensor | None, shift: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        pictures = self._opened(x)
        s, alpha = self.threshold(pictures, self._index(x), self._bordered(pictures))
        z = self._scaled(s, alpha, gain, shift if alpha is None else None)
        z = z if alpha is None or shift is None else self._moved(z, shift)
        if self.shortcut is None:
            return z, None
        size = (z.shape[2], z.shape[3]) if self.axis == PICTURES else None
        return z, self.shortcut(pictures, size)

    def _scaled(
        self, s: Tensor, alpha: Tensor | None, gain: Tensor | None, shift: Tensor | None
    ) -> Tensor:
        gain, shift = (
            None if t is None else t.repeat_interleave(self.core.copies) for t in (gain, shift)
        )
        scaling = self.scaling
        if scaling in (Scaling.NONE, Scaling.SAMPLE):
            z = self._product(s, gain, shift)
            return z if alpha is None else sample_scaled(z, alpha, self.axis)
        assert alpha is not None
        each = alpha
        if scaling is Scaling.WORD:
            if not self.training and not torch.is_grad_enabled():
                return self._word_products(s, alpha, gain)
            each = alpha.repeat_interleave(WORD, 1)[:, : s.shape[1]]
        z = self._product(s * along(each, s.dim(), self.axis), gain, None, reals=True)
        if scaling is Scaling.WORD and not self.training:
            return shown(z, self._word_products(s, alpha, gain))
        return z

    def _product(
        self, s: Tensor, gain: Tensor | None, shift: Tensor | None, *, reals: bool = False
    ) -> Tensor:
        if self.axis == TOKENS:
            return as_tokens(self.core(as_pixels(s), gain, shift, reals=reals), s)
        return self.core.geometry.placed(self.core(s, gain, shift, reals=reals))

    def _word_products(self, s: Tensor, alpha: Tensor, rows: Tensor | None) -> Tensor:
        """scale (alpha_0 p_0 + ...), left to right, as packed.binary.word_sums; no gradient."""
        with torch.no_grad():
            signs, scale = binary_weight(self.core.weight, self.core.latent())
            total: Tensor | None = None
            for number, part in enumerate(torch.split(s, WORD, 1)):
                taps = signs[:, number * WORD : number * WORD + part.shape[1]]
                term = self.core.sums(part, taps) * alpha[:, number].view(-1, 1, 1, 1)
                total = term if total is None else total + term
            assert total is not None
            scale = scale if rows is None else scale * rows
            return self.core.geometry.placed(times(total, scale))
