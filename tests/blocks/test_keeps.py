"""What stays float, and that it says why; what becomes a block, and that it says as what."""

from __future__ import annotations

from typing import Any

import pytest

from bitcompress.blocks import BlockPlan, BlockPolicy, prepare_binary

from ..makes import made


def plans(name: str, method: str = "reactnet", **choice: Any) -> dict[str, BlockPlan]:
    model = made(name)
    policy = BlockPolicy(method, **{"min_channels": 16, **choice})
    found = prepare_binary(model.net, model.example, policy).plans
    return {plan.site.name: plan for plan in found}


def reasons(name: str, **choice: Any) -> dict[str, str]:
    return {n: p.reason for n, p in plans(name, **choice).items() if p.keep == "float"}


def became(name: str, method: str = "reactnet", **choice: Any) -> dict[str, str]:
    return {n: p.became for n, p in plans(name, method, **choice).items() if p.keep == "packed"}


def test_ends_embeddings_and_products_stay() -> None:
    found = reasons("unet")
    assert found["head"] == "first layer: it meets the input"
    assert found["tail"] == "last layer: it makes the output"
    assert found["time.0"] == found["time.2"]
    assert found["time.0"].startswith("sees the timestep or labels alone")
    attention = reasons("vit")
    assert "product of two activations" in attention["@matmul.0"]
    assert set(reasons("unet", first_last="binary", min_channels=1)) == {"time.0", "time.2"}


def test_thin_depthwise_and_gating_layers_stay() -> None:
    assert "depthwise" in reasons("convnext")["depthwise"]
    assert "depthwise" not in reasons("convnext", depthwise=True)
    assert reasons("rlfn")["block_1.esa.conv4"] == "its output becomes a gate"
    assert (
        "40 to 16 channels: fewer than 32" in reasons("rlfn", min_channels=32)["block_1.esa.conv1"]
    )


def test_named_layers_and_large_levels_stay() -> None:
    assert reasons("unet", keep=("conv*",))["conv2"] == "kept float by the recipe (conv*)"
    level = "way up at 16x16: one of the 1 largest levels"
    found = reasons("unet", fp_tail_levels=1)
    assert found["fuse"] == found["conv3"] == level
    assert "conv1" not in found and "up.1" not in found  # on the way down; what enlarges


BECAME: dict[tuple[str, str, str], str] = {
    ("resnet", "reactnet", "conv1"): (
        "reactnet: RSign, identity, BatchNorm of norm1, RPReLU of @relu.1"
    ),
    ("resnet", "reactnet", "conv2"): (
        "reactnet: RSign, the model's own shortcut, BatchNorm of norm2, RPReLU behind the sum, "
        "of @relu.2"
    ),
    (
        "resnet",
        "bidense",
        "conv3",
    ): "bidense: DAB, CFB 32->64, BatchNorm of norm3, PReLU of @relu.3",
    ("resnet", "xnor", "conv3"): "xnor: Sign, BatchNorm of norm3",
    ("resnet", "bireal", "conv1"): "bireal: Sign, identity, BatchNorm of norm1, @relu.1 let go",
    ("edsr", "reactnet", "upsample.0"): "reactnet: RSign, CFB 32->128, a gain and shift, RPReLU",
    ("vit", "bidense", "qkv"): "bidense-tokens: 3 blocks on one input, RSign, identity, LayerNorm",
    ("unet", "bidiffsr", "fuse"): "bidiffsr: CS-Fusion, TaR, identity, TaA",
    ("unet", "bidiffsr", "down"): "bidiffsr: CP-Down of 2, TaR, identity, TaA",
    ("unet", "bidiffsr", "up.1"): "bidiffsr: CP-Up of 2, TaR, identity, TaA",
    ("edsr", "bidiffsr", "upsample.0"): "bidiffsr: 4 blocks side by side, TaR, identity, TaA",
}


@pytest.mark.parametrize("name, method, layer", BECAME)
def test_what_became_of_a_layer_is_told(name: str, method: str, layer: str) -> None:
    assert became(name, method, reshape=method == "bidiffsr")[layer] == BECAME[name, method, layer]


def test_a_method_that_cannot_stand_takes_its_instead_and_says_so() -> None:
    plan = plans("decoder", "bidiffsr")["valid"]
    assert plan.method == "bidiffsr-cfb" and "as many channels out as in" in plan.reason
    assert "CFB 32->48" in plan.became


def test_a_reshaping_that_does_not_fit_says_why() -> None:
    plan = plans("decoder", "bidiffsr", reshape=True)["strided"]
    assert "no CP-Down of 48 to 64 channels" in plan.reason and plan.keep == "packed"


def test_shortcuts_follow_the_policy() -> None:
    always = became("resnet", shortcut="always")["conv2"]
    never = became("resnet", shortcut="never")["conv1"]
    assert "identity" in always and "the model's own shortcut" in never


def test_rows_hold_all_that_reports_need() -> None:
    row = plans("edsr")["body.0.conv1"].row()
    assert (row["state"], row["weight_bits"], row["method"]) == ("packed", 1, "reactnet")
    assert row["macs"] > 0 and row["params"] > 0 and row["form"] == "block"


def test_what_stands_behind_a_sum_of_the_model_learns_goes_or_stays() -> None:
    found = became("resnet", "bidense")["conv2"]
    assert found.endswith("BatchNorm of norm2, PReLU behind the sum, of @relu.2")
    assert became("resnet", "bireal")["conv2"].endswith("@relu.2 behind the sum let go")
    assert "behind the sum" not in became("resnet", "xnor")["conv2"]
    kept = became("resnet", ends="keep")["conv2"]
    assert kept.endswith("BatchNorm of norm2, RPReLU")
