"""Reference models: float, plain torch, loading the checkpoints that people already have.

`MODELS` is ordered from specific to general: the first whose signature fits a state dict is taken.
"""

from __future__ import annotations

from bitcompress.models import signatures
from bitcompress.models.bidiffsr import BiDiffSR
from bitcompress.models.convnext_uper import ConvNeXtUper
from bitcompress.models.dat import DAT
from bitcompress.models.edsr import EDSR, from_edsr_pytorch
from bitcompress.models.edsr_direct import EDSRDirect
from bitcompress.models.msrresnet import MSRResNet
from bitcompress.models.resnet_cifar import ResNetCifar
from bitcompress.models.rlfn import RLFN
from bitcompress.models.swinir import SwinIR
from bitcompress.models.target import BATCHES, Target

_DENSE = (
    "encoder.stem.0.weight",
    "encoder.stages.0.0.depthwise.conv.weight",
    "decoder.pyramid.fuse.conv.weight",
    "decoder.smooth.conv.weight",
    "out.conv.weight",
    "score.weight",
)

MODELS: dict[str, Target] = {
    "dat": Target(
        name="dat",
        signature=(
            "conv_first.weight",
            "before_RG.1.weight",
            "layers.0.blocks.0.ffn.sg.conv.weight",
            "layers.0.blocks.0.attn.channel_interaction.1.weight",
            "layers.0.blocks.0.attn.attns.0.pos.pos_proj.weight",
        ),
        config=signatures.dat,
        build=DAT,
        task="sr",
        derivable=(BATCHES, "*.attn_mask_[01]", "*.rpe_biases", "*.relative_position_index"),
        undeducible=(
            "without the buffers rpe_biases the window shape cannot be told from the tensors: give "
            "split_size, 8,16 for DAT-S and 8,32 for DAT and DAT-2"
        ),
    ),
    "swinir": Target(
        name="swinir",
        signature=(
            "conv_first.weight",
            "patch_embed.norm.weight",
            "layers.0.residual_group.blocks.0.norm1.weight",
            "layers.0.residual_group.blocks.0.mlp.fc1.bias",
            "layers.0.residual_group.blocks.0.attn.relative_position_bias_table",
        ),
        config=signatures.swinir,
        build=SwinIR,
        task="sr",
        derivable=(BATCHES, "*.attn_mask", "*.attn.relative_position_index"),
    ),
    "bidiffsr": Target(
        name="bidiffsr",
        signature=(
            "time.fc1.weight",
            "head.weight",
            "down.0.time.weight",
            "mid1.norm1.weight",
            "up.0.block.norm1.weight",
            "tail.weight",
        ),
        config=signatures.bidiffsr,
        build=BiDiffSR,
        task="diffusion",
    ),
    "rlfn": Target(
        name="rlfn",
        signature=(
            "conv_1.weight",
            "block_1.c1_r.weight",
            "block_1.esa.conv_f.weight",
            "upsampler.0.weight",
        ),
        config=signatures.rlfn,
        build=RLFN,
        task="sr",
    ),
    "msrresnet": Target(
        name="msrresnet",
        signature=(
            "conv_first.weight",
            "body.0.conv1.weight",
            "upconv1.weight",
            "conv_hr.weight",
            "conv_last.weight",
        ),
        absent=("body.0.rdb1.conv1.weight",),
        config=signatures.msrresnet,
        build=MSRResNet,
        task="sr",
    ),
    "edsr": Target(
        name="edsr",
        signature=(
            "conv_first.weight",
            "body.0.conv1.weight",
            "conv_after_body.weight",
            "upsample.0.weight",
            "conv_last.weight",
        ),
        absent=("body.0.rdb1.conv1.weight",),
        config=signatures.edsr,
        build=EDSR,
        task="sr",
    ),
    "edsr-pytorch": Target(
        name="edsr-pytorch",
        signature=("head.0.weight", "body.0.body.0.weight", "tail.0.0.weight", "tail.1.weight"),
        absent=("body.0.body.0.body.0.weight",),
        translate=from_edsr_pytorch,
        config=signatures.edsr,
        build=EDSR,
        task="sr",
    ),
    "resnet-cifar": Target(
        name="resnet-cifar",
        signature=(
            "conv1.weight",
            "bn1.running_mean",
            "layer1.0.conv1.weight",
            "layer3.0.bn2.weight",
            "linear.weight",
        ),
        absent=("layer1.0.downsample.0.weight", "layer1.0.conv3.weight", "fc.weight"),
        config=signatures.resnet_cifar,
        build=ResNetCifar,
        task="classify",
    ),
    "convnext-uper-depth": Target(
        name="convnext-uper-depth",
        signature=(*_DENSE, "max_depth"),
        config=signatures.convnext_uper,
        build=ConvNeXtUper,
        task="depth",
    ),
    "convnext-uper": Target(
        name="convnext-uper",
        signature=_DENSE,
        config=signatures.convnext_uper,
        build=ConvNeXtUper,
        task="segment",
    ),
    "edsr-direct": Target(
        name="edsr-direct",
        signature=("conv_head.weight", "conv_tail.weight"),
        config=signatures.edsr_direct,
        build=EDSRDirect,
        task="sr",
    ),
}

__all__ = ["MODELS", "Target"]
