"""The binary UNet of BI-DiffSR and its ablations: the float network with blocks in its places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from bitcompress.errors import UsageError
from bitcompress.layers.binary import BinaryBlock, BlockSpec, Clock, binary_block
from bitcompress.layers.binary.spec import Timed
from bitcompress.models.bidiffsr import SIZES, BiDiffSR
from bitcompress.models.diffusion import STEPS
from bitcompress.models.reshape import Conv

TIME_ARGUMENT = "t"


def block_factory(spec: BlockSpec, clock: Clock) -> Conv:
    """Convolutions of the UNet's body as blocks: no bias, true zero padding, one clock for all."""

    def conv(c_in: int, c_out: int, kernel: int) -> BinaryBlock:
        plain = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False)
        return binary_block(plain, spec, clock=clock)

    return conv


def binary_unet(
    size: str = "paper",
    method: str = "bidiffsr",
    *,
    time_groups: int = 5,
    timed: Timed = "both",
    shortcut: bool = True,
    fusion: str = "cs",
    resample: str = "cp",
    config: Mapping[str, Any] | None = None,
) -> tuple[BiDiffSR, Clock]:
    """The network of BI-DiffSR with fresh weights, and the clock that tells its blocks the time.

    `time_groups` K = 1 is the network without time tables. "xnor" and other methods without tables
    always have one group. `timed`: "thresholds" is TaR alone, "activations" TaA alone. The paper's
    ablation: fusion "add", "concat", "split" or "cs"; resample "shuffle" (with shortcut False: its
    baseline) or "cp".
    Returns: the network, which sets the clock from its argument `t`; run it as (noisy, condition,
    t).
    Raises: UsageError for an unknown size, method or variant.
    """
    if size not in SIZES:
        raise UsageError(f"BI-DiffSR has no size {size!r}: give one of {', '.join(SIZES)}")
    probe = BlockSpec(method)
    spec = BlockSpec(
        method,
        groups=time_groups if probe.rule.timed else 1,
        shortcut=shortcut,
        start="scratch",
        timed=timed,
    )
    clock = Clock(spec.groups, STEPS)
    settings = {**SIZES[size], "fusion": fusion, "resample": resample, **(config or {})}
    net = BiDiffSR(**settings, conv=block_factory(spec, clock))
    clock.attach(net, TIME_ARGUMENT)
    return net, clock
