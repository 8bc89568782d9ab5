"""Deduction of hyper-parameters from the shapes of a state dict, one function per architecture.

Source: official checkpoints; what no tensor tells (image range, residual scale) has a default.
"""

from __future__ import annotations

from typing import Any

from bitcompress.errors import LoadError
from bitcompress.models.target import StateDict, chain_scale, count, ratio, root, size, tensor

_DAT_FIRST = "layers.0.blocks.0.attn.attns.0"


def _connection(state: StateDict) -> str:
    return "1conv" if "conv_after_body.weight" in state else "3conv"


def _dat_split(state: StateDict, channels: int, factor: float) -> list[int] | None:
    """The window shape of DAT: said by the offsets, or known from the published sizes.

    DAT-S and DAT-2 have the same shapes and other windows; for them there is no answer.
    """
    key = f"{_DAT_FIRST}.rpe_biases"
    if key in state:
        table = tensor(state, key, 2)
        if table.shape[1] == 2:
            split = [int(v) + 1 for v in table[-1].tolist() if 0 <= v < table.shape[0]]
            if len(split) == 2 and (2 * split[0] - 1) * (2 * split[1] - 1) == table.shape[0]:
                return split
        raise LoadError(f"tensor {key!r} is no table of offsets within a window: damaged")
    if channels == 60 or (channels, factor) == (180, 4.0):
        return [8, 32]
    return None


def dat(state: StateDict) -> dict[str, Any]:
    """Hyper-parameters of `DAT`; `split_size` is left out where the tensors do not tell it."""
    channels = size(state, "conv_first.weight", 4)
    groups = count(state, r"layers\.(\d+)\.")
    temperature = "layers.{}.blocks.1.attn.temperature"
    rows = "layers.{}.blocks.0.attn.attns.0.pos.pos3.2.weight"
    heads = [
        size(state, temperature.format(g), 3)
        if temperature.format(g) in state
        else 2 * size(state, rows.format(g), 2)
        for g in range(groups)
    ]
    factor = size(state, "layers.0.blocks.0.ffn.fc1.weight", 2) / channels
    direct = "conv_last.weight" not in state
    config: dict[str, Any] = {
        "embed_dim": channels,
        "depth": [count(state, rf"layers\.{g}\.blocks\.(\d+)\.") for g in range(groups)],
        "num_heads": heads,
        "expansion_factor": factor,
        "upscale": _direct_scale(state, 3) if direct else chain_scale(state),
        "resi_connection": _connection(state),
        "upsampler": "pixelshuffledirect" if direct else "pixelshuffle",
        "qkv_bias": "layers.0.blocks.0.attn.qkv.bias" in state,
    }
    split = _dat_split(state, channels, factor)
    if split is not None:
        config["split_size"] = split
    return config


def _direct_scale(state: StateDict, colours: int) -> int:
    rows = ratio(size(state, "upsample.0.weight", 4), colours, "the first size of 'upsample.0'")
    return root(rows, "the expansion of 'upsample.0'")


def _swinir_tail(state: StateDict) -> tuple[str, int]:
    """Name and scale of the upsampler of SwinIR."""
    if "conv_before_upsample.0.weight" in state:
        if "conv_up1.weight" in state:
            return "nearest+conv", 4 if "conv_up2.weight" in state else 2
        return "pixelshuffle", chain_scale(state)
    if "upsample.0.weight" in state:
        return "pixelshuffledirect", _direct_scale(state, size(state, "conv_first.weight", 4, 1))
    return "", 1


def swinir(state: StateDict) -> dict[str, Any]:
    """Hyper-parameters of `SwinIR`. Without masks, a training size above the window is assumed."""
    first = "layers.0.residual_group.blocks.0"
    channels = size(state, "conv_first.weight", 4)
    groups = count(state, r"layers\.(\d+)\.")
    block = r"layers\.{}\.residual_group\.blocks\.(\d+)\."
    table = "layers.{}.residual_group.blocks.0.attn.relative_position_bias_table"
    edge = root(size(state, table.format(0), 2), "the length of the position table")
    window = (edge + 1) // 2
    upsampler, scale = _swinir_tail(state)
    config: dict[str, Any] = {
        "embed_dim": channels,
        "depths": [count(state, block.format(g)) for g in range(groups)],
        "num_heads": [size(state, table.format(g), 2, 1) for g in range(groups)],
        "window_size": window,
        "mlp_ratio": size(state, f"{first}.mlp.fc1.weight", 2) / channels,
        "upscale": scale,
        "resi_connection": _connection(state),
        "upsampler": upsampler,
        "qkv_bias": f"{first}.attn.qkv.bias" in state,
        # the released networks with windows of 7 are those for JPEG artefacts, trained on 0..255
        "img_range": 255.0 if window == 7 else 1.0,
        "in_chans": size(state, "conv_first.weight", 4, 1),
    }
    mask = next((key for key in state if key.endswith(".attn_mask")), None)
    if mask is not None:
        config["img_size"] = window * root(size(state, mask, 3), "the number of masks")
    elif f"{first}.attn.relative_position_index" in state and max(config["depths"]) > 1:
        config["img_size"] = window  # the buffers are there, but no mask was needed
    return config


def edsr(state: StateDict) -> dict[str, Any]:
    """Hyper-parameters of `EDSR`; the residual scale is that of the published sizes."""
    features = size(state, "conv_first.weight", 4)
    return {
        "num_feat": features,
        "num_block": count(state, r"body\.(\d+)\."),
        "upscale": chain_scale(state),
        "res_scale": 0.1 if features == 256 else 1.0,
    }


def msrresnet(state: StateDict) -> dict[str, Any]:
    """Hyper-parameters of `MSRResNet`."""
    features = size(state, "conv_first.weight", 4)
    rows = ratio(size(state, "upconv1.weight", 4), features, "the first size of 'upconv1'")
    return {
        "num_feat": features,
        "num_block": count(state, r"body\.(\d+)\."),
        "upscale": 4 if "upconv2.weight" in state else root(rows, "the expansion of 'upconv1'"),
    }


def rlfn(state: StateDict) -> dict[str, Any]:
    """Hyper-parameters of `RLFN`."""
    rows = ratio(size(state, "upsampler.0.weight", 4), 3, "the first size of 'upsampler.0'")
    return {
        "features": size(state, "conv_1.weight", 4),
        "middle": size(state, "block_1.c1_r.weight", 4),
        "blocks": count(state, r"block_(\d+)\.", start=1),
        "upscale": root(rows, "the expansion of 'upsampler.0'"),
        "gate": size(state, "block_1.esa.conv_f.weight", 4),
    }


def resnet_cifar(state: StateDict) -> dict[str, Any]:
    """Hyper-parameters of `ResNetCifar`."""
    stages = count(state, r"layer(\d+)\.", start=1)
    return {
        "blocks": [count(state, rf"layer{s + 1}\.(\d+)\.") for s in range(stages)],
        "width": size(state, "conv1.weight", 4),
        "classes": size(state, "linear.weight", 2),
    } | ({} if "linear.bias" in state else {"cosine": True})


def edsr_direct(state: StateDict) -> dict[str, Any]:
    """Hyper-parameters of `EDSRDirect`."""
    rows = ratio(size(state, "conv_tail.weight", 4), 3, "the first size of 'conv_tail'")
    blocks = count(state, r"body\.(\d+)\.")
    return {
        "num_feat": size(state, "conv_head.weight", 4),
        "num_block": blocks,
        "upscale": root(rows, "the expansion of 'conv_tail'"),
        "body": blocks > 0,
    }


def convnext_uper(state: StateDict) -> dict[str, Any]:
    """Hyper-parameters of `ConvNeXtUper`; the dropout, which no tensor tells, has its default."""
    stages = count(state, r"encoder\.stages\.(\d+)\.")
    first = "encoder.stages.{}.0.depthwise.conv.weight"
    config: dict[str, Any] = {
        "depths": [count(state, rf"encoder\.stages\.{s}\.(\d+)\.") for s in range(stages)],
        "dims": [size(state, first.format(s), 4) for s in range(stages)],
        "width": size(state, "out.conv.weight", 4),
    }
    if "max_depth" in state:
        return config | {"max_depth": float(state["max_depth"].double().mean())}
    return config | {"classes": size(state, "score.weight", 4)}


def bidiffsr(state: StateDict) -> dict[str, Any]:
    """Hyper-parameters of `BiDiffSR`. No tensor tells groups, or "cs" from "split" fusion."""
    inner = size(state, "head.weight", 4)
    deepest = ratio(size(state, "mid1.norm1.weight", 1), inner, "the size of 'mid1.norm1.weight'")
    levels = deepest.bit_length()
    steps = count(state, r"down\.(\d+)\.") - (levels - 1)
    blocks = ratio(steps, levels, "the number of residual blocks")
    concat, paired = "up.0.fusion.conv.weight" in state, "up.0.fusion.conv1.weight" in state
    return {
        "inner": inner,
        "mult": [2**level for level in range(levels)],
        "blocks": blocks,
        "groups": 16 if inner % 16 == 0 and inner >= 64 else 8,
        "attention": "attention.qkv.weight" in state,
        "fusion": "cs" if paired else "concat" if concat else "add",
        "resample": "shuffle" if f"down.{blocks}.conv.weight" in state else "cp",
    }
