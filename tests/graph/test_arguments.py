"""Arguments of calls: operands in order however they are given, what is no tensor, what is odd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bitcompress.graph.arguments import (
    TO_FLOAT,
    detail_of,
    function_name,
    oddness,
    operands_of,
    tensors_of,
    versions_of,
)

A, B, C = (torch.full((1, 1), float(i)) for i in range(3))


@pytest.mark.parametrize(
    ("func", "args", "kwargs", "wanted"),
    [
        (torch.matmul, (A, B), {}, [A, B]),
        (torch.matmul, (), {"other": B, "input": A}, [A, B]),
        (Tensor.__rmatmul__, (B, A), {}, [A, B]),
        (F.linear, (A,), {"bias": C, "weight": B}, [A, B, C]),
        (F.scaled_dot_product_attention, (), {"value": C, "key": B, "query": A}, [A, B, C]),
        (torch.einsum, ("ij,jk", [A, B]), {}, [A, B]),
        (torch.matmul, (A, B), {"out": C}, [A, B]),
    ],
)
def test_operands_come_in_order(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], wanted: list[Tensor]
) -> None:
    assert [id(t) for t in operands_of(func, args, kwargs)] == [id(t) for t in wanted]


def test_details_are_what_is_no_tensor() -> None:
    assert detail_of("einsum", ("ij,jk", A, B), {})["equation"] == "ij,jk"
    assert detail_of("conv2d", (A, B, None, 2, "same"), {"groups": 3}) == {
        "groups": 3, "stride": 2, "padding": "same",
    }  # fmt: skip
    assert detail_of("conv2d", (A, B, C, (1, 2)), {}) == {"stride": (1, 2)}
    assert detail_of("matmul", (A, B), {"out": C}) == {"out": True}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (A, ""),
        (A.double(), f"an operand is float64{TO_FLOAT}"),
        (A.half(), f"an operand is float16{TO_FLOAT}"),
        (A.long(), "an operand is int64"),
        (A.to(torch.complex64), "an operand is complex64"),
        (A.to_sparse(), "an operand is sparse_coo"),
        (A.bool(), "an operand is bool"),
    ],
)
def test_operands_that_are_no_dense_float32_are_odd(value: Tensor, said: str) -> None:
    assert oddness([A, value]) == said


def test_tensors_are_found_in_anything() -> None:
    found = tensors_of({"a": [A, (B, {"c": C})], "n": None, "s": "x"})
    assert [id(t) for t in found] == [id(A), id(B), id(C)]


def test_names_are_plain() -> None:
    assert function_name(torch.matmul) == "matmul"
    assert function_name(torch.ops.aten.matmul.default) == "matmul"
    assert function_name(Tensor.__getitem__) == "__getitem__"


def test_a_write_changes_the_version() -> None:
    x = torch.zeros(2)
    [(tensor, before)] = versions_of([x])
    x[0] = 1
    assert tensor is x and x._version != before
    with torch.inference_mode():
        assert not versions_of(torch.zeros(2))
