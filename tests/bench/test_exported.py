"""Tests of the time limit, of what a foreign failure becomes, and of the export itself."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bitcompress.bench import exported, graphs

needs_ort = pytest.mark.skipif(
    bool(graphs.missing(*exported.PACKAGES)), reason=graphs.missing(*exported.PACKAGES) or "there"
)


def test_what_takes_too_long_is_broken_off() -> None:
    late = pytest.raises(exported.OutOfTimeError, match=r"took longer than 0\.05 s")
    with late, exported.within(0.05):
        time.sleep(5)
    with exported.within(60):
        pass


def test_other_threads_have_no_limit() -> None:
    seen = []

    def work() -> None:
        with exported.within(0.001):
            time.sleep(0.02)
            seen.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


def test_warnings_stay_inside() -> None:
    before = logging.root.manager.disable
    with exported.quiet():
        warnings.warn("unheard", stacklevel=1)
        logging.getLogger().warning("unheard")
    assert logging.root.manager.disable == before


def test_a_failure_is_one_line() -> None:
    assert exported.reason_of("export", ValueError("first\nsecond")) == "export: first"
    assert exported.reason_of("export", KeyError()) == "export: KeyError"


def test_psnr() -> None:
    truth = np.array([0.0, 2.0])
    assert exported.psnr(truth, truth) == float("inf")
    assert exported.psnr(np.array([0.0, 1.8]), truth) == pytest.approx(10 * np.log10(4 / 0.02))


@needs_ort
@pytest.mark.ort
def test_a_model_runs_in_float_and_int8(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))
    x = torch.rand(1, 3, 8, 8)
    with exported.quiet(), exported.within(120):
        exported.export(net.eval(), (x,), {}, tmp_path / "a.onnx")
        exported.to_int8(tmp_path / "a.onnx", [(x,)], tmp_path / "b.onnx")
        plain = exported.output_of(exported.opened(tmp_path / "a.onnx", (x,), 1))
        int8 = exported.output_of(exported.opened(tmp_path / "b.onnx", (x,), 1))
    truth = net(x).detach().numpy()
    assert exported.psnr(plain, truth) > 80 and exported.psnr(int8, truth) > 20
