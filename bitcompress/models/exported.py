"""Exported programs (.pt2): checked to be plain data, then loaded.

Loading such a file can run code: pickled payloads, expressions and guards that are evaluated, and
operators that are looked up by name. Everything of that kind is refused unless the file is trusted.
"""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.errors import LoadError, UsageError
from bitcompress.models.checkpoint import check_tensors
from bitcompress.models.probe import whole_ratio

_PAYLOADS = ("data/sample_inputs/", "data/weights/", "data/constants/")
_FORBIDDEN = ("data/aotinductor/", "data/constants/custom_obj", "data/constants/opaque_obj")
_OPERATORS = (
    "torch.ops.aten.",
    "torch.ops.bitcompress.",
    "torch.ops.higher_order.",
    "torch.sym_",
    "math.",
)
_ARITHMETIC = re.compile(
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
)
_WORDS = re.compile(
    "Integer|Symbol|Mul|Add|Pow|Rational|Float|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|Max|Min|Abs"
    "|Eq|Ne|Equality|Unequality|StrictLessThan|StrictGreaterThan|LessThan|GreaterThan|And|Or|Not"
    "|IntTrueDiv|ModularIndexing|Where|oo|int_oo|true|false"
)
_SYMBOL = re.compile(r"[suz]\d+")
_COMMON = (ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.UnaryOp, ast.USub)
_EXPRESSION_SYNTAX = (*_COMMON, ast.keyword)
_GUARD_SYNTAX = (
    *_COMMON,
    ast.Not,
    ast.BinOp,
    ast.Add,
    ast.Sub,
    ast.Mult,
    ast.FloorDiv,
    ast.Mod,
    ast.Compare,
    ast.cmpop,
    ast.BoolOp,
    ast.boolop,
    ast.Subscript,
    ast.Attribute,
)
_GUARD_LETTERS = re.compile(r"[\w \[\]().'+*/%<>=!-]*")
_WORD = re.compile(r"[\w.]*")
_TREE = re.compile(r'[\w.\[\]{}:," \\]*')
_MEASURES = ("size", "stride", "storage_offset", "dim")


def load(path: Path, *, trusted: bool) -> tuple[nn.Module, int | None]:
    """The module of an exported program, and its scale where pictures go in and come out.

    Raises: LoadError where the file is damaged, or where it could run code and is not trusted.
    """
    if not trusted:
        reason = _more_than_data(path)
        if reason is not None:
            raise LoadError(
                f"{path} {reason}, which can run code on load: export it again with a current "
                "torch.export.save, or, if you trust where the file comes from, say "
                "--unsafe-pickle (unsafe_pickle=True)"
            )
    quiet = logging.getLogger("torch.export")
    level = quiet.level
    try:
        quiet.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
            module = program.module()
    except Exception as error:  # torch raises many kinds on damaged files; none is ours
        reason = str(error).partition("\n")[0][:120]
        raise LoadError(
            f"{path} cannot be read as an exported program ({reason}): it is damaged or of another "
            "torch version; export it again"
        ) from error
    finally:
        quiet.setLevel(level)
    check_tensors(module.state_dict(), path)
    return _inference_only(module), _scale(program)


def _more_than_data(path: Path) -> str | None:
    """What in the archive is more than numbers and a graph of known operators; None if nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            inner = {name.partition("/")[2]: name for name in archive.namelist()}
            if "archive_format" not in inner:
                return "is of the format of an old torch"
            for name, full in inner.items():
                if name.startswith(_FORBIDDEN):
                    return f"holds compiled or pickled objects ({name})"
                reason = None
                if name.startswith(_PAYLOADS) and name.endswith("_config.json"):
                    reason = _pickled_payload(json.loads(archive.read(full)))
                elif name.startswith(_PAYLOADS) and name.endswith(".pt"):
                    reason = _needs_pickle(name, archive.read(full))
                elif name.startswith("models/"):
                    reason = _strange_graph(json.loads(archive.read(full)))
                if reason is not None:
                    return reason
    except (OSError, ValueError, zipfile.BadZipFile, RecursionError) as error:
        raise LoadError(f"{path} is a damaged exported program ({error}): get it again") from error
    return None


def _pickled_payload(config: dict[str, Any]) -> str | None:
    payloads = config.get("config", {})
    named = next((key for key, value in payloads.items() if value.get("use_pickle")), None)
    return None if named is None else f"holds {named!r} as a pickle"


def _needs_pickle(name: str, content: bytes) -> str | None:
    if not content:
        return None
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # whatever it is, torch would fall back to a full unpickling
        return f"holds {name} as a pickle of more than tensors"
    return None


def _strange_graph(model: dict[str, Any]) -> str | None:
    """An operator, expression, guard or name in the graph that is not known to be harmless.

    Names matter because torch writes them into the code of the graph and runs that.
    """
    for key, text in _strings(model):
        harmless = _CHECKS[key](text) if key in _CHECKS else _WORD.fullmatch(text)
        if not harmless:
            return f"holds {text[:60]!r} as {key or 'a key'}"
    return None


def _strings(tree: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string anywhere in a JSON tree with the key it stands under, keys as well.

    Metadata of nodes is left out: it is never run. Keys of ranges are only looked up.
    """
    if isinstance(tree, dict):
        for name, value in tree.items():
            if key != "range_constraints":
                yield "", str(name)
            if name != "metadata":
                yield from _strings(value, str(name))
    elif isinstance(tree, list):
        for value in tree:
            yield from _strings(value, key)
    elif isinstance(tree, str):
        yield key, tree


def _harmless_operator(name: str) -> bool:
    if name.startswith("_operator."):
        return _ARITHMETIC.fullmatch(name) is not None
    return name.startswith(_OPERATORS) and "__" not in name


def _parsed(text: str) -> ast.Expression | None:
    try:
        return ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def _harmless_expression(text: str) -> bool:
    """Whether an expression is nothing but sizes: known words, numbers, names of symbols."""
    tree = _parsed(text)
    if tree is None:
        return False
    for node in ast.walk(tree):
        if not isinstance(node, _EXPRESSION_SYNTAX):
            return False
        name = node.id if isinstance(node, ast.Name) else ""
        if name and not _WORDS.fullmatch(name) and not _SYMBOL.fullmatch(name):
            return False
        value = node.value if isinstance(node, ast.Constant) else 0
        if not isinstance(value, int | float) and not _SYMBOL.fullmatch(str(value)):
            return False
    return True


def _harmless_guard(text: str) -> bool:
    """Whether a guard only compares sums and products of the sizes of inputs, `L[name]`."""
    tree = _parsed(text)
    if tree is None or not _GUARD_LETTERS.fullmatch(text):
        return False
    for node in ast.walk(tree):
        if not isinstance(node, _GUARD_SYNTAX):
            return False
        if isinstance(node, ast.Name) and node.id != "L":
            return False
        if isinstance(node, ast.Attribute) and node.attr not in _MEASURES:
            return False
        if isinstance(node, ast.Call) and not isinstance(node.func, ast.Attribute):
            return False
    return True


_CHECKS: dict[str, Callable[[str], object]] = {
    "target": _harmless_operator,
    "expr_str": _harmless_expression,
    "guards_code": _harmless_guard,
    "as_string": re.compile(r"[\w., >-]*").fullmatch,
    "in_spec": _TREE.fullmatch,
    "out_spec": _TREE.fullmatch,
    "torch_version": lambda text: True,
}
"""How a string in the description of a graph is checked, by its key; others are plain words."""


def _inference_only(module: nn.Module) -> nn.Module:
    """The module, whose mode is fixed: `eval()` says nothing new, `train()` is impossible."""

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        if mode:
            raise UsageError("an exported program cannot be trained: give the float checkpoint")
        return self

    module.training = False
    module.train = types.MethodType(train, module)  # type: ignore[method-assign]
    module.eval = types.MethodType(lambda self: self, module)  # type: ignore[method-assign]
    return module


def _scale(program: torch.export.ExportedProgram) -> int | None:
    """Output size over input size where both are pictures and the ratio is whole in both axes."""
    nodes = list(program.graph.nodes)
    signature = program.graph_signature
    given = [n for n in nodes if n.op == "placeholder" and n.name in signature.user_inputs]
    made = [n for n in nodes if n.name in signature.user_outputs]
    if len(given) != 1 or len(made) != 1:
        return None
    before, after = _sizes(given[0].meta.get("val")), _sizes(made[0].meta.get("val"))
    if before is None or after is None or before[1] != after[1]:
        return None
    return whole_ratio(before[2:], after[2:])


def _sizes(value: object) -> list[int] | None:
    """The sizes of a picture batch, those of the example where they are free; None for others."""
    if not isinstance(value, Tensor) or value.dim() != 4:
        return None
    sizes = [s if isinstance(s, int) else getattr(s.node, "hint", None) for s in value.shape]
    return [int(s) for s in sizes] if all(isinstance(s, int) and s > 0 for s in sizes) else None
