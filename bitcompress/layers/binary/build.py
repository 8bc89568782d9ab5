"""A float layer becomes a binary block: its weights are the latent ones at first."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitcompress.errors import NotPackable, UsageError
from bitcompress.layers.binary.activations import (
    PUBLISHED,
    Activation,
    PReLU,
    RPReLU,
    TaA,
    slope_of,
)
from bitcompress.layers.binary.axes import PICTURES, TOKENS
from bitcompress.layers.binary.block import BinaryBlock
from bitcompress.layers.binary.clock import Clock
from bitcompress.layers.binary.core import BinaryCore
from bitcompress.layers.binary.norms import BlockNorm, ChannelAffine, ChannelBatchNorm, norm_of
from bitcompress.layers.binary.shortcuts import Bridge, Shortcut
from bitcompress.layers.binary.spec import METHODS, BlockSpec, Method
from bitcompress.layers.binary.thresholds import DAB, PlainSign, RSign, TaR, Threshold
from bitcompress.layers.geometry import CONVOLUTIONS, ConvGeometry, Convolution, refusal

BinaryLayer = nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.Linear
LAYERS = (*CONVOLUTIONS, nn.Linear)


def stands(layer: nn.Module, spec: BlockSpec) -> str:
    """Why a layer cannot become this block; empty where it can."""
    if not isinstance(layer, LAYERS):
        return (
            f"{type(layer).__name__} has no binary form: Conv1d, Conv2d, their transposes, Linear"
        )
    if isinstance(layer, nn.Linear):
        cin, cout, same = layer.in_features, layer.out_features, True
    else:
        reason = refusal(layer)
        if reason:
            return reason
        geometry = ConvGeometry.of_layer(layer)
        cin, cout, same = layer.in_channels, layer.out_channels, keeps_size(layer, geometry)
        if spec.pad_value and (geometry.up is not None or geometry.trim != (0, 0)):
            return "a border of signs is for convolutions with an even padding"
        parted = rule_of(layer, spec).threshold == "dab" and spec.dab_scale in ("group", "channel")
        if parted and spec.dab_scale == "group" and layer.groups > 1:
            return "DAB's scale for words of 32 channels is for convolutions of one group"
        if parted and spec.pad_value:
            return "a border of signs has no scale of DAB: give pad_value 0 or dab_scale tensor"
    if rule_of(layer, spec).shortcut != "identity" or not spec.shortcut:
        return ""
    if not same:
        return "its output has another size than its input: an identity shortcut does not fit"
    if cin != cout:
        return f"{cin} channels become {cout}: an identity shortcut does not fit"
    return ""


def keeps_size(layer: Convolution, geometry: ConvGeometry) -> bool:
    """Whether the output always has the size of the input."""
    if geometry.up is not None or geometry.stride != (1, 1):
        return False
    if layer.padding == "same":
        return True
    sizes: list[tuple[int, ...]] = [layer.dilation, layer.kernel_size, tuple(layer.padding)]  # type: ignore[arg-type]
    return all(d * (k - 1) == 2 * p for d, k, p in zip(*sizes, strict=True))


def rule_of(layer: nn.Module, spec: BlockSpec) -> Method:
    """The method's record for this kind of layer."""
    tokens = spec.rule.tokens
    return METHODS[tokens] if isinstance(layer, nn.Linear) and tokens else spec.rule


def binary_block(
    layer: nn.Module, spec: BlockSpec, *, norm: nn.Module | None = None,
    activation: nn.Module | None = None, clock: Clock | None = None, shortcut: bool | None = None,
) -> BinaryBlock:  # fmt: skip
    """The binary block of a float layer.

    norm: a batch norm that follows it, absorbed. activation: one that follows, absorbed: what it
    does to negative numbers is where the block's own starts. clock: for spec.groups > 1. shortcut:
    overrides spec.shortcut.
    Raises: NotPackable with the reason where the method cannot stand.
    """
    if shortcut is not None and shortcut != spec.shortcut:
        spec = BlockSpec(**{**vars(spec), "shortcut": shortcut})
    reason = stands(layer, spec)
    if reason:
        raise NotPackable(reason)
    assert isinstance(layer, LAYERS)
    if spec.groups > 1 and (clock is None or clock.groups != spec.groups):
        raise UsageError(f"a block of {spec.groups} time groups needs a clock of as many")
    rule = rule_of(layer, spec)
    axis = TOKENS if isinstance(layer, nn.Linear) else PICTURES
    weight, bias, geometry = _weight_of(layer)
    cin, cout = sizes_of(layer)
    block_norm = norm_of(_norm_kind(spec, rule, norm), cout, norm, axis)
    if norm is not None and block_norm is None:
        raise UsageError("a block without norm cannot absorb one: leave it in the model")
    act = _activation(rule, spec, activation, cout, normed=isinstance(block_norm, ChannelBatchNorm))
    left = _absorb_bias(bias, block_norm, act, rule)
    made = BinaryBlock(
        spec, _threshold(rule, spec, cin, axis),
        BinaryCore(weight, rule.weights, geometry, spec.pad_value), block_norm, act,
        _shortcut(rule, spec, cin, cout, geometry, axis), clock if spec.groups > 1 else None, left,
        axis,
    )  # fmt: skip
    made.train(layer.training)
    return made.to(weight.device)


def _weight_of(layer: nn.Module) -> tuple[Tensor, Tensor | None, ConvGeometry]:
    if isinstance(layer, nn.Linear):
        weight = layer.weight.detach()[:, :, None, None].float()
        return weight, None if layer.bias is None else layer.bias.detach(), ConvGeometry()
    assert isinstance(layer, CONVOLUTIONS)
    geometry = ConvGeometry.of_layer(layer)
    bias = None if layer.bias is None else layer.bias.detach()
    return geometry.weight_of(layer).detach().float(), bias, geometry


def sizes_of(layer: nn.Module) -> tuple[int, int]:
    """Input and output channels of a layer."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    assert isinstance(layer, CONVOLUTIONS)
    return layer.in_channels, layer.out_channels


def _norm_kind(spec: BlockSpec, rule: Method, norm: nn.Module | None) -> str:
    if spec.norm is not None:
        return spec.norm
    return "batch" if isinstance(norm, _BatchNorm) else rule.norm


def _threshold(rule: Method, spec: BlockSpec, channels: int, axis: int) -> Threshold:
    if rule.threshold == "none":
        return PlainSign(channels, rule.surrogate, axis)
    if rule.threshold == "dab":
        return DAB(channels, spec.threshold_groups, spec.dab_scale, rule.surrogate, axis)
    if rule.threshold == "tar" or spec.threshold_groups > 1:
        return TaR(channels, spec.threshold_groups, rule.surrogate, axis)
    return RSign(channels, rule.surrogate, axis)


def _activation(
    rule: Method, spec: BlockSpec, given: nn.Module | None, channels: int, *, normed: bool
) -> Activation | None:
    slope = slope_of(given, channels, normed=normed)
    absent = rule.activation == "none" or (rule.activation == "prelu" and given is None)
    if absent or not spec.activation:
        if given is not None:
            raise UsageError("this method has no activation: leave it in the model")
        return None
    start = PUBLISHED if spec.start == "scratch" else 1.0
    if rule.activation == "prelu":
        made: Activation = PReLU(channels, spec.activation_groups, start)
    elif rule.activation == "taa":
        made = TaA(channels, spec.activation_groups, start)
    else:
        made = RPReLU(channels, start)
    if slope is not None:
        with torch.no_grad():
            made.slope.copy_(torch.as_tensor(slope).expand(made.slope.shape))
    return made


def _absorb_bias(
    bias: Tensor | None, norm: BlockNorm | None, activation: Activation | None, rule: Method
) -> Tensor | None:
    """The bias of the float layer goes where the block has a shift; what is left is returned."""
    if bias is None:
        return None
    with torch.no_grad():
        if isinstance(norm, ChannelBatchNorm):
            assert norm.running_mean is not None
            norm.running_mean.sub_(bias)
            return None
        if isinstance(norm, ChannelAffine):
            norm.bias.add_(norm.weight * bias)
            return None
        moves = None if activation is None or not rule.before else activation.before
        if norm is None and moves is not None:
            moves.add_(bias)
            return None
    return bias


def _shortcut(
    rule: Method, spec: BlockSpec, cin: int, cout: int, geometry: ConvGeometry, axis: int
) -> Shortcut | None:
    if rule.shortcut == "none" or not spec.shortcut:
        return None
    order = "paper2d" if axis == PICTURES else "contiguous"
    bridge = Bridge(cin, cout, axis, geometry.stride, geometry.up, order)
    return Shortcut(bridge, learn=spec.learn_shortcut)
