"""Tests of timing: which figures are there, in what order the models run; never how fast."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from bitcompress.measure.clock import Times
from bitcompress.measure.report import REQUIRED_OF_SPEED
from bitcompress.measure.speed import measure_speed, processors_of_this, rough


class Named(nn.Module):
    """Notes when it runs, and whether gradients were wanted."""

    def __init__(self, name: str, runs: list[tuple[str, bool]]) -> None:
        super().__init__()
        self.name, self.runs = name, runs

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        self.runs.append((self.name, torch.is_grad_enabled()))
        return x * 2


def test_models_take_turns_after_one_warm_up_each() -> None:
    runs: list[tuple[str, bool]] = []
    figures = measure_speed(
        Named("float", runs), Named("packed", runs), torch.ones(1, 3, 8, 6), repeats=3, together=0.0
    )
    assert [name for name, _ in runs] == ["float", "packed"] * 4
    assert not any(grad for _, grad in runs)
    assert set(REQUIRED_OF_SPEED) <= set(figures)
    assert figures["repeats"] == 3 and figures["input"] == [[1, 3, 8, 6]]
    assert figures["threads"] == torch.get_num_threads()
    json.dumps(figures, allow_nan=False)


def test_the_ratio_is_of_the_best_times() -> None:
    figures = measure_speed(Named("float", []), Named("packed", []), torch.ones(1))
    assert figures["ratio"] == pytest.approx(figures["float_ms"] / figures["packed_ms"])
    for who in ("float", "packed"):
        assert 0 < figures[f"{who}_ms"] <= figures[f"{who}_median_ms"]
        assert figures[f"{who}_spread"] >= 0


def test_a_packed_model_alone_has_no_ratio() -> None:
    figures = measure_speed(None, Named("packed", []), torch.ones(1, 2), repeats=1)
    assert "packed_ms" in figures and not {"float_ms", "ratio"} & set(figures)


@pytest.mark.parametrize(
    "example", [{"x": torch.ones(2, 3), "mask": torch.ones(3)}, (torch.ones(2, 3), torch.ones(3))]
)
def test_examples_of_many_arguments(example: object) -> None:
    figures = measure_speed(Named("float", []), Named("packed", []), example, repeats=1)
    assert figures["input"] == [[2, 3], [3]]


def test_small_models_go_on_until_their_time_is_full() -> None:
    figures = measure_speed(None, Named("packed", []), torch.ones(1, 2), repeats=2, together=0.02)
    assert figures["repeats"] > 2


QUIET = Times(best=1.0, median=1.1, spread=0.3, repeats=5)


@pytest.mark.parametrize(
    ("times", "threads", "load", "words"),
    [
        (QUIET, 1, 0.0, None),
        (QUIET, 10_000, 0.0, "10000 threads shared"),
        (QUIET, 1, 1e6, "a load of 1000000.0 on"),
        (Times(1.0, 1.6, 1.0, 5), 1, 0.0, "the middle run of packed took 1.6 times its best"),
        (Times(1.0, 1.1, 0.3, 5, waited=0.3), 1, 0.0, "packed waited for a processor in 30 %"),
    ],
)
def test_figures_of_a_busy_machine_are_called_rough(
    times: Times, threads: int, load: float, words: str | None
) -> None:
    reason = rough({"packed": times}, threads, load)
    assert reason is None if words is None else words in str(reason)


def test_processors_are_counted() -> None:
    assert processors_of_this() >= 1
