"""`bench model`: a packed model in turn with its float model in torch and in ONNX Runtime.

The packed model is that of a folder in torch, or an exported file in ONNX Runtime; then the folder
it came from takes its turn too, where it is at hand.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitcompress.bench import exported, graphs
from bitcompress.bench.kernels import all_versions
from bitcompress.graph.arguments import tensors_of
from bitcompress.graph.capture import as_inputs, private_copy
from bitcompress.measure.clock import Contender, Times, take_turns
from bitcompress.measure.report import machine
from bitcompress.memory import keep_large_blocks

Progress = Callable[[str, int, int], None]
FLOATS = ("torch_fp32", "ort_fp32", "ort_int8", "torch_bf16")
"""Who needs the float model."""
SAME_DB = 40.0
"""An exported model further from torch than this computes something else."""


@dataclass(frozen=True)
class Subject:
    """What is timed: a packed model, the float model it came from, and what its folder tells."""

    name: str
    packed: nn.Module
    float_model: nn.Module | None
    weight_bits: int
    act_bits: int
    recipe: str
    trained: bool
    """Whether the float model has its real weights; if not, only its time means something."""
    psnr_drop_db: float | None
    psnr_set: str
    """The pictures behind psnr_drop_db, or why there is none."""
    missing: str = ""
    """Why there is no float model."""
    in_torch: nn.Module | None = None
    """The packed folder that a file was exported from."""


@dataclass(frozen=True)
class Settings:
    """Units: s. `limit` is for exporting, and again for quantizing, one size in ONNX Runtime."""

    threads: int = 1
    repeats: int = 10
    seconds: float = 60.0
    limit: float = 300.0


@dataclass
class _Others:
    """Who takes part beside the packed model, who does not and why, and what they computed."""

    contenders: list[Contender] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)


def widths(layers: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """The widths of most of the packed weights of a folder, and of what they are multiplied by."""
    weights: Counter[int] = Counter()
    acts: Counter[int] = Counter()
    for row in layers:
        if row["state"] == "packed" and row["op"] != "matmul":
            count = math.prod(row["shape"])
            weights[row["weight_bits"]] += count
            acts[row["act_bits"]] += count
    return (
        weights.most_common(1)[0][0] if weights else 32,
        acts.most_common(1)[0][0] if acts else 32,
    )


def quality_of(report: Mapping[str, Any] | None) -> tuple[float | None, str]:
    """The PSNR that packing costs, as the folder's own report measured it, and on which set."""
    for name, figures in ((report or {}).get("quality") or {}).items():
        if figures.get("drop_db") is not None:
            return float(figures["drop_db"]), str(name)
    return None, "the folder's report has no PSNR of float and packed"


def bench_model(
    subject: Subject,
    examples: Sequence[Any],
    batches: Callable[[Any], Sequence[Any]],
    settings: Settings,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """One row for each example input. `batches` gives inputs like an example to calibrate int8 on.

    Units: ms, MB (10^6 bytes), dB. rss_mb is left to whoever runs the model by itself.
    """
    keep_large_blocks()
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    rows = []
    try:
        for number, example in enumerate(examples):
            with tempfile.TemporaryDirectory(prefix="bitcompress-bench-") as folder:
                row = _bench(subject, example, batches(example), settings, Path(folder))
            rows.append(row)
            if progress is not None:
                progress("bench model", number + 1, len(examples))
    finally:
        torch.set_num_threads(before)
    return rows


def whole_report(rows: Sequence[Mapping[str, Any]], settings: Settings) -> dict[str, Any]:
    """The report around the rows."""
    return {
        "bench": "model", "machine": {**machine(), "threads": settings.threads},
        "versions": all_versions(), "repeats": settings.repeats,
        "date": time.strftime("%Y-%m-%d"), "rows": list(rows),
    }  # fmt: skip


def _bench(
    subject: Subject, example: Any, batches: Sequence[Any], settings: Settings, folder: Path
) -> dict[str, Any]:
    args, kwargs = as_inputs(example)
    others, full = _Others(), subject.float_model
    truth: Any = None
    with torch.inference_mode():
        made = subject.packed(*args, **kwargs)
        if full is not None:
            truth = full(*args, **kwargs)
            _torch(others, full, args, kwargs)
    if full is not None:
        _ort(others, full, example, batches, settings, folder, truth)
    else:
        others.absent.update(dict.fromkeys(FLOATS, subject.missing))
    packed = Contender("packed", lambda: subject.packed(*args, **kwargs))
    row_of_file = _in_torch(subject, others, made, args, kwargs)
    with torch.inference_mode():
        times = take_turns(
            [packed, *others.contenders], repeats=settings.repeats, seconds=settings.seconds
        )
    row = _row(subject, (*args, *kwargs.values()), times, others, settings.threads) | row_of_file
    if subject.trained:
        others.outputs["packed"] = _array(made)
        row["psnr_to_float_db"] = {
            name: exported.psnr(output, _array(truth)) for name, output in others.outputs.items()
        }
    return row


def _in_torch(
    subject: Subject, others: _Others, made: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The folder of a file takes its turn. Returns: for the row, how near the file is to it, dB."""
    folder = subject.in_torch
    if folder is None:
        return {}
    with torch.inference_mode():
        truth = _array(folder(*args, **kwargs))
    output = _array(made)
    near = exported.psnr(output, truth) if output.shape == truth.shape else -math.inf
    if near < SAME_DB:
        others.absent["packed_torch"] = (
            f"the folder beside the file holds another model ({near:.0f} dB from the file)"
        )
        return {}
    others.contenders.append(Contender("packed_torch/folder", lambda: folder(*args, **kwargs)))
    return {"psnr_to_folder_db": near}


def _torch(
    others: _Others, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """torch as it is, with channels last, and in bfloat16; each only where it runs."""

    def way(
        name: str, change: Callable[[nn.Module], nn.Module], turn: Callable[[Any], Any]
    ) -> None:
        changed = change(private_copy(model))
        inputs = [turn(x) for x in args]
        named = {key: turn(x) for key, x in kwargs.items()}
        try:
            changed(*inputs, **named)
        except Exception as error:  # whatever the user's model thinks of it
            others.absent[name] = exported.reason_of("torch", error)
            return
        others.contenders.append(Contender(name, lambda: changed(*inputs, **named)))

    last = torch.channels_last
    way("torch_fp32/plain", lambda m: m, lambda x: x)
    way(
        "torch_fp32/channels_last",
        lambda m: m.to(memory_format=last),  # type: ignore[call-overload]
        lambda x: x.contiguous(memory_format=last) if _is_picture(x) else x,
    )
    way(
        "torch_bf16/channels_last",
        lambda m: m.bfloat16().to(memory_format=last),  # type: ignore[call-overload]
        lambda x: (
            x.bfloat16().contiguous(memory_format=last)
            if _is_picture(x)
            else x.bfloat16() if _is_real(x) else x
        ),
    )  # fmt: skip


def _is_real(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _is_picture(x: Any) -> bool:
    return _is_real(x) and x.dim() == 4


def _ort(
    others: _Others, full: nn.Module, example: Any, batches: Sequence[Any], settings: Settings,
    folder: Path, truth: Any,
) -> None:  # fmt: skip
    """ONNX Runtime in float32 and, of the same file, int8; or the step that failed."""
    args, kwargs = as_inputs(example)
    inputs, plain, small = (*args, *kwargs.values()), folder / "float.onnx", folder / "int8.onnx"
    if reason := graphs.missing(*exported.PACKAGES):
        others.absent.update(ort_fp32=reason, ort_int8=reason)
        return
    step, names = "export to ONNX", ["ort_fp32", "ort_int8"]
    try:
        with exported.quiet(), exported.within(settings.limit), exported.spare_memory():
            exported.export(private_copy(full), args, kwargs, plain)
            step = "ONNX Runtime"
            run = exported.opened(plain, inputs, settings.threads)
            near = exported.psnr(exported.output_of(run), _array(truth))
        if near < SAME_DB:
            reason = f"the exported model computes something else ({near:.0f} dB from torch)"
            others.absent.update(ort_fp32=reason, ort_int8=reason)
            return
        others.contenders.append(Contender("ort_fp32/ort", run))
        step, names = "static int8 by ONNX Runtime", ["ort_int8"]
        with exported.quiet(), exported.within(settings.limit), exported.spare_memory():
            lists = [(*a, *k.values()) for a, k in map(as_inputs, batches)]
            exported.to_int8(plain, lists, small)
            int8 = exported.opened(small, inputs, settings.threads)
            others.outputs["ort_int8"] = exported.output_of(int8)
        others.contenders.append(Contender("ort_int8/ort", int8))
    except Exception as error:  # foreign libraries fail in any way
        others.absent.update(dict.fromkeys(names, exported.reason_of(step, error)))


def _array(output: Any) -> np.ndarray[Any, Any]:
    """The first tensor of what a model gives."""
    return np.asarray(tensors_of(output)[0].float())


def _row(
    subject: Subject, inputs: Sequence[Any], times: Mapping[str, Times], others: _Others,
    threads: int,
) -> dict[str, Any]:  # fmt: skip
    """Units: ms. A ratio is the other's best time over that of the packed model."""
    packed = times["packed"]

    def best(column: str) -> float | None:
        found = [t.best for name, t in times.items() if name.split("/")[0] == column]
        return 1000 * min(found) if found else None

    ms = 1000 * packed.best
    columns = {name: best(name) for name in FLOATS}
    floats = [t for t in (columns["torch_fp32"], columns["ort_fp32"]) if t is not None]
    int8 = columns["ort_int8"]
    return {
        "model": subject.name, "weight_bits": subject.weight_bits, "act_bits": subject.act_bits,
        "input": [list(x.shape) for x in inputs if isinstance(x, Tensor)], "threads": threads,
        "ms": ms, "median_ms": 1000 * packed.median, "spread": packed.spread,
        "repeats": packed.repeats, "load": round(os.getloadavg()[0], 2),
        "float_ms": {"torch": columns["torch_fp32"], "ort": columns["ort_fp32"]},
        "int8_ms": {"ort": int8}, "bf16_ms": {"torch": columns["torch_bf16"]},
        "ratio_float": min(floats) / ms if floats else None,
        "ratio_int8": None if int8 is None else int8 / ms,
        "ratio": {name: None if t is None else t / ms for name, t in columns.items()},
        "ways_ms": {name: 1000 * t.best for name, t in times.items()},
        "rss_mb": None, "psnr_drop_db": subject.psnr_drop_db, "psnr_set": subject.psnr_set,
        "recipe": subject.recipe, "trained": subject.trained, "absent": dict(others.absent),
    }  # fmt: skip
