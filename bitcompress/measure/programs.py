"""What a packed model makes of inputs that come again: its program, or why there is none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from bitcompress.graph.capture import as_inputs
from bitcompress.graph.intercept import Rewritten

RUNS = 3
"""How often a size must come until its program is made and has been compared."""
NATIVE = ("layer", "attention", "relayout")


def program_row(model: Rewritten, example: Any) -> dict[str, Any]:
    """The part `program` of a report; runs the example. Its tensors are left as they are."""
    row: dict[str, Any] = {
        "steps": 0, "native": 0, "notes": {}, "refusals": [], "reasons": {},
        "about": "inputs of a size that came before run as one list of steps, checked for the same "
        "bits; notes: what rules did and refused on the example; refusals: why its size has no "
        "list; reasons: why runs were left to the model itself, and how often",
    }  # fmt: skip
    if model.programs is None:
        return row
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for _ in range(RUNS):
            args, kwargs = tree_map_only(Tensor, torch.clone, as_inputs(example))
            model(*args, **kwargs)
    steps = model.programs.steps()
    return row | {
        "steps": len(steps),
        "native": sum(step.split(" ")[0] in NATIVE for step in steps),
        "notes": model.programs.notes(),
        "refusals": model.programs.refusals(),
        "reasons": dict(model.programs.reasons),
    }
