"""In words: what became of a layer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from bitcompress.blocks.layers import Layer

if TYPE_CHECKING:
    from bitcompress.blocks.plan import BlockPlan

FORMS = {
    "split": "{n} blocks on one input",
    "wide": "{n} blocks side by side",
    "narrow": "the sum of {n} blocks",
    "fusion": "CS-Fusion",
    "down": "CP-Down of {n}",
    "up": "CP-Up of {n}",
}
THRESHOLDS = {"none": "Sign", "rsign": "RSign", "tar": "TaR", "dab": "DAB"}
ACTIVATIONS = {"prelu": "PReLU", "rprelu": "RPReLU", "taa": "TaA"}
NORMS = {"batch": "BatchNorm", "affine": "a gain and shift", "layer": "LayerNorm"}


def told(plan: BlockPlan, layer: Layer) -> BlockPlan:
    """The plan with `became`: threshold, shortcut, norm and activation of its block."""
    assert plan.spec is not None
    rule, form = plan.spec.rule, plan.form
    parts = [FORMS[form.kind].format(n=form.parts)] if form.kind in FORMS else []
    parts.append(THRESHOLDS[rule.threshold] + _times(plan.spec.threshold_groups))
    parts.append(_shortcut(plan, layer))
    if plan.norm:
        parts.append(f"BatchNorm of {plan.norm}")
    else:
        parts.append(NORMS.get(plan.spec.norm or rule.norm, ""))
    parts.append(_activation(plan))
    parts.append(_end(plan))
    return replace(plan, became=f"{plan.spec.method}: " + ", ".join(filter(None, parts)))


def _shortcut(plan: BlockPlan, layer: Layer) -> str:
    assert plan.spec is not None
    if plan.spec.rule.shortcut == "none":
        return ""
    if not plan.spec.shortcut:
        return "the model's own shortcut"
    inputs, outputs = channels_of(layer)
    if plan.form.kind != "block" or inputs == outputs:
        return "identity"
    return f"CFB {inputs}->{outputs}"


def _times(groups: int) -> str:
    return f" x {groups}" if groups > 1 else ""


def _activation(plan: BlockPlan) -> str:
    assert plan.spec is not None
    groups = _times(plan.spec.activation_groups)
    own = ACTIVATIONS.get(plan.spec.rule.activation, "")
    behind = plan.around.activation
    if not plan.spec.activation:
        return ""
    if not plan.takes_activation or behind is None:
        return f"{own}{groups}" if own and plan.spec.rule.activation != "prelu" else ""
    return f"{own}{groups} of {behind.name}" if own else f"{behind.name} let go"


def _end(plan: BlockPlan) -> str:
    assert plan.spec is not None
    if not plan.takes_end or plan.around.ends is None:
        return ""
    own, name = ACTIVATIONS.get(plan.spec.rule.activation, ""), plan.around.ends.name
    return f"{own} behind the sum, of {name}" if own else f"{name} behind the sum let go"


def channels_of(layer: Layer) -> tuple[int, int]:
    """Input and output channels of a layer."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels
