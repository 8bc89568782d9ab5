"""Build, save, load: every variant comes back as itself, however the file is wrapped."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitcompress.errors import LoadError
from bitcompress.models import MODELS, Target
from bitcompress.models.load import load_model

Write = Callable[[object], Path]
Official = Callable[[nn.Module, Mapping[str, Any]], dict[str, Tensor]]

DAT = {
    "embed_dim": 32,
    "depth": [3],
    "num_heads": [4],
    "expansion_factor": 2.0,
    "upscale": 2,
    "resi_connection": "3conv",
    "upsampler": "pixelshuffledirect",
    "qkv_bias": True,
    "split_size": [4, 8],
}
SWINIR = {
    "embed_dim": 12,
    "depths": [2, 2],
    "num_heads": [3, 3],
    "window_size": 4,
    "mlp_ratio": 2.0,
    "upscale": 2,
    "resi_connection": "1conv",
    "upsampler": "pixelshuffledirect",
    "qkv_bias": True,
    "img_range": 1.0,
    "in_chans": 3,
    "img_size": 16,
}
EDSR = {"num_feat": 8, "num_block": 2, "upscale": 2, "res_scale": 1.0}
MSRRESNET = {"num_feat": 8, "num_block": 2, "upscale": 2}
RLFN = {"features": 8, "middle": 6, "blocks": 2, "upscale": 2, "gate": 4}
RESNET = {"blocks": [1, 1, 1], "width": 4, "classes": 10}
BIDIFFSR = {
    "inner": 16,
    "mult": [1, 2],
    "blocks": 1,
    "groups": 8,
    "attention": True,
    "fusion": "cs",
    "resample": "cp",
}

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("dat", DAT),
    ("dat", DAT | {"upscale": 3}),
    ("dat", DAT | {"upscale": 4, "resi_connection": "1conv"}),
    ("dat", DAT | {"upsampler": "pixelshuffle"}),
    ("dat", DAT | {"upsampler": "pixelshuffle", "upscale": 3}),
    ("dat", DAT | {"upsampler": "pixelshuffle", "upscale": 8}),
    ("dat", DAT | {"depth": [3, 4, 3], "num_heads": [4, 2, 8]}),
    ("dat", DAT | {"depth": [1], "num_heads": [2], "split_size": [8, 8]}),
    ("dat", DAT | {"expansion_factor": 4.0, "qkv_bias": False}),
    ("dat", DAT | {"embed_dim": 60, "num_heads": [6], "split_size": [8, 32]}),
    ("dat", DAT | {"embed_dim": 96, "num_heads": [6], "split_size": [2, 16]}),
    ("dat", DAT | {"embed_dim": 36, "num_heads": [6], "expansion_factor": 74 / 36}),
    ("swinir", SWINIR),
    ("swinir", SWINIR | {"upscale": 3}),
    ("swinir", SWINIR | {"upscale": 4, "resi_connection": "3conv"}),
    ("swinir", SWINIR | {"upsampler": "pixelshuffle", "upscale": 4}),
    ("swinir", SWINIR | {"upsampler": "pixelshuffle", "upscale": 3, "mlp_ratio": 4.0}),
    ("swinir", SWINIR | {"upsampler": "nearest+conv", "upscale": 4}),
    ("swinir", SWINIR | {"upsampler": "nearest+conv", "upscale": 2}),
    ("swinir", SWINIR | {"upsampler": "", "upscale": 1, "in_chans": 1}),
    ("swinir", SWINIR | {"window_size": 7, "img_size": 21, "img_range": 255.0}),
    ("swinir", SWINIR | {"window_size": 8, "img_size": 8}),
    ("swinir", SWINIR | {"depths": [1, 4, 2], "num_heads": [2, 3, 4], "img_size": 64}),
    ("swinir", SWINIR | {"qkv_bias": False, "embed_dim": 30, "mlp_ratio": 2.5}),
    ("edsr", EDSR),
    ("edsr", EDSR | {"upscale": 3, "num_block": 11}),
    ("edsr", EDSR | {"upscale": 4}),
    ("edsr", EDSR | {"upscale": 8, "num_block": 1}),
    ("edsr", EDSR | {"num_feat": 256, "num_block": 1, "res_scale": 0.1}),
    ("msrresnet", MSRRESNET),
    ("msrresnet", MSRRESNET | {"upscale": 3, "num_block": 12}),
    ("msrresnet", MSRRESNET | {"upscale": 4, "num_feat": 12}),
    ("rlfn", RLFN),
    ("rlfn", RLFN | {"upscale": 3, "blocks": 1}),
    ("rlfn", RLFN | {"upscale": 4, "blocks": 10, "features": 6, "middle": 8}),
    ("resnet-cifar", RESNET),
    ("resnet-cifar", RESNET | {"blocks": [2, 3, 2], "width": 6, "classes": 100}),
    ("bidiffsr", BIDIFFSR),
    ("bidiffsr", BIDIFFSR | {"mult": [1, 2, 4], "blocks": 2, "attention": False}),
    ("bidiffsr", BIDIFFSR | {"fusion": "add", "resample": "shuffle"}),
    ("bidiffsr", BIDIFFSR | {"inner": 24, "fusion": "concat"}),
]


def built(name: str, config: dict[str, Any]) -> nn.Module:
    """A model whose statistics and zeros are noise, so that no tensor can be mistaken."""
    model = MODELS[name].build(**config)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))
            assert "mean" not in key or "running_mean" in key  # the colour mean is not saved
    return model.eval()


@pytest.mark.parametrize(("name", "config"), VARIANTS)
def test_a_variant_comes_back_as_itself(
    name: str, config: dict[str, Any], write: Write, official: Official
) -> None:
    model = built(name, config)
    loaded = load_model(write(official(model, config)))
    assert (loaded.arch, loaded.config) == (name, config)
    assert loaded.task == MODELS[name].task
    assert loaded.scale == config.get("upscale")
    assert not loaded.model.training
    inputs = [loaded.image_range * torch.rand(1, config.get("in_chans", 3), 9, 10)]
    if loaded.task == "diffusion":
        inputs = [torch.rand(1, 3, 8, 12), torch.rand(1, 3, 8, 12), torch.tensor([7])]
    with torch.no_grad():
        assert torch.equal(loaded.model(*inputs), model(*inputs))


WRAPPED: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "bare": dict,
    "params": lambda s: {"params": s},
    "params_ema over params": lambda s: {
        "params": {k: v + 1 for k, v in s.items()},
        "params_ema": s,
    },
    "state_dict with more": lambda s: {"state_dict": s, "epoch": 3, "best_prec1": 0.5},
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer": {"lr": 1e-4}},
    "model": lambda s: {"model": s},
    "net": lambda s: {"net": s},
    "params-ema": lambda s: {"params-ema": s},
    "one key of another name": lambda s: {"generator": s},
    "two envelopes": lambda s: {"state_dict": {"params": s}},
    "module. prefix": lambda s: {f"module.{k}": v for k, v in s.items()},
    "netG. prefix": lambda s: {"params": {f"netG.{k}": v for k, v in s.items()}},
    "both prefixes": lambda s: {f"module.netG.{k}": v for k, v in s.items()},
    "compiled prefix": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "shuffled": lambda s: dict(random.Random(3).sample(list(s.items()), len(s))),
    "half precision": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
    "double precision": lambda s: {
        k: v.double() if v.is_floating_point() else v for k, v in s.items()
    },
}


@pytest.mark.parametrize("wrapping", WRAPPED)
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("dat", DAT),
        ("swinir", SWINIR),
        ("edsr", EDSR),
        ("msrresnet", MSRRESNET),
        ("rlfn", RLFN),
        ("resnet-cifar", RESNET),
    ],
)
def test_wrapping_and_order_do_not_matter(
    name: str, config: dict[str, Any], wrapping: str, write: Write, official: Official
) -> None:
    state = official(built(name, config), config)
    loaded = load_model(write(WRAPPED[wrapping](state)))
    assert (loaded.arch, loaded.config) == (name, config)
    tolerance = 1e-3 if wrapping == "half precision" else 0.0
    for key, value in loaded.model.state_dict().items():
        if value.is_floating_point():
            assert value.dtype == torch.float32
            assert torch.allclose(value, state[key], atol=tolerance, rtol=tolerance), key


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("dat", DAT | {"embed_dim": 60, "num_heads": [6], "split_size": [8, 32]}, {}),
        ("dat", DAT, {"split_size": [4, 8]}),
        ("swinir", SWINIR | {"img_size": 64}, {}),
        ("resnet-cifar", RESNET, {}),
    ],
)
def test_without_derivable_buffers_the_output_is_the_same_to_the_bit(
    name: str, config: dict[str, Any], said: dict[str, Any], write: Write, official: Official
) -> None:
    model = built(name, config)
    full = load_model(write(official(model, config)))
    compact = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    loaded = load_model(write(compact), config=said)
    assert loaded.config.items() <= full.config.items()
    picture = torch.rand(1, 3, 11, 12)
    with torch.no_grad():
        assert torch.equal(loaded.model(picture), full.model(picture))


def test_the_windows_of_a_compact_dat_are_not_guessed(write: Write) -> None:
    state = built("dat", DAT | {"embed_dim": 96, "num_heads": [6]}).state_dict()
    with pytest.raises(LoadError, match="split_size, 8,16 for DAT-S"):
        load_model(write(state))


def test_a_wrong_table_of_offsets_is_refused(write: Write, official: Official) -> None:
    state = official(built("dat", DAT), DAT)
    state["layers.0.blocks.0.attn.attns.0.rpe_biases"][-1] = 1e9
    with pytest.raises(LoadError, match="rpe_biases.*no table of offsets"):
        load_model(write(state))


def test_the_original_release_of_edsr_is_recognised(write: Write) -> None:
    model = built("edsr", EDSR)
    names = {"conv_first": "head.0", "conv_after_body": "body.2", "upsample.0": "tail.0.0"}
    names |= {"conv_last": "tail.1"}
    names |= {f"body.{n}.conv{c}": f"body.{n}.body.{2 * c - 2}" for n in (0, 1) for c in (1, 2)}
    state = {
        f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value
        for key, value in model.state_dict().items()
    }
    state["sub_mean.weight"] = torch.eye(3).view(3, 3, 1, 1)
    loaded = load_model(write(state))
    assert (loaded.arch, loaded.config) == ("edsr-pytorch", EDSR)
    picture = torch.rand(1, 3, 6, 6)
    with torch.no_grad():
        assert torch.equal(loaded.model(picture), model(picture))


def test_no_state_dict_is_of_two_architectures(official: Official) -> None:
    for name, config in VARIANTS:
        state = official(built(name, config), config)
        assert [n for n, target in MODELS.items() if target.detect(state)] == [name]


def test_the_table_names_its_entries() -> None:
    for name, target in MODELS.items():
        assert isinstance(target, Target) and target.name == name
        assert target.task in ("sr", "classify", "segment", "depth", "diffusion")
    assert not any(target.detect({"weight": torch.ones(2)}) for target in MODELS.values())
