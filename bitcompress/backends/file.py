"""The bytes of a file from a model that is written down: translated, simplified, sealed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bitcompress.artifact import Source
from bitcompress.backends import schema
from bitcompress.backends.capture import Captured
from bitcompress.backends.codes import hand_codes
from bitcompress.backends.fuse import fuse
from bitcompress.backends.layout import channels_last
from bitcompress.backends.nudge import Nudges
from bitcompress.backends.portable import to_standard
from bitcompress.backends.quiet import quiet
from bitcompress.backends.session import DIGITS, SEAL, seal
from bitcompress.backends.slim import fold, slim
from bitcompress.backends.translate import translations
from bitcompress.backends.unbound import cut_first
from bitcompress.backends.words import split_words
from bitcompress.errors import GateError

TRANSLATE = "translate"
"""The stage in which an operator of torch that no file has is found."""


def file_of(
    captured: Captured,
    source: Source | None,
    progress: Callable[[str], None],
    *,
    optimize: bool,
    portable: bool,
    codes: bool = False,
    nudges: Nudges | None = None,
) -> bytes:
    """The bytes of the file, between whose nodes `codes` may pass.

    nudges: counts the offsets of a portable file that became whole; without it none does.

    Raises: GateError naming what cannot be translated.
    """
    calls = len(captured.program.graph.nodes)
    progress(f"translating {calls} operators{'' if optimize else ' once more, as they are'}")
    try:
        with quiet():
            made = torch.onnx.export(
                captured.program, dynamo=True, verbose=False, optimize=False,
                custom_translation_table=translations(),
            )  # fmt: skip
        assert made is not None
        model = made.model
        progress(f"simplifying {len(model.graph)} nodes")
        with quiet():
            _simplify(
                model, captured, optimize=optimize, portable=portable, codes=codes, nudges=nudges
            )
            model.metadata_props.update(_metadata(source, captured))
            import onnx_ir

            proto = onnx_ir.to_proto(model)
    except Exception as error:
        raise GateError(f"{TRANSLATE}: {_untranslated(error, captured.program)}") from error
    return seal(bytes(proto.SerializeToString()))


def _simplify(
    model: Any, captured: Captured, *, optimize: bool, portable: bool, codes: bool,
    nudges: Nudges | None,
) -> None:  # fmt: skip
    """The graph as it is written, of an onnx_ir.Model as torch made it."""
    from onnx_ir.passes import common

    split_words(model)
    if optimize:
        fold(model)
    if portable:
        to_standard(model, nudges)
    elif optimize:
        cut_first(model)
        channels_last(model)
        common.RemoveUnusedNodesPass()(model)
        fuse(model)
        if codes:
            hand_codes(model)
    slim(model)
    _name_sizes(model, captured)


FAILED_NODE = re.compile(r"translating node %?(\w+)")
MISSING = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")


def _untranslated(error: BaseException, program: Any) -> str:
    """Which operator of torch could not be translated, and the module that made it."""
    said: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        said.append(" ".join(str(cause).split()))
        cause = cause.__cause__ or cause.__context__
    named = next((found for found in map(FAILED_NODE.search, said) if found), None)
    missing = next((found for found in map(MISSING.search, said) if found), None)
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    for node in calls:
        if named and node.name == named.group(1):
            return f"{node.target} of {_module(node)} has no form in ONNX ({said[-1][:160]})"
    if missing is None:
        return said[-1][:300]
    # torch takes operators apart before it translates them: linalg_inv becomes linalg_inv_ex.
    target = missing.group(1)
    parts = [n for n in calls if target.startswith(str(n.target).rpartition(".")[0] or "-")]
    where = max(parts, key=lambda n: len(str(n.target)), default=None)
    said_of = "" if where is None else f" of {_module(where)}"
    return f"{target}{said_of} has no form in ONNX"


def _module(node: Any) -> str:
    """The module that made a node of a program."""
    name = list((node.meta.get("nn_module_stack") or {"": ("", "")}).values())[-1][0]
    return str(
        name.removeprefix("model").removeprefix(".").removeprefix("net").lstrip(".") or "the model"
    )


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


def with_conditions(data: bytes, asked: Sequence[str]) -> bytes:
    """The file told of conditions of sizes (guards.py), sealed anew; as it is without any."""
    if not asked:
        return data
    import onnx

    proto = onnx.load_from_string(data)
    for entry in proto.metadata_props:
        if entry.key == "bitcompress":
            entry.value = json.dumps(json.loads(entry.value) | {"holds": list(asked)})
        elif entry.key == SEAL.decode():
            entry.value = "0" * DIGITS
    return seal(bytes(proto.SerializeToString()))


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
    count = len(model.graph.outputs)
    for number, value in enumerate(model.graph.outputs):
        free = not set(captured.outputs) & set(captured.inputs)
        named = captured.outputs if free and len(captured.outputs) == count else ()
        value.name = named[number] if named else f"output{number or ''}"
        if value.shape is not None:
            value.shape = onnx_ir.Shape([s if isinstance(s, int) else None for s in value.shape])
