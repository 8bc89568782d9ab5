"""What the recorded graph says about each place that multiplies: role, producers, work."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor, fx, nn

from bitcompress.graph.record import Recording

VIEWS = frozenset(
    [
        "view", "reshape", "transpose", "permute", "contiguous", "flatten", "unflatten",
        "unsqueeze", "squeeze", "expand", "chunk", "split", "unbind", "getitem", "__getitem__",
        "select", "narrow", "roll", "clone", "detach", "to", "type_as", "float", "dropout",
        "t", "adjoint", "ravel", "tile", "flip", "rot90", "gather", "index_select", "swapdims",
        "moveaxis", "view_as", "reshape_as", "expand_as", "diagonal", "double", "bfloat16",
        "Dropout", "Identity", "Flatten", "Unflatten", "alpha_dropout", "cat", "concat",
        "stack", "T", "mT", "movedim", "swapaxes", "_unsafe_view", "slice", "pad",
        "PixelShuffle", "PixelUnshuffle", "pixel_shuffle", "pixel_unshuffle", "__get__",
        "repeat", "repeat_interleave", "type", "half",
    ]
)  # fmt: skip
"""Operations that move numbers without changing which values there are."""

LINEAR_STEPS = VIEWS | frozenset(
    [
        "add", "add_", "__add__", "__radd__", "__iadd__", "iadd", "sub", "__sub__", "mul",
        "__mul__", "__rmul__", "__imul__", "imul", "masked_fill", "masked_fill_", "div",
        "__truediv__", "clamp", "where",
    ]
)  # fmt: skip
"""Steps that may stand between a product and the softmax that makes it attention logits."""

ONE_SIDED = frozenset(
    [
        "softmax", "sigmoid", "relu", "gelu", "silu", "abs", "square", "Softmax", "Sigmoid",
        "ReLU", "GELU", "SiLU", "ReLU6", "relu6", "relu_", "leaky_relu", "LeakyReLU",
        "softplus", "Softplus", "hardsigmoid", "Hardsigmoid", "elu", "ELU",
    ]
)  # fmt: skip
"""Producers whose output piles up at its minimum."""


def producer(node: fx.Node | None) -> str:
    """The name of what made a value, views skipped; `input` or `get_attr` at the ends."""
    for _ in range(64):
        if node is None:
            return ""
        name = str(node.meta.get("name", ""))
        if name not in VIEWS:
            return name
        parents = node.all_input_nodes
        if not parents:
            return name
        node = parents[0]
    return ""


def leads_to_softmax(node: fx.Node) -> bool:
    """Whether the value becomes the argument of a softmax by views, sums and scales only."""
    frontier, seen = [node], {node}
    while frontier:
        for user in frontier.pop().users:
            name = str(user.meta.get("name", "")).lower()
            if name == "softmax":
                return True
            if str(user.meta.get("name", "")) in LINEAR_STEPS and user not in seen:
                seen.add(user)
                frontier.append(user)
    return False


def depends_on_input(recording: Recording) -> set[fx.Node]:
    """The nodes whose value depends on an input of the model."""
    live: set[fx.Node] = set()
    for node in recording.graph.nodes:
        known = node.op != "placeholder" and not node.meta.get("unseen")
        if not known or any(parent in live for parent in node.all_input_nodes):
            live.add(node)
    return live


def ends(recording: Recording) -> tuple[set[fx.Node], set[fx.Node]]:
    """The multiplying nodes with none before them, and those with none after them.

    Head and tail of the model: what meets the picture and what makes it.
    """
    live = depends_on_input(recording)
    calls = {node for node in recording.calls if node in live}
    before: dict[fx.Node, bool] = {}
    for node in recording.graph.nodes:
        before[node] = any(before[p] or p in calls for p in node.all_input_nodes)
    after: dict[fx.Node, bool] = {}
    for node in reversed(list(recording.graph.nodes)):
        after[node] = any(after[u] or u in calls for u in node.users)
    return {n for n in calls if not before[n]}, {n for n in calls if not after[n]}


def macs(node: fx.Node) -> int:
    """Multiply-accumulates of one call: 0 where the operation is unknown."""
    shapes, out = node.meta["shapes"], node.meta["out_shape"]
    module = node.meta.get("module")
    if module is not None:
        return _module_macs(module, shapes, out)
    kind = node.meta["kind"]
    if kind in ("matmul", "linear", "mv", "inner", "cdist") and shapes:
        return _count(out) * int(shapes[0][-1])
    if kind in ("addmm", "addbmm", "baddbmm", "addmv") and len(shapes) > 2:
        batch = int(shapes[1][0]) if kind == "addbmm" else 1
        return batch * _count(out) * int(shapes[1][-1])
    if kind in ("conv1d", "conv2d", "conv3d") and len(shapes) > 1:
        return _count(out) * _count(shapes[1][1:])
    if kind.startswith("conv_transpose") and len(shapes) > 1:
        return _count(shapes[0]) * _count(shapes[1][1:])
    if kind == "sdpa" and len(shapes) > 2:
        q, k, v = shapes[:3]
        return _count(q[:-1]) * int(k[-2]) * (int(q[-1]) + int(v[-1]))
    if kind == "multi_head_attention_forward" and len(shapes) > 2:
        q, k, v = shapes[:3]  # length, batch, features
        width, length = int(q[-1]), int(k[0])
        projected = 2 * _count(q) * width + _count(k[:-1]) * width * (int(k[-1]) + int(v[-1]))
        return projected + 2 * _count(q) * length
    if kind == "einsum" and len(shapes) > 1:
        return _count(out) * _contracted(node.meta["detail"].get("equation", ""), shapes)
    return 0


def _module_macs(module: nn.Module, shapes: list[tuple[int, ...]], out: tuple[int, ...]) -> int:
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        # Each weight meets each token once.
        tokens = _count(shapes[0][:-1]) if shapes else 0
        return tokens * sum(p.numel() for p in module.parameters() if p.dim() == 2)
    if not isinstance(weight, Tensor) or not shapes:
        return 0
    if isinstance(module, nn.Bilinear):
        return _count(out[:-1]) * weight.numel()
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return _count(shapes[0]) * _count(weight.shape[1:])
    return _count(out) * _count(weight.shape[1:])


def _count(sizes: Iterable[int]) -> int:
    return int(math.prod(sizes))


def _contracted(equation: str, shapes: list[tuple[int, ...]]) -> int:
    """The product of the sizes that an einsum sums over."""
    left, _, right = equation.replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for term, shape in zip(left.split(","), shapes, strict=False):
        sizes.update(zip(term, shape, strict=False))
    return _count(size for name, size in sizes.items() if name not in right)
