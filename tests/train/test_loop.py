"""The loop: stopped in any way and resumed, it ends bit for bit where an unbroken run ends."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitcompress.errors import GateError, Interrupted, LoadError
from bitcompress.train.config import FitConfig
from bitcompress.train.groups import Group
from bitcompress.train.loop import fit
from bitcompress.train.schedule import rate

CONFIG = FitConfig(steps=12, save_every=4, warmup=2, fingerprint="this run")


def draw(step: int) -> Tensor:
    """Eight inputs, a function of the step."""
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(step))


def batch(step: int, process: int, processes: int) -> list[tuple[float, Tensor]]:
    """This process's half, in two micro-batches."""
    share = draw(step)[process::processes]
    cut = len(share) // 2
    return [(cut / len(share), share[:cut]), (1 - cut / len(share), share[cut:])]


class Run:
    """A small net that learns to halve its input."""

    def __init__(self) -> None:
        torch.manual_seed(7)
        self.net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 5))

    def loss(self, x: Tensor) -> Tensor:
        """The mean squared error."""
        out: Tensor = self.net(x)
        return (out - x / 2).square().mean()

    def fit(self, source: Any = batch, config: FitConfig = CONFIG, **named: Any) -> list[float]:
        """Train; gives the losses."""
        first, second = list(self.net[0].parameters()), list(self.net[2].parameters())
        groups = [Group(tuple(first), 0.05), Group(tuple(second), 0.01)]
        return fit(groups, source, self.loss, config, **named).losses

    def state(self) -> Tensor:
        """All weights in a row."""
        return torch.cat([p.detach().reshape(-1) for p in self.net.parameters()])


def disturbed(at: int, act: Callable[[], None]) -> Callable[..., list[tuple[float, Tensor]]]:
    """The batches, with something happening when step `at` asks for its own."""

    def source(step: int, process: int, processes: int) -> list[tuple[float, Tensor]]:
        if step == at:
            act()
        return batch(step, process, processes)

    return source


def fail() -> None:
    """What a full disk or a lost drive may look like."""
    raise RuntimeError("the source is gone")


@pytest.fixture(scope="module")
def unbroken() -> tuple[Tensor, list[float]]:
    run = Run()
    losses = run.fit()
    return run.state(), losses


def test_it_learns(unbroken: tuple[Tensor, list[float]]) -> None:
    assert len(unbroken[1]) == CONFIG.steps
    assert unbroken[1][-1] < unbroken[1][0]


@pytest.mark.parametrize("at", [0, 3, 4, 6, 11])
def test_broken_and_resumed_ends_bit_for_bit(
    tmp_path: Path, unbroken: tuple[Tensor, list[float]], at: int
) -> None:
    with pytest.raises(RuntimeError, match="the source is gone"):
        Run().fit(disturbed(at, fail), folder=tmp_path)
    assert (tmp_path / "train.ckpt").exists() == (at >= 4)
    resumed = Run()
    losses = resumed.fit(folder=tmp_path, resume=True)
    assert torch.equal(resumed.state(), unbroken[0])
    assert losses == unbroken[1]


def test_a_finished_run_resumed_does_nothing(
    tmp_path: Path, unbroken: tuple[Tensor, list[float]]
) -> None:
    Run().fit(folder=tmp_path)
    again = Run()
    assert again.fit(disturbed(0, fail), folder=tmp_path, resume=True) == unbroken[1]
    assert torch.equal(again.state(), unbroken[0])


def test_without_resume_it_starts_over(
    tmp_path: Path, unbroken: tuple[Tensor, list[float]]
) -> None:
    Run().fit(folder=tmp_path)
    again = Run()
    again.fit(folder=tmp_path)
    assert torch.equal(again.state(), unbroken[0])


@pytest.mark.parametrize(
    "change", [{"fingerprint": "another"}, {"steps": 13}, {"schedule": "constant"}, {"warmup": 1}]
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    Run().fit(folder=tmp_path)
    with pytest.raises(LoadError, match="another model, recipe, data or seed"):
        Run().fit(config=replace(CONFIG, **change), folder=tmp_path, resume=True)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.ckpt"
    path.write_bytes(b"nothing of ours")
    with pytest.raises(LoadError, match="not a checkpoint of ours"):
        Run().fit(folder=tmp_path, resume=True)
    torch.save([torch.zeros(3)], path)
    with pytest.raises(LoadError):
        Run().fit(folder=tmp_path, resume=True)


def test_a_loss_that_is_no_number_stops_with_the_checkpoint_kept(
    tmp_path: Path, unbroken: tuple[Tensor, list[float]]
) -> None:
    def poisoned(step: int, process: int, processes: int) -> list[tuple[float, Tensor]]:
        parts = batch(step, process, processes)
        return [(w, x * math.nan) for w, x in parts] if step == 9 else parts

    with pytest.raises(GateError, match="loss is nan at step 10 of 12") as caught:
        Run().fit(poisoned, folder=tmp_path)
    assert caught.value.exit_code == 5
    state = torch.load(tmp_path / "train.ckpt", weights_only=True)
    assert state["step"] == 8
    assert all(torch.isfinite(p).all() for p in state["params"])
    resumed = Run()
    resumed.fit(folder=tmp_path, resume=True)
    assert torch.equal(resumed.state(), unbroken[0])


def interrupt() -> None:
    """Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_keeps_the_state(tmp_path: Path, unbroken: tuple[Tensor, list[float]]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="after step 6 of 12; the state is kept") as caught:
        Run().fit(disturbed(5, interrupt), folder=tmp_path)
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.load(tmp_path / "train.ckpt", weights_only=True)["step"] == 6
    resumed = Run()
    assert resumed.fit(folder=tmp_path, resume=True) == unbroken[1]
    assert torch.equal(resumed.state(), unbroken[0])


def test_ctrl_c_without_a_folder_says_that_nothing_was_kept() -> None:
    with pytest.raises(Interrupted, match="nothing was kept"):
        Run().fit(disturbed(1, interrupt))


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        interrupt()
        interrupt()

    with pytest.raises(KeyboardInterrupt):
        Run().fit(disturbed(5, twice), folder=tmp_path)
    assert torch.load(tmp_path / "train.ckpt", weights_only=True)["step"] == 4


PROGRAM = """
import importlib.util, os, signal, sys
from pathlib import Path
import torch

torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("test_loop", sys.argv[1])
loop = importlib.util.module_from_spec(spec)
sys.modules["test_loop"] = loop
spec.loader.exec_module(loop)
"""


def start(body: str, *args: object, **environment: str) -> subprocess.Popen[str]:
    """A Python process with this file at hand as `loop`."""
    program = PROGRAM + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", program, __file__, *map(str, args)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_killed_and_resumed_ends_bit_for_bit(
    tmp_path: Path, unbroken: tuple[Tensor, list[float]]
) -> None:
    body = """
        def die():
            os.kill(os.getpid(), signal.SIGKILL)
        loop.Run().fit(loop.disturbed(10, die), folder=Path(sys.argv[2]))
    """
    process = start(body, tmp_path)
    _, said = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, said
    assert torch.load(tmp_path / "train.ckpt", weights_only=True)["step"] == 8
    resumed = Run()
    resumed.fit(folder=tmp_path, resume=True)
    assert torch.equal(resumed.state(), unbroken[0])


def test_two_processes_give_the_result_of_one(
    tmp_path: Path, unbroken: tuple[Tensor, list[float]]
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    body = """
        run = loop.Run()
        run.fit(folder=Path(sys.argv[2]))
        torch.save(run.state(), sys.argv[3])
        from accelerate import PartialState
        assert PartialState().num_processes == 2
        from bitcompress.train.processes import part_processes
        part_processes()
        assert not torch.distributed.is_initialized()
    """
    common = {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo", "LOCAL_WORLD_SIZE": "2",
    }  # fmt: skip
    processes = [
        start(body, tmp_path, tmp_path / f"{r}.pt", RANK=str(r), LOCAL_RANK=str(r), **common)
        for r in range(2)
    ]
    for process in processes:
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said
    states = [torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2)]
    assert torch.equal(states[0], states[1])
    assert torch.allclose(states[0], unbroken[0], atol=1e-5)
    kept = torch.load(tmp_path / "train.ckpt", weights_only=True)
    assert kept["step"] == CONFIG.steps
    assert kept["losses"] == pytest.approx(unbroken[1], rel=1e-5)


def test_rates_by_hand() -> None:
    config = FitConfig(steps=10, warmup=4)
    assert [rate(step, config) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert rate(5, config) == pytest.approx(0.5)
    assert rate(10, config) == pytest.approx(0.0)
    flat = replace(config, schedule="constant", warmup=0)
    assert {rate(step, flat) for step in range(10)} == {1.0}


def test_micro_batches_sum_to_the_batch() -> None:
    whole, parts = Run(), Run()
    whole.fit(lambda step, process, processes: [(1.0, draw(step))])
    parts.fit(batch)
    assert torch.allclose(whole.state(), parts.state(), atol=1e-5)


def test_progress_is_told_of_every_step() -> None:
    told: list[tuple[int, int]] = []
    Run().fit(progress=lambda what, done, total: told.append((done, total)))
    assert told == [(step + 1, 12) for step in range(12)]


def test_no_temporary_file_is_left(tmp_path: Path) -> None:
    Run().fit(folder=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["train.ckpt"]
