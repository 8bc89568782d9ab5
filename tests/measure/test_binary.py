"""Tests of what the report of a binary model holds: flips by hand, times, the page."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from bitcompress.measure.binary import paper_counts
from bitcompress.measure.binary_markdown import write_markdown
from bitcompress.measure.flips import Near
from bitcompress.measure.layer_times import layer_times


def test_counts_of_papers_by_hand() -> None:
    rows = [
        {"state": "packed", "weights": 640, "macs": 6400},
        {"state": "float", "weights": 30, "macs": 100},
    ]
    found = paper_counts(rows, parameters=700)
    assert found["paper_params"] == 60 + 640 / 32 and found["float_params"] == 700
    assert found["paper_ops"] == 100 + 6400 / 64 and found["float_ops"] == 6500


def test_flipped_bits_by_hand() -> None:
    one = {"a": torch.tensor([True, False, True, True]), "b": torch.tensor([True] * 4)}
    two = {"a": torch.tensor([True, True, True, True]), "b": torch.tensor([True] * 4)}
    y = torch.tensor([0.0, 1.0])
    near = Near.of(one, two, y, y)
    assert near.bits == 8 and near.flipped_share == 1 / 8 and near.flips == {"a": 1 / 4}
    assert math.isinf(near.psnr_db) and near.changed_share == 0
    assert Near.of(one, one, y, y).flips == {}


def test_each_module_has_its_time() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3)))
    found = layer_times(net, torch.rand(1, 3, 16, 16))
    assert set(found) == {"0", "1", "1.0", "1.1"} and min(found.values()) > 0
    assert found["1"] >= found["1.1"]
    assert not any(module._forward_hooks for module in net.modules())


def test_the_page_is_honest_where_there_is_nothing_to_boast_of() -> None:
    report: dict[str, Any] = {
        "recipe": "xnor", "task": "sr", "seed": 0, "coverage": 0.5, "notes": ["a note"],
        "states": {"packed": 1, "float": 1}, "quality": {"metric": "psnr_y"},
        "training": {"method": "xnor", "steps": 0, "batch": 4, "start": "float"},
        "size": {"float_bytes": 10, "packed_bytes": 20, "ratio": 0.5, "paper_params": 1.0,
                 "float_params": 2.0, "paper_ops": 1.0, "float_ops": 2.0},
        "speed": {}, "stages": [{"stage": "load", "seconds": 1.0, "peak_rss_mb": 10.0}],
        "layers": [
            {"name": "a|b", "op": "conv2d", "state": "packed", "became": "xnor: Sign", "reason": "",
             "float_bytes": 8, "stored_bytes": 1, "float_ms": 1.0, "packed_ms": None,
             "flipped_share": 0.0},
            {"name": "c", "op": "linear", "state": "float", "became": "", "reason": "last layer",
             "float_bytes": 8, "stored_bytes": 8, "float_ms": 1.0, "packed_ms": 1.0,
             "flipped_share": None},
        ],
        "parity": {"psnr_db": math.inf, "bits": 8, "flipped_share": 0.0},
        "machine": {"processor": "p", "threads": 1, "native": "avx2"}, "versions": {"torch": "2"},
    }  # fmt: skip
    page = write_markdown(report)
    assert "LARGER by" in page and "not trained" in page and "Not measured." in page
    assert "- `c`: last layer" in page and "a\\|b" in page and "- a note" in page
