"""For which sizes a model that was written down is what it was: the ways its code took by sizes.

Where a forward asks for sizes (`if min(h, w) > 8`), a file has the way that was taken when it was
written. torch keeps what was asked; a file holds it as text, and a runner refuses other sizes. The
text is read as arithmetic of sizes and no more.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from bitcompress.errors import LoadError
from bitcompress.graph.sizes import repeated

Shapes = Mapping[str, Sequence[int]]

SIZE = re.compile(r"L\['inputs'\]\[(\d+)\]\.size\(\)\[(\d+)\]")
"""How torch writes a size of what `_Bare` is given."""
LONGEST, MOST = 500, 64
"""Characters of one condition, and how many a file may have."""
RUNS = 30
"""Sizes at which it is tried whether conditions matter."""

BAD = (SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, RecursionError)
"""What reading a text that is no condition may raise."""

ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip
CHOICES: dict[str, Callable[..., Any]] = {"min": min, "max": max}


def conditions_of(program: Any, names: Sequence[str], trials: Sequence[Shapes]) -> tuple[str, ...]:
    """What an exported program asks of sizes, as text of sizes: `min(input[2], input[3]) > 8`.

    Left out: what cannot be said that way, and what a trial does not meet, since it is tried there.
    """
    found: dict[str, None] = {}
    for code in getattr(program, "_guards_code", None) or ():
        text = SIZE.sub(lambda m: f"{names[int(m.group(1))]}[{m.group(2)}]", code)
        try:
            if len(text) <= LONGEST and all(holds(text, shapes) for shapes in trials):
                found[text] = None
        except LoadError:
            continue
    return tuple(found)[:MOST]


def proved(
    asked: Sequence[str],
    inputs: Mapping[str, Tensor],
    step: int,
    agrees: Callable[[Mapping[str, Tensor]], bool | None],
) -> tuple[str, ...]:
    """The conditions that matter: those that no size breaks at which file and model agree.

    torch also notes what it asked itself, on ways that come to the same. step: of what the sides of
    pictures are multiples. agrees: whether file and model do; None where the model does not run.
    """
    left = set(asked)
    untried = {
        pair: {name: _shape(tuple(x.shape), pair) for name, x in inputs.items()}
        for pair in _sides(step)
    }
    for _ in range(RUNS):
        best: tuple[set[str], tuple[int, int]] | None = None
        for pair, shapes in untried.items():
            broken = {text for text in left if not holds(text, shapes)}
            if broken and (best is None or len(broken) < len(best[0])):
                best = broken, pair
        if best is None:
            break
        # Few at a time: one that matters must not keep others that do not.
        broken, pair = best
        shapes = untried.pop(pair)
        if agrees({name: repeated(x, shapes[name]) for name, x in inputs.items()}):
            left -= broken
    return tuple(text for text in asked if text in left)


def _sides(step: int) -> list[tuple[int, int]]:
    """Heights and widths to try, small ones first, odd and even, alike and not."""
    sides = [3, 8, 9, 16, 17, 40, 43, 64] if step == 1 else [step * n for n in (1, 2, 3, 5, 8)]
    return sorted(((a, b) for a in sides for b in sides), key=lambda pair: pair[0] * pair[1])


def _shape(shape: tuple[int, ...], sides: tuple[int, int]) -> tuple[int, ...]:
    """Of one sample of an input; pictures have these sides."""
    if not shape:
        return shape
    return (1, shape[1], *sides) if len(shape) == 4 else (1, *shape[1:])


def first_broken(conditions: Sequence[str], shapes: Shapes) -> str:
    """The first condition that shapes do not meet; empty where they meet all."""
    return next((text for text in conditions if not holds(text, shapes)), "")


def read_conditions(value: Any, shapes: Shapes) -> tuple[str, ...]:
    """The conditions in a file. Raises: LoadError where one is none, or there are too many."""
    if not isinstance(value, list) or len(value) > MOST:
        raise LoadError("the file's conditions of sizes are no short list: it is damaged")
    for text in value:
        if not isinstance(text, str) or len(text) > LONGEST:
            raise LoadError("a condition of sizes in the file is no short text: it is damaged")
        holds(text, shapes)
    return tuple(value)


def holds(text: str, shapes: Shapes) -> bool:
    """Whether shapes meet a condition. Raises: LoadError where it is no arithmetic of sizes."""
    try:
        return bool(_value(ast.parse(text, mode="eval").body, shapes))
    except BAD as why:
        raise LoadError(f"{text!r} is no condition of sizes: the file is damaged") from why


def _value(node: ast.expr, shapes: Shapes) -> Any:
    """The value of an expression. Raises: TypeError for any other than of sizes."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        index = node.slice
        if isinstance(index, ast.Constant) and isinstance(index.value, int):
            return shapes[node.value.id][index.value]
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        left, right = _value(node.left, shapes), _value(node.right, shapes)
        return ARITHMETIC[type(node.op)](left, right)
    if isinstance(node, ast.UnaryOp):
        value = _value(node.operand, shapes)
        if isinstance(node.op, ast.Not):
            return not value
        if isinstance(node.op, ast.USub):
            return -value
    if isinstance(node, ast.BoolOp):
        parts = [bool(_value(part, shapes)) for part in node.values]
        return all(parts) if isinstance(node.op, ast.And) else any(parts)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return CHOICES[node.func.id](*(_value(part, shapes) for part in node.args))
    if isinstance(node, ast.Compare):
        return _compared(node, shapes)
    raise TypeError(type(node).__name__)


def _compared(node: ast.Compare, shapes: Shapes) -> bool:
    values = [_value(part, shapes) for part in (node.left, *node.comparators)]
    return all(ARITHMETIC[type(how)](values[i], values[i + 1]) for i, how in enumerate(node.ops))
