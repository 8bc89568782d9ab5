"""Pictures lie with channels last inside of a program, and outside as they always did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitcompress.program.ir import Graph, Node, Value
from bitcompress.program.rules.layout import channels_last, last_strides

aten = torch.ops.aten


class Two(nn.Module):
    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.head, self.a = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.b, self.tail = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.between = between

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.between(self.a(self.head(x)))
        return self.tail(self.b(h)), h


@pytest.mark.parametrize("size", [(1, 3, 16, 20), (3, 3, 9, 11), (1, 3, 1, 40), (2, 3, 40, 1)])
@pytest.mark.parametrize(
    "between",
    [
        lambda h: h,
        lambda h: h.clamp(-1, 1),
        lambda h: -h / 3,
        lambda h: nn.functional.silu(h) + h,
        lambda h: h + torch.arange(8.0)[:, None, None],
        lambda h: h * h.amax((2, 3), keepdim=True),
        lambda h: h.flatten(2).softmax(-1).view(h.shape),
        lambda h: h.mT.contiguous().mT,
        lambda h: torch.cat([h[:, :4], h[:, 4:] * 2], 1),
        lambda h: nn.functional.avg_pool2d(h, 3, 1, 1),
        lambda h: h + torch.linspace(0, 1, h.shape[-1]),
    ],
)
def test_layouts_outside_are_those_of_the_model(lab: Any, between: Any, size: Any) -> None:
    model = lab.pack(Two(between), torch.randn(2, 3, 16, 20))
    lab.law(model, [torch.randn(size), torch.randn(size), torch.randn(size) * 3])


def first(*shape: int) -> Value:
    return Value(shape, torch.empty(shape).stride(), 0, torch.float32)


def test_what_follows_a_convolution_lies_as_it_does() -> None:
    x, y, z = first(1, 3, 4, 5), first(1, 8, 4, 5), first(1, 8, 4, 5)
    conv = Node("conv2d", None, (x,), {}, [y])
    relu = Node("aten", aten.relu.default, (y,), {}, [z])
    y.node, z.node = conv, relu
    graph = Graph([x], [conv, relu], [z])
    graph.link()
    channels_last(graph)
    assert [node.kind for node in graph.nodes] == ["relayout", "conv2d", "aten"]
    for value in (graph.nodes[0].out, y, z):
        assert value.stride == last_strides(value.shape)
    assert y.taped == z.taped == torch.empty(1, 8, 4, 5).stride() and x.taped is None
