"""From a packed model to one ONNX file and its report: written down, translated, checked, written.

Nothing is left behind where a stage fails; the error names the stage.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bitcompress.artifact import LoadedPacked, Source, folder
from bitcompress.artifact.store import jsonable
from bitcompress.backends import gate, schema
from bitcompress.backends.capture import Captured, captures
from bitcompress.backends.codes import hand_codes
from bitcompress.backends.fuse import fuse
from bitcompress.backends.layout import channels_last
from bitcompress.backends.metric import check_metric, metric_of
from bitcompress.backends.portable import to_standard
from bitcompress.backends.session import DIGITS, SEAL, runtime, seal
from bitcompress.backends.slim import fold, slim
from bitcompress.backends.translate import translations
from bitcompress.backends.trials import example_of, trials
from bitcompress.errors import GateError, OutputError, Unavailable
from bitcompress.graph.intercept import Rewritten

NAME = "model.onnx"
REPORT = "model.onnx.json"
PACKAGES = ("onnx", "onnxscript")
TRANSLATE = "translate"
"""The stage in which an operator of torch that no file has is found."""
PORTABLE = (
    "portable: standard operators alone; the file is small, but its sums are float32: it is not "
    "faster than the float model, and rounding may flip codes, which the decibels above measure"
)
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """A file that passed the gate, not written yet."""

    data: bytes
    report: dict[str, Any]


def export(
    packed: LoadedPacked | Rewritten,
    path: str | Path,
    example: Any = None,
    *,
    portable: bool = False,
    whole: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a packed model as an ONNX file with operators of domain `bitcompress`.

    portable: with standard operators alone, small but not faster (backends/portable.py).
    whole: attention in windows is one node, and codes pass between nodes; False for TensorRT, whose
        plugins know neither.

    path: the file, or a folder for model.onnx. A report of the gate lies beside it. example: inputs
    as the model takes them; not needed for models of known tasks.
    Returns: the report.
    Raises: CaptureError, GateError naming the stage that failed, OutputError, Unavailable.
    """
    place = target(Path(path), overwrite)
    model, source = (
        (packed.model, packed.source) if isinstance(packed, LoadedPacked) else (packed, None)
    )
    inputs = example_of(example, source, model)
    made = build(
        model, source, inputs, progress or (lambda stage: None), portable=portable, whole=whole
    )
    files = {place.name: made.data, f"{place.name}.json": _text(made.report)}
    write(place.parent, files)
    return made.report


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
) -> Exported:
    """The file of a packed model that passed the gate, with the report of it.

    Sizes are as free as passes; where the optimised graph does not pass, the plain one is tried.
    """
    _packages()
    refused = ""
    progress("writing the model down")
    for plain in captures(model.eval(), example):
        for optimize in (True, False):
            fused = optimize and whole and not portable
            captured = plain.in_windows() if fused else plain
            try:
                progress("translating" if optimize else "translating once more, as it is")
                file = _translated(
                    captured, source, optimize=optimize, portable=portable, codes=fused
                )
                progress("checking")
                report = _checked(file, model, captured, source, portable=portable)
            except GateError as error:
                refused = refused or str(error)
                if not optimize and refused.startswith(TRANSLATE):
                    raise GateError(refused) from error  # other sizes change no operator
                continue
            report |= {"optimized": optimize, "passed_over": refused}
            return Exported(file, report)
    raise GateError(refused or "the model could not be exported")


def _packages() -> None:
    runtime()
    for name in PACKAGES:
        try:
            __import__(name)
        except ImportError as error:
            raise Unavailable(
                f"{name} is not installed: pip install 'bitcompress[onnx]'"
            ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to themselves what the exporter prints and warns of."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _translated(
    captured: Captured, source: Source | None, *, optimize: bool, portable: bool, codes: bool
) -> bytes:
    """The bytes of the file. Raises: GateError naming what cannot be translated."""
    with _quiet():
        try:
            from onnx_ir.passes import common

            made = torch.onnx.export(
                captured.program, dynamo=True, verbose=False, optimize=False,
                custom_translation_table=translations(),
            )  # fmt: skip
            assert made is not None
            model = made.model
            if optimize:
                fold(model)
            if portable:
                to_standard(model)
            elif optimize:
                channels_last(model)
                common.RemoveUnusedNodesPass()(model)
                fuse(model)
                if codes:
                    hand_codes(model)
            slim(model)
            _name_sizes(model, captured)
            model.metadata_props.update(_metadata(source, captured))
            import onnx_ir

            proto = onnx_ir.to_proto(model)
        except Exception as error:
            raise GateError(f"{TRANSLATE}: {_untranslated(error, captured.program)}") from error
    return seal(bytes(proto.SerializeToString()))


FAILED_NODE = re.compile(r"translating node %?(\w+)")


def _untranslated(error: BaseException, program: Any) -> str:
    """Which operator of torch could not be translated, and the module that made it."""
    said: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        said.append(" ".join(str(cause).split()))
        cause = cause.__cause__ or cause.__context__
    named = next((found for found in map(FAILED_NODE.search, said) if found), None)
    for node in program.graph.nodes:
        if named and node.name == named.group(1):
            module = list((node.meta.get("nn_module_stack") or {"": ("", "")}).values())[-1][0]
            where = module.removeprefix("model.").removeprefix("net.") or "the model"
            return f"{node.target} of {where} has no form in ONNX ({said[-1][:160]})"
    return said[-1][:300]


def _metadata(source: Source | None, captured: Captured) -> dict[str, str]:
    """What a runner must know, in the file itself; the digest is filled in last."""
    told = {
        "operators": schema.VERSION,
        "scale": None if source is None else source.scale,
        "image_range": None if source is None else source.image_range,
        "task": None if source is None else source.task,
        "step": captured.sizes.step,
    }
    return {"bitcompress": json.dumps(told), SEAL.decode(): "0" * DIGITS}


def _name_sizes(model: Any, captured: Captured) -> None:
    """Call free sizes what they are; inputs keep the names of the model's arguments."""
    import onnx_ir

    words = ("batch", None, "height", "width")
    for value, (name, tensor) in zip(model.graph.inputs, captured.inputs.items(), strict=True):
        value.name = name
        axes = [
            size
            if isinstance(size, int)
            else (words[axis] if tensor.dim() == 4 else f"{name}_{axis}")
            for axis, size in enumerate(value.shape)
        ]
        value.shape = onnx_ir.Shape(axes)
    for number, value in enumerate(model.graph.outputs):
        value.name = f"output{number or ''}"
        if value.shape is not None:
            value.shape = onnx_ir.Shape([s if isinstance(s, int) else None for s in value.shape])


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
        try:
            whole, values = gate.check_whole(model, opened, named, peak, least, captured.turned)
        except GateError:
            raise
        except Exception as error:
            sizes = [tuple(value.shape) for value in named.values()]
            raise GateError(
                f"run: ONNX Runtime fails on {sizes}: {' '.join(str(error).split())[:300]}"
            ) from error
        wholes.append(whole)
        operators = operators or gate.check_nodes(opened, values)
    metric = metric_of(model, opened, captured, source)
    if not portable:  # which says what it loses, and is not held to it
        check_metric(metric)
    weights = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    return {
        "file_bytes": len(data),
        "initializer_bytes": weights,
        "nodes": len(proto.graph.node),
        "operators": operators,
        "whole": [whole.row() for whole in wholes],
        "metric": metric,
        "sizes": {"step": captured.sizes.step, "reason": captured.sizes.reason},
        "seconds_of_gate": round(time.perf_counter() - started, 1),
        "notes": [PORTABLE] if portable else [],
        "runtime": runtime().__version__,
        "operator_version": schema.VERSION,
    }


def _text(report: Mapping[str, Any]) -> bytes:
    return (json.dumps(jsonable(dict(report)), indent=1, allow_nan=False) + "\n").encode()
