"""Which binary block stands where: the table of methods, and what a user may choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bitcompress.errors import UsageError

DabScale = Literal["none", "tensor", "group", "channel"]
Norm = Literal["batch", "affine", "none", "layer"]
Start = Literal["trained", "scratch"]
Timed = Literal["both", "thresholds", "activations"]


@dataclass(frozen=True)
class Method:
    """A published block, as words of this house.

    weights     a rule of quant/weights.py
    threshold   none, rsign, tar, dab
    surrogate   of the activations' Sign (quant/sign.py)
    shortcut    none; identity: where shapes are equal, else no block; cfb: everywhere
    activation  none, prelu, rprelu, taa
    before      whether the activation stands before the shortcut is added
    norm        what stands behind the sums where the float model had no norm to absorb
    branches    whether Cout = m Cin and Cin = m Cout become m blocks of equal shape
    timed       whether tables with a row for each time group are of use
    tokens      the method that Linear layers have; empty: this one
    instead     the method where this one cannot stand; empty: the layer stays float
    """

    weights: str
    threshold: str
    surrogate: str
    shortcut: str
    activation: str
    norm: Norm
    source: str
    before: bool = False
    branches: bool = False
    timed: bool = False
    tokens: str = ""
    instead: str = ""


METHODS: dict[str, Method] = {
    "bnn": Method(
        "bnn", "none", "ste", "none", "none", "batch",
        "Binarized neural networks (NeurIPS 2016)",
    ),
    "xnor": Method(
        "xnor", "none", "ste", "none", "none", "affine",
        "XNOR-Net (ECCV 2016) as released: no scale map of the activations",
    ),
    "bireal": Method(
        "magnitude", "none", "approx", "cfb", "none", "affine",
        "Bi-Real Net (ECCV 2018). Differs: where shapes change the shortcut is a CFB, without "
        "parameters, of the pooled input, not a float 1x1 convolution with its norm",
    ),
    "irnet": Method(
        "libra", "none", "ede", "none", "none", "affine",
        "IR-Net (CVPR 2020)",
    ),
    "reactnet": Method(
        "magnitude", "rsign", "approx", "cfb", "rprelu", "affine",
        "ReActNet (ECCV 2020). Two branches joined are one convolution with a tiled shortcut, "
        "which is what CFB is for Cout = m Cin",
    ),
    "bidense": Method(
        "magnitude", "dab", "approx", "cfb", "prelu", "affine",
        "BiDense (arXiv 2411.10346); PReLU only where the float model had an activation",
        timed=True, tokens="bidense-tokens",
    ),
    "bidense-tokens": Method(
        "centred", "rsign", "approx", "cfb", "prelu", "layer",
        "BiDense's linear: Sign(w - mean w), layer norm, contiguous CFB, no DAB",
        timed=True,
    ),
    "bidiffsr": Method(
        "magnitude", "tar", "approx", "identity", "taa", "none",
        "BI-DiffSR (NeurIPS 2024)",
        before=True, branches=True, timed=True, instead="bidiffsr-cfb",
    ),
    "bidiffsr-cfb": Method(
        "magnitude", "tar", "approx", "cfb", "taa", "none",
        "our own: BI-DiffSR's tables around a convolution of any shape, with BiDense's shortcut",
        before=True, timed=True,
    ),
}  # fmt: skip
"""Every method, by name."""


@dataclass(frozen=True)
class BlockSpec:
    """What a block is to be.

    method: of METHODS. groups: time groups, for timed methods. timed: which tables have a row for
    each. dab_scale: where DAB's scale is shared. norm: None takes the absorbed norm of the float
    model, else the method's own. shortcut: False leaves it out. activation: False leaves
    that out, where one behind a sum of the model's own has its place. learn_shortcut: whether its
    gain learns. pad_value: 0, or the sign that stands outside the picture. start: `trained` starts
    an activation as the identity or as the one absorbed, `scratch` as published.
    """

    method: str
    groups: int = 1
    dab_scale: DabScale = "tensor"
    norm: Norm | None = None
    shortcut: bool = True
    activation: bool = True
    pad_value: int = 0
    learn_shortcut: bool = False
    start: Start = "trained"
    timed: Timed = "both"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"a method is one of {', '.join(METHODS)}, not {self.method!r}")
        if self.pad_value not in (-1, 0, 1):
            raise UsageError(f"pad_value is {self.pad_value}: give 0, 1 or -1")
        if self.groups < 1 or (self.groups > 1 and not METHODS[self.method].timed):
            raise UsageError(
                f"{self.method} with {self.groups} time groups: only methods with tables take more "
                f"than one ({', '.join(name for name, m in METHODS.items() if m.timed)})"
            )
        if self.dab_scale not in ("none", "tensor", "group", "channel"):
            raise UsageError(
                f"dab_scale is {self.dab_scale!r}: give none, tensor, group or channel"
            )

        if self.timed not in ("both", "thresholds", "activations"):
            raise UsageError(f"timed is {self.timed!r}: give both, thresholds or activations")

    @property
    def threshold_groups(self) -> int:
        """Rows of the threshold's tables."""
        return 1 if self.timed == "activations" else self.groups

    @property
    def activation_groups(self) -> int:
        """Rows of the activation's tables."""
        return 1 if self.timed == "thresholds" else self.groups

    @property
    def rule(self) -> Method:
        """The method's record."""
        return METHODS[self.method]
