"""report.json: what was done, what it cost, and what was not compressed, with reasons.

The dict is versioned; report.md (markdown.py) says the same for people, report.png shows it.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from bitcompress import native
from bitcompress.graph.capture import Captured
from bitcompress.graph.intercept import Rewritten
from bitcompress.graph.rewrite import Plan
from bitcompress.measure.cost import counted, float_bytes

SCHEMA_VERSION = 1


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("bitcompress", "numpy", "safetensors", "accelerate"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """The machine that a figure was measured on."""
    kernels = native.kernels()
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "native": kernels.isa() if kernels is not None else f"none: {native.why_not()}",
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def layer_rows(
    plans: Sequence[Plan], sqnr: Mapping[str, float], stored: Mapping[str, int]
) -> list[dict[str, Any]]:
    """One dict a layer, in order of execution."""
    rows = []
    for plan in plans:
        quality = sqnr.get(plan.site.name)
        kept = 0 if plan.quantized else 2 * plan.site.params
        rows.append(
            {
                **plan.row(),
                "sqnr_db": quality if quality is not None and math.isfinite(quality) else None,
                "stored_bytes": stored.get(plan.site.name, kept),
            }
        )
    return rows


def build_report(
    *,
    model: Rewritten,
    float_model: nn.Module,
    captured: Captured,
    plans: Sequence[Plan],
    sqnr: Mapping[str, float],
    stored: Mapping[str, int],
    packed_bytes: int,
    coverage: float,
    simulated: float,
    mean_bits: tuple[float, float],
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """The report of a run, quality and speed still to be filled in by what measures them.

    `extra` holds what other rooms know: recipe, source, data, parity, training, stages, notes.
    """
    real = float_bytes(float_model)
    parameters = sum(p.numel() for p in float_model.parameters())
    states = {
        state: sum(p.keep == state for p in plans) for state in ("packed", "simulated", "float")
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "size": {
            "float_bytes": real,
            "packed_bytes": packed_bytes,
            "ratio": real / packed_bytes,
            **counted(plans, parameters),
            "about": "float_bytes: real parameters in fp32. packed_bytes: all files that run "
            "needs, on disk. paper_ratio, paper_ops_ratio: counts as in papers, no measurement.",
        },
        "capture": {
            "tier": captured.tier,
            "coverage": coverage,
            "simulated": simulated,
            "notes": list(captured.notes),
            "about": "coverage: the share of multiply-accumulates that run on codes; simulated: "
            "the share that only computes as if.",
        },
        "bits": {
            "weights_mean": mean_bits[0],
            "activations_mean": mean_bits[1],
            "about": "weighted by multiply-accumulates; float counts as 32",
        },
        "fusions": {
            "fused": model.fusions.fused,
            "refusals": dict(model.fusions.refusals),
            "about": "on the example input: attentions that ran in one pass, and by which use the "
            "numbers of others were asked for, which then ran one product after the other",
        },
        "states": states,
        "layers": layer_rows(plans, sqnr, stored),
        "quality": {},
        "speed": {},
        "versions": versions(),
        "machine": machine(),
        **extra,
    }


REQUIRED = (
    "schema_version", "bits_asked", "recipe", "seed", "data", "states",
    "size.float_bytes", "size.packed_bytes", "size.ratio", "size.paper_ratio",
    "size.paper_ops_ratio", "capture.tier", "capture.coverage", "bits.weights_mean",
    "bits.activations_mean", "parity.psnr_db", "parity.changed_share", "training.steps",
    "quality", "speed", "stages", "versions", "machine", "layers",
)  # fmt: skip
REQUIRED_OF_LAYER = (
    "name", "op", "weight_bits", "act_bits", "state", "reason", "sqnr_db", "stored_bytes",
)  # fmt: skip
REQUIRED_OF_SPEED = ("float_ms", "packed_ms", "ratio", "threads", "input", "load")
REQUIRED_OF_STAGE = ("stage", "seconds", "peak_rss_mb")


def problems(report: Mapping[str, Any]) -> list[str]:
    """What a report lacks of its schema; empty where it is whole."""
    found = [key for key in REQUIRED if not _has(report, key)]
    if report.get("schema_version") not in (None, SCHEMA_VERSION):
        found.append(f"schema_version {report['schema_version']} is not {SCHEMA_VERSION}")
    for part, keys in (("layers", REQUIRED_OF_LAYER), ("stages", REQUIRED_OF_STAGE)):
        for number, row in enumerate(report.get(part, [])):
            found += [f"{part}.{number}.{key}" for key in keys if key not in row]
    if report.get("speed"):
        found += [f"speed.{key}" for key in REQUIRED_OF_SPEED if key not in report["speed"]]
    return found


def _has(report: Mapping[str, Any], key: str) -> bool:
    place: Any = report
    for part in key.split("."):
        if not isinstance(place, Mapping) or part not in place:
            return False
        place = place[part]
    return True
