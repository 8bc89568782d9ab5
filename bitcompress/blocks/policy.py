"""What a recipe says about blocks: the method, and which layers it is not for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BlockPolicy:
    """Which layers become binary blocks, and of which kind."""

    method: str = "reactnet"
    time_groups: int = 1
    """How many tables a time-aware block has; 1: no time."""
    time_aware: Literal["both", "thresholds", "activations"] = "both"
    """Which of a block's tables have a row for each time group."""
    time_arg: str | None = None
    """The argument that is the timestep; found among the usual names where this is None."""
    time_steps: int | None = None
    """How many timesteps there are; the model's own `time_steps` where this is None."""
    time_span: tuple[float, float] | None = None
    """The lowest and highest noise level, where that is what the model is told."""
    keep: tuple[str, ...] = ()
    """Layers that stay float: shell wildcards of names."""
    first_last: Literal["float", "binary"] = "float"
    min_channels: int = 32
    """Layers with fewer channels on either side stay float."""
    fp_tail_levels: int = 0
    """How many of the largest resolutions on the way up of a UNet stay float."""
    dab_scale: Literal["tensor", "group", "channel"] = "tensor"
    norm: Literal["auto", "batch", "affine", "none"] = "auto"
    """Of blocks whose layer has no batch norm; auto: batch where the model has any, else affine."""
    reshape: bool = False
    """Whether resampling and joins become CP-Down, CP-Up and CS-Fusion where shapes allow."""
    start: Literal["trained", "scratch"] = "trained"
    """From the layer's weights, to be near it; or as the paper begins."""
    shortcut: Literal["auto", "always", "never"] = "auto"
    """auto: none where the model's own residual ends at the layer."""
    ends: Literal["learn", "keep"] = "learn"
    """learn: a ReLU behind the model's own shortcut becomes the activation of the method."""
    depthwise: bool = False
    """Whether layers with one channel a group become blocks too."""
