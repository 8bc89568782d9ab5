"""Attention in windows and codes between operators: the same bits as attention among moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitcompress.backends import opaque
from bitcompress.backends.reference import evaluate
from bitcompress.backends.windows import windowed
from bitcompress.packed.steps import NUMBERS

from .conftest import numbers
from .test_operators import grid, layer

WINDOW, SHIFT, HEADS, WIDTHS, FIRSTS = (2, 3), (1, 2), 2, (4, 3), (1, 9, 17)
SIZE = (2, 6, 9, 23)
WHERE = {
    "window": list(WINDOW), "shift": list(SHIFT), "heads": HEADS, "widths": list(WIDTHS),
    "firsts": list(FIRSTS),
}  # fmt: skip


def rules(per_row: int = 0) -> dict[str, Any]:
    """Attributes of an attention, with three terms."""
    return {
        "bits": [4, 4, 4, 2], "per_row": per_row, "per_length": [0, 1, 0, 0],
        "shortest": [0, 0, 9, 0], "multiplies": [0, 0, 1], "repeats": [1, 2, 1], "factor": 0.3,
    }  # fmt: skip


def windows(per_row: int = 0, *, codes: bool = False) -> tuple[list[Any], dict[str, Any]]:
    """The inputs of BitWindows and its attributes; a term is 0 for most windows, as masks are."""
    x, mask = numbers(*SIZE), numbers(9, 6, 6, seed=4)
    mask[[0, 4, 5, 8]], mask[3] = 0.0, -0.0
    terms = [numbers(2, 6, 6, seed=3), mask, np.full((1, 1, 1), 0.5, np.float32)]
    grids = [*grid(4), *grid(4, 2), *grid(4), *grid(2)]
    attributes = {**rules(per_row), **WHERE}
    if not codes:
        return [x, x, x, *grids, *terms], attributes
    out = [None, np.abs(numbers(6, seed=5)) + 0.1, numbers(6, seed=6)]
    return [x, x, x, *grids, *terms, *out], {**attributes, "out_bits": [2]}


def matrices(x: Any, first: int, width: int) -> Any:
    """What windows are, by plain loops. Shapes: (N, H, W, C) -> (N windows, heads, tokens, w)."""
    count, height, width_, _ = x.shape
    made = []
    for n in range(count):
        for i in range(0, height, WINDOW[0]):
            for j in range(0, width_, WINDOW[1]):
                tokens = [
                    x[n, (y + SHIFT[0]) % height, (z + SHIFT[1]) % width_]
                    for y in range(i, i + WINDOW[0])
                    for z in range(j, j + WINDOW[1])
                ]
                heads = [first + h * width for h in range(HEADS)]
                made.append([[t[at : at + width] for t in tokens] for at in heads])
    return np.array(made)


@pytest.mark.parametrize("per_row", [0, 1])
def test_windows_are_attention_among_the_tokens_of_a_window(per_row: int) -> None:
    inputs, attributes = windows(per_row)
    q, k, v = (
        matrices(x, first, width)
        for x, first, width in zip(inputs, FIRSTS, (4, 4, 3), strict=False)
    )
    k = np.ascontiguousarray(k.swapaxes(-2, -1))
    want = evaluate("BitAttention", [q, k, v, *inputs[3:]], {**attributes, "turned": 0}).numpy()
    made = evaluate("BitWindows", inputs, attributes).numpy()
    np.testing.assert_array_equal(matrices(made, 0, 3), want)


@pytest.mark.ort
@pytest.mark.parametrize("per_row", [0, 1])
@pytest.mark.parametrize("codes", [False, True])
def test_windows(run_node: Any, per_row: int, codes: bool) -> None:
    inputs, attributes = windows(per_row, codes=codes)
    kind = "BitWindowsCodes" if codes else "BitWindows"
    made = run_node(kind, inputs, [*range(3, 11), *range(14, len(inputs))], **attributes)
    assert made.dtype == (np.uint8 if codes else np.float32)
    np.testing.assert_array_equal(made, evaluate(kind, inputs, attributes).numpy())


@pytest.mark.ort
def test_windows_of_codes(run_node: Any) -> None:
    inputs, attributes = windows()
    generator = np.random.default_rng(0)
    inputs[:3] = [generator.integers(0, 4, SIZE).astype(np.uint8)] * 3
    made = run_node("BitWindows", inputs, range(3, 11), **attributes)
    np.testing.assert_array_equal(made, evaluate("BitWindows", inputs, attributes).numpy())


@pytest.mark.ort
@pytest.mark.parametrize(
    ("shape", "change", "says"),
    [
        ((2, 6, 8, 23), {}, r"\(6, 8\), whose sides are no multiples of the window \(2, 3\)"),
        ((2, 6, 9, 22), {}, "heads reach channel 23"),
        ((54, 23), {}, r"not \(N, H, W, \.\.\.\)"),
        (SIZE, {"window": [0, 3]}, "window holds 0"),
        (SIZE, {"heads": 3}, "grids for 3 matrices|heads reach"),
        (SIZE, {"firsts": [1, 9]}, "firsts has 2 numbers, not 3"),
        (SIZE, {"repeats": [1, 2, 5]}, "a term is"),
    ],
)
def test_what_windows_refuse(run_node: Any, shape: Any, change: dict[str, Any], says: str) -> None:
    inputs, attributes = windows()
    inputs[:3] = [np.zeros(shape, np.float32)] * 3
    with pytest.raises(Exception, match=says):
        run_node("BitWindows", inputs, range(3, 11), **{**attributes, **change})


@pytest.mark.ort
def test_no_picture_gives_no_picture(run_node: Any) -> None:
    inputs, attributes = windows()
    inputs[:3] = [np.zeros((0, *SIZE[1:]), np.float32)] * 3
    assert run_node("BitWindows", inputs, range(3, 11), **attributes).shape == (0, 6, 9, 6)


@pytest.mark.ort
@pytest.mark.parametrize("mixed", [False, True])
def test_a_linear_gives_codes(run_node: Any, mixed: bool) -> None:
    gelu = NUMBERS["gelu"]
    inputs = [numbers(2, 7, 33), *layer((19, 33), (2, 2), 33, half=False), *[None] * 7]
    inputs += [np.abs(numbers(19, seed=8)) + 0.1, numbers(19, seed=9)]
    attributes = {
        "weight_shape": [19, 33], "weight_bits": 2, "input_bits": 2, "tail": [gelu],
        "out_bits": [1 + i % 8 for i in range(19)] if mixed else [3],
    }  # fmt: skip
    made = run_node("BitLinearCodes", inputs, range(1, 17), **attributes)
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, evaluate("BitLinearCodes", inputs, attributes).numpy())


@pytest.mark.ort
@pytest.mark.parametrize("shape", [(19, 9), (8, 9, 3, 3)])
def test_layers_read_codes_and_reals_alike(run_node: Any, shape: tuple[int, ...]) -> None:
    kind = "BitLinear" if len(shape) == 2 else "BitConv2d"
    parts = layer(shape, (2, 2), 9, half=False)
    attributes = {"weight_shape": list(shape), "weight_bits": 2, "input_bits": 2}
    if kind == "BitConv2d":
        attributes |= {"x_last": 1, "y_last": 1, "pads": [1, 1]}
    reals = numbers(2, 5, 6, 9)
    codes = np.clip(np.rint((reals / parts[6] - parts[4]) / parts[3]), 0, 3).astype(np.uint8)
    made = [run_node(kind, [x, *parts], range(1, 8), **attributes) for x in (reals, codes)]
    truth = evaluate(kind, [codes, *parts], attributes).numpy()
    np.testing.assert_array_equal(made[1], truth)
    near = np.abs((reals / parts[6] - parts[4]) / parts[3] % 1 - 0.5).min()
    assert near > 1e-6  # no number lies between two codes, so that both cuts agree
    np.testing.assert_array_equal(*made)


class Moves(nn.Module):
    """Attention in windows, its moves written in several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, 6, H, W) -> (N, H, W, 2)."""
        x = x.permute(0, 2, 3, 1).contiguous() + 1
        height, width = x.shape[1:3]
        if self.way == "rolled":
            x = torch.roll(x, (-1, -2), (1, 2))
        if self.way == "mirrored":
            x = x.flip(2)
        split = x.reshape(-1, height // 4, 4, width // 4, 4, 3, 2, 1)
        flat = split.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, 2, 16, 1)
        if self.way == "scrambled":
            flat = flat.flip(3)
        q, k, v = flat.unbind(0) if self.way == "unbound" else (flat[0], flat[1], flat[2])
        one, zero = torch.ones(1), torch.zeros(1)
        y = opaque.attention(
            q * 0.5, k.transpose(-2, -1), v, [one, zero] * 4, [2] * 4, False, [0] * 4, [0] * 4,
            [], [], [],
        )  # fmt: skip
        y = y.view(-1, height // 4, width // 4, 2, 4, 4, 1).permute(0, 1, 4, 2, 5, 3, 6)
        y = y.reshape(-1, height, width, 2)
        return (torch.roll(y, (1, 2), (1, 2)) if self.way == "rolled" else y) * 2


@pytest.mark.parametrize("way", ["rolled", "unbound", "mirrored", "scrambled"])
def test_windows_are_found_by_what_moves_do(way: str) -> None:
    step = 4 * torch.export.Dim("h", min=1)
    wide = 4 * torch.export.Dim("w", min=1)
    model = Moves(way).eval()
    x = torch.rand(2, 6, 12, 20)
    auto = torch.export.Dim.AUTO
    program = torch.export.export(
        model, (x,), dynamic_shapes=({0: auto, 2: step, 3: wide},), strict=False
    )
    made = windowed(program).program
    kinds = [str(node.target) for node in made.graph.nodes]
    found = "bitcompress.windows.default" in kinds
    assert found == (way != "scrambled")
    assert found != ("bitcompress.attention.default" in kinds)
    if found:
        (node,) = [n for n in made.graph.nodes if "windows" in str(n.target)]
        window, shift, heads, widths, firsts, factor = node.args[-6:]
        assert (window, heads, widths, firsts, factor) == ([4, 4], 2, [1, 1], [0, 2, 4], 0.5)
        assert ("aten.flip.default" in kinds) == (way == "mirrored")  # of the picture: it stays
        assert shift == ([1, 2] if way == "rolled" else [0, 0])
    for size in [(12, 20), (8, 8), (20, 16)]:
        x = torch.rand(2, 6, *size)
        assert torch.equal(made.module()(x), model(x))
