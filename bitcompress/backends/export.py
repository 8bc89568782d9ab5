"""From a packed model to one ONNX file and its report: written down, translated, checked, written.

Nothing is left behind where a stage fails; the error names the stage.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from bitcompress.artifact import Source, folder
from bitcompress.artifact.store import jsonable
from bitcompress.backends import gate, schema
from bitcompress.backends.capture import Captured, captures, run_alone
from bitcompress.backends.file import TRANSLATE, file_of, with_conditions
from bitcompress.backends.guards import conditions_of, proved
from bitcompress.backends.metric import check_metric, metric_of
from bitcompress.backends.nudge import Nudges
from bitcompress.backends.session import runtime
from bitcompress.backends.sizes import sizes_of
from bitcompress.backends.trials import example_of, trials
from bitcompress.errors import GateError, OutputError, Unavailable, UsageError
from bitcompress.graph.intercept import Rewritten

NAME = "model.onnx"
REPORT = "model.onnx.json"
PACKAGES = ("onnx", "onnxscript")
PORTABLE = (
    "portable: standard operators alone; the file is small, but its sums are float32: it is not "
    "faster than the float model, and rounding may flip codes, which the decibels above measure"
)
Progress = Callable[[str], None]
Agrees = Callable[[Mapping[str, Tensor]], object]
"""Raises: GateError where file and model do not."""


@dataclass(frozen=True)
class Exported:
    """A file that passed the gate, not written yet."""

    data: bytes
    report: dict[str, Any]


class Held(Protocol):
    """A packed model with where it comes from: what is loaded, quantized or binarized."""

    @property
    def model(self) -> Rewritten:
        """The packed model."""

    @property
    def source(self) -> Source:
        """Where it comes from."""


def export(
    packed: Held | Rewritten,
    path: str | Path,
    example: Any = None,
    *,
    portable: bool = False,
    nudge: bool = False,
    whole: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a packed model as an ONNX file with operators of domain `bitcompress`.

    portable: with standard operators alone, small but not faster (backends/portable.py).
    nudge: of a portable file, make offsets whole zero points where they are near (nudge.py); the
        report says what that costs.
    whole: attention in windows is one node, and codes pass between nodes; False for TensorRT, whose
        plugins know neither.

    path: the file, or a folder for model.onnx. A report of the gate lies beside it. example: inputs
    as the model takes them; not needed for models of known tasks.
    Returns: the report.
    Raises: CaptureError, GateError naming the stage that failed, OutputError, Unavailable.
    """
    if nudge and not portable:
        raise UsageError(
            "nudge is for portable files: packed operators read the offsets as they are"
        )
    place = target(Path(path), overwrite)
    model, source = _opened(packed)
    inputs = example_of(example, source, model)
    made = build(
        model, source, inputs, progress or (lambda stage: None), portable=portable, whole=whole,
        nudge=nudge,
    )  # fmt: skip
    files = {place.name: made.data, f"{place.name}.json": _text(made.report)}
    write(place.parent, files)
    return made.report


def _opened(packed: Held | Rewritten) -> tuple[Rewritten, Source | None]:
    if isinstance(packed, Rewritten):
        return packed, None
    model, source = getattr(packed, "model", None), getattr(packed, "source", None)
    if not isinstance(model, Rewritten) or not isinstance(source, Source):
        raise UsageError(
            f"a {type(packed).__name__} is no packed model: give what load, quantize or binarize "
            "gave, or its .model"
        )
    return model, source


def target(path: Path, overwrite: bool) -> Path:
    """The file to write. Raises: OutputError where it may not be written."""
    place = path if path.suffix == ".onnx" else path / NAME
    if place.exists() and not overwrite:
        raise OutputError(f"{place} exists already: name another place, or overwrite (--overwrite)")
    if place.is_dir():
        raise OutputError(f"{place} is a folder: name a file")
    folder.check_writable(place.parent)
    return place


def write(place: Path, files: Mapping[str, bytes]) -> None:
    """Write files, each as a whole or not at all. Raises: OutputError, with nothing left."""
    done: list[Path] = []
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            folder.write_file(place / name, data)
            done.append(place / name)
    except OSError as error:
        for path in done:
            path.unlink(missing_ok=True)
        raise OutputError(
            f"{place} cannot be written ({error.strerror}): name another place"
        ) from error


def build(
    model: Rewritten,
    source: Source | None,
    example: Any,
    progress: Progress,
    *,
    portable: bool = False,
    whole: bool = True,
    nudge: bool = False,
) -> Exported:
    """The file of a packed model that passed the gate, with the report of it.

    Sizes are as free as passes; where the optimised graph does not pass, the plain one is tried.
    """
    _packages()
    refused = ""
    for plain in captures(model.eval(), example, progress):
        for optimize in (True, False):
            fused = optimize and whole and not portable
            captured, nudges = plain.in_windows() if fused else plain, Nudges() if nudge else None
            try:
                file = file_of(
                    captured, source, progress, optimize=optimize, portable=portable, codes=fused,
                    nudges=nudges,
                )  # fmt: skip
                progress("checking the file against the packed model")
                report = _checked(file, model, captured, source, portable=portable)
            except GateError as error:
                progress(f"passed over: {error}")
                refused = refused or str(error)
                if not optimize and refused.startswith(TRANSLATE):
                    raise GateError(refused) from error  # other sizes change no operator
                continue
            report |= {"optimized": optimize, "passed_over": refused}
            if nudges is not None:
                report["nudged"] = nudges.row()
                report["notes"].append(nudges.said(report["whole"], report["metric"]))
            file = with_conditions(file, report["sizes"]["holds"])
            report["file_bytes"] = len(file)
            return Exported(file, report)
    raise GateError(refused or "the model could not be exported")


def _conditions(captured: Captured, model: Rewritten, agrees: Agrees) -> list[str]:
    """For which sizes the code takes the way that was written down, where that matters."""
    tried = [
        {name: tuple(value.shape) for name, value in named.items()} for named in trials(captured)
    ]
    asked = conditions_of(captured.program, tuple(captured.inputs), tried)

    def told(named: Mapping[str, Tensor]) -> bool | None:
        try:
            run_alone(model, named)
        except Exception:  # a size that the model's own code does not take, in whatever way
            return None
        try:
            agrees(named)
        except GateError:
            return False
        return True

    step = captured.sizes.step
    return list(proved(asked, captured.inputs, step, told)) if asked and step else []


def _packages() -> None:
    runtime()
    for name in PACKAGES:
        try:
            __import__(name)
        except ImportError as error:
            raise Unavailable(
                f"{name} is not installed: pip install 'bitcompress[onnx]'"
            ) from error


def _checked(
    data: bytes, model: Rewritten, captured: Captured, source: Source | None, *, portable: bool
) -> dict[str, Any]:
    """The report of the gate. Raises: GateError."""
    import onnx

    started = time.perf_counter()
    proto = onnx.load_from_string(data)
    gate.check_file(proto)
    opened = gate.Opened(proto)
    peak = source.image_range if source is not None and source.scale else None
    least = gate.PORTABLE_DB if portable else gate.MIN_DB
    wholes = []
    operators: list[dict[str, Any]] = []
    for named in trials(captured):
        whole, values = gate.check_whole(model, opened, named, peak, least, captured.turned)
        wholes.append(whole)
        operators = operators or gate.check_nodes(opened, values)
    asked = _conditions(
        captured, model,
        lambda named: gate.check_whole(model, opened, named, peak, least, captured.turned),
    )  # fmt: skip
    metric = metric_of(model, opened, captured, source)
    if not portable:  # which says what it loses, and is not held to it
        check_metric(metric)
    weights = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    sizes = sizes_of(model, source, weights, len(data), len(proto.graph.node))
    notes = [PORTABLE] if portable else []
    return {
        "file_bytes": len(data),
        "initializer_bytes": weights,
        "bytes": sizes,
        "nodes": len(proto.graph.node),
        "operators": operators,
        "whole": [whole.row() for whole in wholes],
        "metric": metric,
        "sizes": {
            "step": captured.sizes.step,
            "batch": captured.sizes.batch,
            "reason": captured.sizes.reason,
            "holds": asked,
        },
        "seconds_of_gate": round(time.perf_counter() - started, 1),
        "notes": [*notes, sizes["said"]] if sizes["said"] else notes,
        "runtime": runtime().__version__,
        "operator_version": schema.VERSION,
    }


def _text(report: Mapping[str, Any]) -> bytes:
    return (json.dumps(jsonable(dict(report)), indent=1, allow_nan=False) + "\n").encode()
