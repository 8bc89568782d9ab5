"""What the others take for the same work: torch in float32 and bfloat16, ONNX Runtime in both.

A family gives for each column of the report one or more ways to do the work, of which the fastest
counts, or the reason why there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bitcompress.bench import graphs

COLUMNS = ("torch_fp32", "ort_fp32", "ort_int8", "torch_bf16")
Run = Callable[[], Any]
Ways = dict[str, dict[str, Run] | str]
"""For each column its ways by name, or why there are none."""


def _codes(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _signed(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).integers(-127, 128, shape, dtype=np.int8)


@dataclass(frozen=True)
class _Ort:
    """Builds the two columns of ONNX Runtime, or says why they are empty."""

    threads: int

    def way(self, make: Callable[[], bytes], inputs: dict[str, Any]) -> dict[str, Run] | str:
        """One graph with its inputs."""
        if reason := graphs.missing():
            return reason
        try:
            return {"ort": graphs.runner(graphs.session(make(), self.threads), inputs)}
        except Exception as error:  # whatever a foreign library thinks of the graph
            return f"ONNX Runtime refused the graph: {str(error).splitlines()[0][:200]}"


@dataclass(frozen=True)
class After:
    """What follows a convolution: in torch on (y, x), and as nodes of ONNX from `conv` to `y`."""

    torch: Callable[[Tensor, Tensor], Tensor]
    nodes: tuple[graphs.Made, ...]
    constants: dict[str, Any]


def prelu(slopes: Tensor) -> After:
    """PReLU, one slope a channel."""
    return After(
        lambda y, _: F.prelu(y, slopes.to(y.dtype)), (("PRelu", ("conv", "slope"), "y", {}),),
        {"slope": slopes.view(-1, 1, 1).numpy()},
    )  # fmt: skip


def residual() -> After:
    """The input of the convolution added to what it gives."""
    return After(lambda y, x: y + x, (("Add", ("conv", "x"), "y", {}),), {})


def pixel_shuffle(r: int) -> After:
    """Channels become r x r pixels."""
    attributes = {"blocksize": r, "mode": "CRD"}
    return After(
        lambda y, _: F.pixel_shuffle(y, r), (("DepthToSpace", ("conv",), "y", attributes),), {}
    )


def conv2d(
    x: Tensor, w: Tensor, bias: Tensor, groups: int, threads: int, after: After | None = None
) -> Ways:
    """A convolution that keeps the size, and what follows it.

    Shapes: x (1, C, H, W); w (O, C/groups, K, K). Of int8 it is the convolution alone, codes to
    codes.
    """
    padding, ort = w.shape[-1] // 2, _Ort(threads)
    last = torch.channels_last
    x, w = x.contiguous(memory_format=last), w.contiguous(memory_format=last)
    x_half, w_half, bias_half = (t.bfloat16() for t in (x, w, bias))
    plain = [t.contiguous().numpy() for t in (x, w, bias)]
    codes, weights = _codes(1, *x.shape[2:], x.shape[1]), _signed(*w.shape)
    then = after.torch if after else lambda y, _: y
    nodes, constants = (after.nodes, after.constants) if after else ((), {})

    def run(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        return then(F.conv2d(x, w, bias, 1, padding, 1, groups), x)

    return {
        "torch_fp32": {"torch": lambda: run(x, w, bias)},
        "torch_bf16": {"torch": lambda: run(x_half, w_half, bias_half)},
        "ort_fp32": ort.way(
            lambda: graphs.conv(plain[0], plain[1], plain[2], padding, groups, nodes, constants),
            {"x": plain[0]},
        ),
        "ort_int8": ort.way(
            lambda: graphs.qlinear_conv(codes, weights, padding, groups), {"x": codes}
        ),
    }


def linear(x: Tensor, w: Tensor, bias: Tensor, threads: int) -> Ways:
    """x (M, K) float times w (N, K)."""
    ort, half = _Ort(threads), [t.bfloat16() for t in (x, w, bias)]
    codes, weights = _codes(*x.shape), _signed(w.shape[1], w.shape[0])
    turned = np.ascontiguousarray(w.numpy().T)
    return {
        "torch_fp32": {"torch": lambda: F.linear(x, w, bias)},
        "torch_bf16": {"torch": lambda: F.linear(*half)},
        "ort_fp32": ort.way(
            lambda: graphs.linear(x.numpy(), turned, bias.numpy()), {"x": x.numpy()}
        ),
        "ort_int8": ort.way(lambda: graphs.qlinear_matmul(codes, weights), {"x": codes}),
    }


def product(a: Tensor, b: Tensor, threads: int) -> Ways:
    """a (B, M, K) times b (B, K, N), float."""
    ort, half = _Ort(threads), [t.bfloat16() for t in (a, b)]
    left, right = _codes(*a.shape), _codes(*b.shape)
    return {
        "torch_fp32": {"torch": lambda: torch.bmm(a, b)},
        "torch_bf16": {"torch": lambda: torch.bmm(*half)},
        "ort_fp32": ort.way(
            lambda: graphs.product(a.numpy(), b.numpy()), {"a": a.numpy(), "b": b.numpy()}
        ),
        "ort_int8": ort.way(lambda: graphs.qlinear_product(left, right), {"a": left, "b": right}),
    }


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, threads: int) -> Ways:
    """softmax(q k + bias) v; q, v (B, M, D), k (B, D, M), bias (M, M), float."""
    ort = _Ort(threads)
    turned = k.transpose(-2, -1).contiguous()
    halves = [t.bfloat16() for t in (q, k, v, bias)]
    turned_half = turned.bfloat16()

    def eager(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return (q @ k + bias).softmax(-1) @ v

    def fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], bias, scale=1.0)

    reals = {"q": q.numpy(), "k": k.numpy(), "v": v.numpy()}
    codes = {name: _codes(*array.shape) for name, array in reals.items()}
    return {
        "torch_fp32": {
            "eager": lambda: eager(q, k, v, bias),
            "sdpa": lambda: fused(q, turned, v, bias),
        },
        "torch_bf16": {
            "eager": lambda: eager(halves[0], halves[1], halves[2], halves[3]),
            "sdpa": lambda: fused(halves[0], turned_half, halves[2], halves[3]),
        },
        "ort_fp32": ort.way(lambda: graphs.attention(**reals, bias=bias.numpy()), reals),
        "ort_int8": ort.way(lambda: graphs.qlinear_attention(**codes, bias=bias.numpy()), codes),
    }


def _cut(x: Tensor, top: int) -> Tensor:
    return torch.round((x + 2.0) / (4.0 / top)).clamp_(0, top).to(torch.uint8)


def norm_codes(x: Tensor, gain: Tensor, shift: Tensor, bits: int, threads: int) -> Ways:
    """Layer norm of rows x (M, C), then their codes."""
    top, ort, size = (1 << bits) - 1, _Ort(threads), [x.shape[1]]
    halves, gains, shifts = x.bfloat16(), gain.bfloat16(), shift.bfloat16()
    rows, of_gain, of_shift = x.numpy(), gain.numpy(), shift.numpy()
    return {
        "torch_fp32": {"torch": lambda: _cut(F.layer_norm(x, size, gain, shift), top)},
        "torch_bf16": {"torch": lambda: _cut(F.layer_norm(halves, size, gains, shifts), top)},
        "ort_fp32": ort.way(lambda: graphs.norm(rows, of_gain, of_shift, False), {"x": rows}),
        "ort_int8": ort.way(lambda: graphs.norm(rows, of_gain, of_shift, True), {"x": rows}),
    }


def gelu_codes(x: Tensor, bits: int, threads: int) -> Ways:
    """GELU of x (M, C), then their codes."""
    top, half, ort = (1 << bits) - 1, x.bfloat16(), _Ort(threads)
    return {
        "torch_fp32": {"torch": lambda: _cut(F.gelu(x), top)},
        "torch_bf16": {"torch": lambda: _cut(F.gelu(half), top)},
        "ort_fp32": ort.way(lambda: graphs.gelu(x.numpy(), False), {"x": x.numpy()}),
        "ort_int8": ort.way(lambda: graphs.gelu(x.numpy(), True), {"x": x.numpy()}),
    }


def softmax_codes(x: Tensor, scale: float, bits: int, threads: int) -> Ways:
    """Softmax of the rows of x (M, N), then their codes."""
    top, half, ort = (1 << bits) - 1, x.bfloat16(), _Ort(threads)

    def codes(weights: Tensor) -> Tensor:
        return torch.round(weights / scale).clamp_(0, top).to(torch.uint8)

    return {
        "torch_fp32": {"torch": lambda: codes(x.softmax(-1))},
        "torch_bf16": {"torch": lambda: codes(half.softmax(-1))},
        "ort_fp32": ort.way(lambda: graphs.softmax(x.numpy(), False), {"x": x.numpy()}),
        "ort_int8": ort.way(lambda: graphs.softmax(x.numpy(), True), {"x": x.numpy()}),
    }


def window_attention(qkv: Tensor, heads: int, window: int, bias: Tensor, mask: Tensor) -> Ways:
    """Shifted window attention of tokens (H, W, 3 C) with a bias (heads, N, N) and a mask
    (windows, N, N), as the models write it, and with the mask made one with the bias before."""
    height, width, wide = qkv.shape
    depth, shift = wide // 3 // heads, window // 2
    both = bias + mask[:, None]

    def split(x: Tensor) -> Tensor:
        x = torch.roll(x, (-shift, -shift), (0, 1))
        x = x.view(height // window, window, width // window, window, 3, heads, depth)
        return x.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, -1, heads, window * window, depth)

    def join(y: Tensor) -> Tensor:
        y = y.view(height // window, width // window, heads, window, window, depth)
        y = y.permute(0, 3, 1, 4, 2, 5).reshape(height, width, heads * depth)
        return torch.roll(y, (shift, shift), (0, 1))

    def eager(x: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        q, k, v = split(x)
        logits = (q * depth**-0.5) @ k.transpose(-2, -1) + bias
        return join((logits + mask[:, None]).softmax(-1) @ v)

    def fused(x: Tensor, both: Tensor) -> Tensor:
        q, k, v = split(x)
        return join(F.scaled_dot_product_attention(q, k, v, both))

    half = [t.bfloat16() for t in (qkv, bias, mask, both)]
    return {
        "torch_fp32": {
            "eager": lambda: eager(qkv, bias, mask), "sdpa": lambda: fused(qkv, both),
        },
        "torch_bf16": {
            "eager": lambda: eager(half[0], half[1], half[2]),
            "sdpa": lambda: fused(half[0], half[3]),
        },
        "ort_fp32": "a graph of `attention` alone is timed; the windows are copies there too",
        "ort_int8": "a graph of `attention` alone is timed; the windows are copies there too",
    }  # fmt: skip


def cut(x: Tensor, scale: float, offset: float, top: int, threads: int) -> Ways:
    """Reals cut into codes."""
    return {
        "torch_fp32": {
            "torch": lambda: torch.round((x - offset) / scale).clamp_(0, top).to(torch.uint8)
        },
        "torch_bf16": "no way to cut bfloat16 into codes is faster than float32",
        "ort_fp32": "codes are not float",
        "ort_int8": _Ort(threads).way(lambda: graphs.quantize(x.numpy()), {"x": x.numpy()}),
    }
