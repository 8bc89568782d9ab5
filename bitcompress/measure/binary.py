"""report.json of a binary model: what each layer became, what that cost, and why others did not.

The counts of the papers (parameters: float + binary / 32, operations: float + binary / 64) stand
beside true bytes and measured milliseconds, labelled as what they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Protocol

import torch
from torch import nn

from bitcompress.graph.capture import as_inputs
from bitcompress.graph.intercept import Rewritten
from bitcompress.graph.site import Site
from bitcompress.measure.accounting import account
from bitcompress.measure.cost import float_bytes
from bitcompress.measure.flips import Near
from bitcompress.measure.layer_times import layer_times
from bitcompress.measure.report import machine, versions
from bitcompress.measure.speed import measure_speed

SCHEMA_VERSION = 1
WORD_PARAMS, WORD_OPS = 32, 64
"""How many binary parameters and operations papers count as one."""
PROVED = 4
"""Runs of one size after which a program stands in for the forward."""


class Planned(Protocol):
    """What the report asks of the plan of a layer."""

    @property
    def site(self) -> Site: ...

    def row(self) -> dict[str, Any]: ...


def paper_counts(rows: Sequence[Mapping[str, Any]], parameters: int) -> dict[str, float]:
    """Parameters and operations as papers on binary networks count them; no measurement.

    Parameters: those that stay float + weights of blocks / 32. Operations: multiply-accumulates of
    float layers + those of blocks / 64. Norms, activations and adds are not counted.
    Source: Bi-Real Net (ECCV 2018), section 4; BI-DiffSR (NeurIPS 2024), section 4.1.
    """
    inside = sum(row["weights"] for row in rows if row["state"] == "packed")
    binary = sum(row["macs"] for row in rows if row["state"] == "packed")
    total = sum(row["macs"] for row in rows)
    return {
        "float_params": float(parameters),
        "paper_params": parameters - inside + inside / WORD_PARAMS,
        "float_ops": float(total),
        "paper_ops": total - binary + binary / WORD_OPS,
        "binary_ops": float(binary),
    }


def build_report(
    *,
    model: Rewritten,
    float_model: nn.Module,
    plans: Sequence[Planned],
    example: Any,
    near: Near,
    stored: Mapping[str, int],
    packed_bytes: int,
    quality: Mapping[str, Mapping[str, float]],
    metric: str,
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """The report of a run of `binarize`; `extra` holds what other rooms know."""
    real, mine = layer_times(float_model, example), layer_times(model, example)
    rows = [_row(plan.row(), plan.site.shapes, stored, real, mine, near) for plan in plans]
    whole = float_bytes(float_model)
    args, kwargs = as_inputs(example)
    parameters = sum(p.numel() for p in float_model.parameters())
    work = sum(row["macs"] for row in rows) or 1
    packed_work = sum(row["macs"] for row in rows if row["state"] == "packed")
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "binarize",
        "size": {
            "float_bytes": whole,
            "packed_bytes": packed_bytes,
            "ratio": whole / packed_bytes,
            **paper_counts(rows, parameters),
            "counted": account(model, *args, **kwargs).figures(),
            "about": "float_bytes: real parameters in fp32. packed_bytes: all files that run "
            "needs, on disk. paper_params, paper_ops: float + binary / 32 and / 64, as papers "
            "count; no measurement. counted: the same with norms, attention and tables, real and "
            "binary apart.",
        },
        "states": {s: sum(row["state"] == s for row in rows) for s in ("packed", "float")},
        "coverage": packed_work / work,
        "layers": rows,
        "quality": {"metric": metric, **quality},
        "parity": {
            "psnr_db": near.psnr_db,
            "changed_share": near.changed_share,
            "flipped_share": near.flipped_share,
            "bits": near.bits,
            "flips": near.flips,
            "about": "the packed model beside the trained one on the example: bits that the blocks "
            "cut their inputs into, and the outputs",
        },
        "speed": _speed(float_model, model, example),
        "versions": versions(),
        "machine": machine(),
        **extra,
    }


def _row(
    row: dict[str, Any],
    shapes: Sequence[Sequence[int]],
    stored: Mapping[str, int],
    real: Mapping[str, float],
    mine: Mapping[str, float],
    near: Near,
) -> dict[str, Any]:
    name = row["name"]
    packed = row["state"] == "packed"
    return {
        **row,
        "weights": prod(shapes[1]) if len(shapes) > 1 else row["params"],
        "float_bytes": 4 * row["params"],
        "stored_bytes": stored.get(name, 4 * row["params"]),
        "float_ms": real.get(name),
        "packed_ms": mine.get(name),
        "flipped_share": near.flips.get(name, 0.0) if packed else None,
    }


def _speed(float_model: nn.Module, model: Rewritten, example: Any) -> dict[str, Any]:
    """Both in turn, once the program of the packed model has been recorded and proved."""
    args, kwargs = as_inputs(example)
    with torch.no_grad():
        for _ in range(PROVED):
            model(*args, **kwargs)
    return measure_speed(float_model, model, example, repeats=5)
