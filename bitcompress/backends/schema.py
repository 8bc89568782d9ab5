"""The operators of domain `bitcompress` in files: their one description, for all runtimes.

From this table come the schemas that onnx checks a file by (`register`), the table that the
operator library in csrc/host/onnxruntime compiles (`cpp_table`), and the list in docs/deploy.md
(`markdown_table`). What the operators mean is in bitcompress/packed/.

Weights stay in stored form (packed/stored.py) in initialisers of bytes. Parameters may be float16
where that holds their numbers exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

DOMAIN = "bitcompress"
VERSION = 1
"""Of the domain: operators and stored form. A library refuses what it does not know."""

Kind = Literal["real", "number", "bytes", "parameter"]
Count = Literal["one", "optional"]


@dataclass(frozen=True)
class Port:
    """An input. real: float32 that changes from run to run; number: likewise, or uint8 where it was
    cut into codes already; bytes: uint8; parameter: float32 or float16, an initialiser."""

    name: str
    kind: Kind
    text: str
    count: Count = "one"


@dataclass(frozen=True)
class Attribute:
    """An integer, a list of integers or a float; `default` None where it must stand."""

    name: str
    kind: Literal["int", "ints", "float"]
    text: str
    default: int | float | tuple[int, ...] | None = None


@dataclass(frozen=True)
class Operator:
    """One operator, which has one output `y`: float32, or uint8 where it gives codes."""

    name: str
    text: str
    inputs: tuple[Port, ...]
    attributes: tuple[Attribute, ...] = ()
    codes: bool = False


STEPS = (
    "Steps on rows of channels, as numbers of bc_step_kind in bits.h; the ports `operand` hold "
    "their operands in order (norm takes two: gain and shift)."
)
OPERANDS, TERMS = 6, 4
"""How many operands the steps of a node may have, and how many terms an attention."""

_LAYER_PORTS = (
    Port("x", "number", "what is cut into codes, or was"),
    Port("weight", "bytes", "codes in stored form"),
    Port("weight_scale", "parameter", "(1,) or one an output"),
    Port("weight_offset", "parameter", "likewise"),
    Port("input_scale", "parameter", "(1,), by which codes of x are read"),
    Port("input_offset", "parameter", "(1,)"),
    Port("bias", "parameter", "one an output", "optional"),
    Port(
        "stretch",
        "parameter",
        "one an input channel: x is cut as (x - shift) / stretch",
        "optional",
    ),
    Port("shift", "parameter", "likewise", "optional"),
    *(Port(f"operand{i}", "real", "of the steps, head first", "optional") for i in range(OPERANDS)),
)
_WIDTHS = (
    Attribute("weight_shape", "ints", "(outputs, inputs / group, kernel height, kernel width)"),
    Attribute("weight_bits", "int", "1 to 8"),
    Attribute("input_bits", "int", "1 to 8"),
)
_STEPS = (
    Attribute("head", "ints", "steps before x is cut. " + STEPS, ()),
    Attribute("tail", "ints", "steps after the sums are read as reals", ()),
    Attribute("eps", "float", "of a norm among the steps of the head", 1e-5),
)
_RULES = (
    Attribute(
        "per_length", "ints", "of each operand: whether its grid shrinks as 1 / sqrt(sum's length)"
    ),
    Attribute("shortest", "ints", "of each operand: below which length its grid grows, or 0"),
)

_CONV = (
    *_WIDTHS,
    Attribute("strides", "ints", "(height, width)", (1, 1)),
    Attribute("pads", "ints", "(height, width), at both sides", (0, 0)),
    Attribute("dilations", "ints", "(height, width)", (1, 1)),
    Attribute("group", "int", "groups of channels", 1),
    Attribute("x_last", "int", "1: x is (N, H, W, C)", 0),
    Attribute("y_last", "int", "1: y is (N, H, W, C)", 0),
    *_STEPS,
)
_OUT = (
    Port("out_scale", "parameter", "(1,) or one a channel: by which y is cut", "optional"),
    Port("out_offset", "parameter", "likewise", "optional"),
)
_OUT_BITS = Attribute("out_bits", "ints", "of y, 1 to 8: one, or one a channel")
_PRODUCT_GRIDS = tuple(
    Port(f"{of}_{part}", "parameter", "one, or one for each along the last lead")
    for of in "qkpv"
    for part in ("scale", "offset")
)
_TERMS = tuple(
    Port(f"term{i}", "real", "(T, M or 1, N or 1), done to the logits", "optional")
    for i in range(TERMS)
)
_ATTENDS = (
    Attribute("bits", "ints", "of q, k, the weights and v"),
    Attribute("per_row", "int", "1: weights are cut relative to their row", 0),
    *_RULES,
    Attribute("multiplies", "ints", "of each term: 1 multiplies, 0 adds", ()),
    Attribute("repeats", "ints", "of terms: matrix b has entry (b / repeat) mod T", ()),
    Attribute("factor", "float", "q is multiplied by it before it is cut", 1.0),
)
_WINDOWS = (
    Port("q", "number", "picture (N, H, W, ...) of tokens with queries among their channels"),
    Port("k", "number", "likewise keys"),
    Port("v", "number", "likewise values"),
    *_PRODUCT_GRIDS,
    *_TERMS,
)
_IN_WINDOWS = (
    *_ATTENDS,
    Attribute("window", "ints", "(height, width), of which H and W are multiples"),
    Attribute("shift", "ints", "where the first window begins; windows go round the borders"),
    Attribute("heads", "int", "of each window"),
    Attribute("widths", "ints", "channels of a head: of q and k, and of v"),
    Attribute("firsts", "ints", "the first channel of q, of k and of v"),
)

OPERATORS: dict[str, Operator] = {
    operator.name: operator
    for operator in (
        Operator(
            "BitConv2d",
            "Convolution of codes; taps outside the picture are true zeros. x (N, C, H, W).",
            _LAYER_PORTS,
            _CONV,
        ),
        Operator(
            "BitConv2dCodes",
            "BitConv2d whose y is cut into codes for those who read it: uint8. y_last is 1.",
            (*_LAYER_PORTS, *_OUT),
            (*_CONV, _OUT_BITS),
            codes=True,
        ),
        Operator(
            "BitLinear",
            "x W^T + bias on codes. x (..., inputs).",
            _LAYER_PORTS,
            (*_WIDTHS, *_STEPS),
        ),
        Operator(
            "BitLinearCodes",
            "BitLinear whose y is cut into codes for those who read it: uint8.",
            (*_LAYER_PORTS, *_OUT),
            (*_WIDTHS, *_STEPS, _OUT_BITS),
            codes=True,
        ),
        Operator(
            "BitMatMul",
            "a b, both cut into codes at run time. a (..., M, K), b (..., K, N), equal leads.",
            (
                Port("a", "real", "rows"),
                Port("b", "real", "columns"),
                *(
                    Port(f"{of}_{part}", "parameter", "one, or one for each along the last lead")
                    for of in "ab"
                    for part in ("scale", "offset")
                ),
            ),
            (
                Attribute("bits", "ints", "of a and b, 1 to 8 each"),
                Attribute("per_row", "int", "1: a is attention weights, cut relative to a row", 0),
                *_RULES,
                Attribute("turned", "int", "1: b is given as (..., N, K)", 0),
            ),
        ),
        Operator(
            "BitAttention",
            "softmax(terms(q k)) v on codes. q (..., M, K), k (..., K, N), v (..., N, V).",
            (
                Port("q", "real", "queries"),
                Port("k", "real", "keys"),
                Port("v", "real", "values"),
                *_PRODUCT_GRIDS,
                *_TERMS,
            ),
            (*_ATTENDS, Attribute("turned", "int", "1: k is given as (..., N, K)", 0)),
        ),
        Operator(
            "BitWindows",
            "BitAttention among the tokens of each window of a picture. Matrices are ordered by "
            "picture, window row, window column and head. y (N, H, W, heads V).",
            _WINDOWS,
            _IN_WINDOWS,
        ),
        Operator(
            "BitWindowsCodes",
            "BitWindows whose y is cut into codes for those who read it: uint8.",
            (*_WINDOWS, *_OUT),
            (*_IN_WINDOWS, _OUT_BITS),
            codes=True,
        ),
        Operator(
            "LayerNorm",
            "Layer norm over the last axis, by packed/norm.py.",
            (
                Port("x", "real", "(..., C)"),
                Port("gain", "parameter", "(C,)", "optional"),
                Port("shift", "parameter", "(C,)", "optional"),
            ),
            (Attribute("eps", "float", "added to the variance"),),
        ),
        Operator(
            "BitGelu",
            "GELU, by packed/gelu.py.",
            (Port("x", "real", "any"),),
            (Attribute("tanh", "int", "1: torch's approximation by tanh", 0),),
        ),
        Operator("BitSigmoid", "Sigmoid, by packed/sigmoid.py.", (Port("x", "real", "any"),)),
        Operator("Silu", "SiLU, by packed/sigmoid.py.", (Port("x", "real", "any"),)),
        Operator(
            "Unit",
            "x divided by its length along an axis, by packed/unit.py.",
            (Port("x", "real", "any"),),
            (
                Attribute("axis", "int", "the axis, from the last if negative"),
                Attribute("least", "float", "the least that is divided by"),
            ),
        ),
        Operator(
            "PixelMean",
            "Mean over the pixels, or of |x - centre|, by packed/pixels.py. y (N, C).",
            (Port("x", "real", "(N, C, ...)"), Port("centre", "real", "(N, C)", "optional")),
            (Attribute("x_last", "int", "1: x is (N, ..., C)", 0),),
        ),
        Operator(
            "GroupNorm",
            "Group norm of pictures, by packed/group_norm.py. x (N, C, ...).",
            (
                Port("x", "real", "(N, C, ...)"),
                Port("gain", "parameter", "(C,)", "optional"),
                Port("shift", "parameter", "(C,)", "optional"),
            ),
            (
                Attribute("groups", "int", "how many share their channels' mean and variance"),
                Attribute("eps", "float", "added to the variance, as a decimal of seven digits"),
                Attribute("x_last", "int", "1: x and y are (N, ..., C)", 0),
            ),
        ),
    )
}  # fmt: skip
"""The operators by name."""


def register() -> None:
    """Make the schemas known to onnx in this process; a second call changes nothing."""
    import onnx

    known = onnx.defs.has
    for operator in OPERATORS.values():
        if not known(operator.name, DOMAIN):
            onnx.defs.register_schema(_onnx_schema(operator))


def _onnx_schema(operator: Operator) -> Any:
    import onnx

    schema, types = onnx.defs.OpSchema, {"real": "tensor(float)", "bytes": "tensor(uint8)"}
    option = schema.FormalParameterOption
    counts = {"one": option.Single, "optional": option.Optional}
    inputs = [
        schema.FormalParameter(
            port.name, types.get(port.kind, f"T_{port.name}"), port.text,
            param_option=counts[port.count],
        )
        for port in operator.inputs
    ]  # fmt: skip
    others = {"parameter": "tensor(float16)", "number": "tensor(uint8)"}
    constraints = [
        (f"T_{port.name}", ["tensor(float)", others[port.kind]], port.text)
        for port in operator.inputs
        if port.kind in others
    ]
    made = ("tensor(uint8)", "uint8") if operator.codes else ("tensor(float)", "float32")
    return schema(
        operator.name, DOMAIN, VERSION, doc=operator.text, inputs=inputs,
        outputs=[schema.FormalParameter("y", *made)],
        type_constraints=constraints,
        attributes=[_onnx_attribute(attribute) for attribute in operator.attributes],
    )  # fmt: skip


def _onnx_attribute(attribute: Attribute) -> Any:
    import onnx

    kinds = onnx.defs.OpSchema.AttrType
    kind = {"int": kinds.INT, "ints": kinds.INTS, "float": kinds.FLOAT}[attribute.kind]
    if attribute.default is None or attribute.kind == "ints":
        required = attribute.default is None
        return onnx.defs.OpSchema.Attribute(attribute.name, kind, attribute.text, required=required)
    value = onnx.helper.make_attribute(attribute.name, attribute.default)
    return onnx.defs.OpSchema.Attribute(attribute.name, value, attribute.text)


def cpp_table() -> str:
    """csrc/host/onnxruntime/operators.inc, which a test compares with this."""
    return "".join(_cpp_lines())


def _cpp_lines() -> Iterator[str]:
    yield "// Written by `python -m bitcompress.backends.schema`; a test compares it with that.\n"
    yield f'constexpr char kDomain[] = "{DOMAIN}";\nconstexpr int kVersion = {VERSION};\n'
    for operator in OPERATORS.values():
        yield f"\nconstexpr Port k{operator.name}Inputs[] = {{\n"
        for port in operator.inputs:
            yield f'    {{"{port.name}", Kind::{port.kind}, Count::{port.count}}},\n'
        yield "};\n"
        if operator.attributes:
            yield f"constexpr Attribute k{operator.name}Attributes[] = {{\n"
            for a in operator.attributes:
                needed = "true" if a.default is None else "false"
                number = a.default if isinstance(a.default, int | float) else 0
                yield f'    {{"{a.name}", {needed}, {number}}},\n'
            yield "};\n"
    yield "\nconstexpr Schema kOperators[] = {\n"
    for operator in OPERATORS.values():
        name, count = operator.name, len(operator.attributes)
        attributes = f"k{name}Attributes" if count else "nullptr"
        codes = "true" if operator.codes else "false"
        inputs = f"k{name}Inputs, {len(operator.inputs)}"
        yield f'    {{"{name}", {inputs}, {attributes}, {count}, {codes}}},\n'
    yield "};\n"


def markdown_table() -> str:
    """The list of operators of docs/deploy.md."""
    rows = ["| operator | meaning | inputs | attributes |", "|---|---|---|---|"]
    marks = {"one": "", "optional": "?"}
    for operator in OPERATORS.values():
        inputs = ", ".join(port.name + marks[port.count] for port in operator.inputs)
        attributes = ", ".join(attribute.name for attribute in operator.attributes)
        rows.append(f"| {operator.name} | {operator.text} | {inputs} | {attributes} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(cpp_table(), end="")
