"""Tests of the ONNX graphs of single operators: float ones compute what torch does, codes run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bitcompress.bench import graphs, rivals
from bitcompress.errors import Unavailable

pytestmark = [
    pytest.mark.ort,
    pytest.mark.skipif(bool(graphs.missing()), reason=graphs.missing() or "there"),
]


def outputs(ways: rivals.Ways) -> dict[str, Any]:
    found = {}
    for column, kinds in ways.items():
        assert not isinstance(kinds, str), kinds
        for way, run in kinds.items():
            made = run()
            if hasattr(made, "copy_outputs_to_cpu"):
                (made,) = made.copy_outputs_to_cpu()
            found[f"{column}/{way}"] = np.asarray(made.float() if torch.is_tensor(made) else made)
    return found


def same(found: dict[str, Any], one: str, other: str, close: float = 1e-4) -> None:
    np.testing.assert_allclose(found[one], found[other], atol=close, rtol=close)


@pytest.mark.parametrize("groups", [1, 4])
def test_conv2d(groups: int) -> None:
    found = outputs(
        rivals.conv2d(torch.randn(1, 4, 6, 5), torch.randn(8, 4 // groups, 3, 3), torch.randn(8),
                      groups, 1)
    )  # fmt: skip
    same(found, "ort_fp32/ort", "torch_fp32/torch")
    same(found, "torch_bf16/torch", "torch_fp32/torch", 0.2)
    assert found["ort_int8/ort"].shape == (1, 6, 5, 8)
    assert found["ort_int8/ort"].dtype == np.uint8


def test_linear_and_product() -> None:
    found = outputs(rivals.linear(torch.randn(7, 6), torch.randn(5, 6), torch.randn(5), 1))
    same(found, "ort_fp32/ort", "torch_fp32/torch")
    assert found["ort_int8/ort"].shape == (7, 5) and found["ort_int8/ort"].dtype == np.uint8
    found = outputs(rivals.product(torch.randn(2, 4, 3), torch.randn(2, 3, 5), 1))
    same(found, "ort_fp32/ort", "torch_fp32/torch")
    assert found["ort_int8/ort"].shape == (2, 4, 5)


def test_attention() -> None:
    q, k, v = torch.randn(2, 4, 3), torch.randn(2, 3, 4), torch.randn(2, 4, 3)
    found = outputs(rivals.attention(q, k, v, torch.randn(4, 4), 1))
    same(found, "ort_fp32/ort", "torch_fp32/eager")
    assert found["torch_fp32/sdpa"].shape == (2, 1, 4, 3)
    np.testing.assert_allclose(
        found["torch_fp32/sdpa"][:, 0], found["torch_fp32/eager"], atol=1e-5, rtol=1e-5
    )
    assert found["ort_int8/ort"].shape == (2, 4, 3)


def test_a_refused_graph_is_a_reason() -> None:
    ways = rivals._Ort(1).way(lambda: b"no model", {})
    assert isinstance(ways, str) and ways.startswith("ONNX Runtime refused the graph: ")


def test_sessions_need_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match="pip install"):
        graphs.session(b"", 1)
