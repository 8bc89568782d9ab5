"""Learning of a whole model: dropout, norm statistics, averages and stages survive any break."""

from __future__ import annotations

import math
import os
import signal
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitcompress.errors import GateError, Interrupted, LoadError, RecipeError, Unavailable
from bitcompress.layers.binary import BlockSpec, binary_block
from bitcompress.train import FitConfig, LearnConfig, Stage, learn

FIT = FitConfig(
    steps=12, save_every=4, warmup=2, optimizer="adamw", clip=1.0, average=0.9, fingerprint="this"
)
CONFIG = LearnConfig(FIT, lr=0.02, weight_decay=0.01)


class Gate(nn.Module):
    """A factor that a stage sets."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def batches(step: int, process: int, processes: int) -> list[tuple[float, Tensor]]:
    """This process's share in two micro-batches."""
    x = torch.randn(16, 5, generator=torch.Generator().manual_seed(step))[process::processes]
    return [(0.5, half) for half in x.chunk(2)]


class Run:
    """A net with dropout, batch norm and a switch."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.gate = Gate()
        self.net = nn.Sequential(
            nn.Linear(5, 8), nn.BatchNorm1d(8), nn.PReLU(), nn.Dropout(0.3), self.gate,
            nn.Linear(8, 5),
        )  # fmt: skip
        self.net.register_buffer("seen", torch.tensor([True, False]))
        self.modes: list[bool] = []

    def loss(self, x: Tensor) -> Tensor:
        self.modes.append(self.net.training)
        out: Tensor = self.net(x)
        return (out - x.sin()).square().mean()

    def stages(self) -> list[Stage]:
        def close() -> None:
            self.gate.factor = 0.5

        return [Stage(0.5, close, restart=True, weight_decay=0.0)]

    def learn(self, source: Any = batches, config: LearnConfig = CONFIG, **named: Any) -> Any:
        named.setdefault("stages", self.stages())
        return learn(self.net, self.loss, source, config, **named).losses

    def state(self) -> list[Tensor]:
        return [t.clone() for t in self.net.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def disturbed(at: int, act: Callable[[], None]) -> Callable[..., list[tuple[float, Tensor]]]:
    def source(step: int, process: int, processes: int) -> list[tuple[float, Tensor]]:
        if step == at:
            act()
        return batches(step, process, processes)

    return source


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def unbroken() -> tuple[list[Tensor], list[float]]:
    run = Run()
    losses = run.learn()
    return run.state(), losses


@pytest.mark.parametrize("at", [2, 5, 6, 9])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_interrupted_and_resumed_ends_bit_for_bit(
    tmp_path: Path, unbroken: tuple[list[Tensor], list[float]], at: int, precision: str
) -> None:
    config = replace(CONFIG, fit=replace(FIT, precision=precision))
    whole = Run()
    losses = unbroken[1] if precision == "fp32" else whole.learn(config=config)
    state = unbroken[0] if precision == "fp32" else whole.state()
    with pytest.raises(Interrupted, match=f"after step {at + 1} of 12; the state is kept"):
        Run().learn(disturbed(at, interrupt), config, folder=tmp_path)
    resumed = Run()
    torch.manual_seed(at)  # whatever was drawn before must not matter
    assert resumed.learn(config=config, folder=tmp_path, resume=True) == losses
    assert same(resumed.state(), state)
    assert resumed.gate.factor == 0.5


def test_random_numbers_of_the_caller_are_left_alone() -> None:
    run = Run()
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    run.learn()
    assert torch.equal(torch.rand(3), want)


def test_the_student_learns_in_training_mode_and_ends_in_eval(
    unbroken: tuple[list[Tensor], list[float]],
) -> None:
    run = Run()
    run.net.eval()
    run.learn()
    assert all(run.modes) and not run.net.training
    assert same(run.state(), unbroken[0])


def test_blocks_are_told_how_far_the_run_is() -> None:
    block = binary_block(nn.Linear(5, 5), BlockSpec("irnet"))
    shares: list[float] = []

    def loss(x: Tensor) -> Tensor:
        shares.append(block.core.share)
        return block(x).square().mean()

    learn(block, loss, lambda step, *_: batches(step, 0, 1)[:1], LearnConfig(FitConfig(steps=4)))
    assert shares == [0, 0.25, 0.5, 0.75]


def test_a_teacher_beside_is_left_as_it_was() -> None:
    run, teacher = Run(), nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.5)).train()
    before = [p.clone() for p in teacher.parameters()]
    seen: list[bool] = []

    def loss(x: Tensor) -> Tensor:
        seen.append(teacher.training or teacher[0].weight.requires_grad)
        out: Tensor = (run.net(x) - teacher(x)).square().mean()
        return out

    learn(run.net, loss, batches, CONFIG, beside=[teacher])
    assert not any(seen)
    assert teacher.training and teacher[1].training and teacher[0].weight.requires_grad
    assert same(before, list(teacher.parameters()))


@pytest.mark.parametrize(
    "change", [{"optimizer": "sgd"}, {"clip": 0.5}, {"average": 0.0}, {"seed": 1}, {"epoch": 2}]
)
def test_resuming_with_another_recipe_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    Run().learn(folder=tmp_path)
    with pytest.raises(LoadError, match="another model, recipe, data or seed"):
        other = replace(CONFIG, fit=replace(FIT, **change))
        Run().learn(config=other, folder=tmp_path, resume=True)


@pytest.mark.parametrize(
    "change", [{"lr": 0.01}, {"weight_decay": 0.0}, {"rates": (("0.*", 0.5),)}]
)
def test_resuming_with_other_rates_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    Run().learn(folder=tmp_path)
    with pytest.raises(LoadError, match="another model, recipe, data or seed"):
        Run().learn(config=replace(CONFIG, **change), folder=tmp_path, resume=True)
    with pytest.raises(LoadError, match="another model, recipe, data or seed"):
        Run().learn(stages=[], folder=tmp_path, resume=True)


def test_pictures_lie_as_asked() -> None:
    net = nn.Conv2d(3, 3, 3)
    seen: list[bool] = []

    def loss(inputs: tuple[Tensor, Tensor]) -> Tensor:
        seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
        assert inputs[1].dim() == 1
        return net(inputs[0]).square().mean()

    def source(step: int, process: int, processes: int) -> list[tuple[float, Any]]:
        return [(1.0, (torch.ones(2, 3, 5, 5), torch.ones(2)))]

    learn(net, loss, source, LearnConfig(FitConfig(steps=1), channels_last=True))
    learn(net, loss, source, LearnConfig(FitConfig(steps=1)))
    assert seen == [True, False]


def test_another_model_is_refused(tmp_path: Path) -> None:
    Run().learn(folder=tmp_path)
    other = nn.Linear(5, 5)
    with pytest.raises(LoadError, match="another model"):
        learn(other, lambda x: other(x).mean(), batches, CONFIG, folder=tmp_path, resume=True)


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(
    tmp_path: Path, unbroken: tuple[list[Tensor], list[float]]
) -> None:
    def poisoned(step: int, process: int, processes: int) -> list[tuple[float, Tensor]]:
        parts = batches(step, process, processes)
        return [(w, x * math.nan) for w, x in parts] if step == 9 else parts

    with pytest.raises(GateError, match=r"loss is nan at step 10 of 12; lower the learning rate"):
        Run().learn(poisoned, folder=tmp_path)
    resumed = Run()
    resumed.learn(folder=tmp_path, resume=True)
    assert same(resumed.state(), unbroken[0])


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_gradients_that_are_no_numbers_do_not_reach_a_checkpoint(
    tmp_path: Path, clip: float
) -> None:
    """sqrt at 0 has a finite value and an infinite slope: the loss itself never says so."""
    net = nn.Linear(1, 1)
    step_now = [0]

    def source(step: int, process: int, processes: int) -> list[tuple[float, Tensor]]:
        step_now[0] = step
        return [(1.0, torch.ones(2, 1))]

    def loss(x: Tensor) -> Tensor:
        out: Tensor = net(x).square().mean()
        return out + (net.weight * 0).sqrt().sum() if step_now[0] == 7 else out

    config = LearnConfig(FitConfig(steps=12, save_every=4, clip=clip))
    where = "norm of the gradients is nan" if clip else "a weight is nan"
    with pytest.raises(GateError, match=f"{where} at step 8 of 12"):
        learn(net, loss, source, config, folder=tmp_path)
    kept = torch.load(tmp_path / "train.ckpt", weights_only=True)
    assert kept["step"] == 4 and all(torch.isfinite(p).all() for p in kept["params"])


def test_infinite_masks_are_no_broken_weights(tmp_path: Path) -> None:
    net = nn.Linear(5, 5)
    net.register_buffer("mask", torch.full((3,), -math.inf))
    config = LearnConfig(FitConfig(steps=2, save_every=1, average=0.5))
    learn(net, lambda x: net(x).square().mean(), batches, config, folder=tmp_path)
    assert torch.load(tmp_path / "train.ckpt", weights_only=True)["step"] == 2
    assert (net.mask == -math.inf).all()


def test_the_average_is_that_of_a_plain_loop() -> None:
    """Plain gradient descent by hand, and the average written out."""
    net = nn.Linear(5, 1, bias=False)
    config = LearnConfig(
        FitConfig(steps=6, optimizer="sgd", momentum=0.0, schedule="constant", average=0.8), lr=0.1
    )
    weight = net.weight.detach().clone().double()
    average = weight.clone()
    for step in range(6):
        x = torch.cat([part for _, part in batches(step, 0, 1)]).double()
        error = x @ weight.T - 1
        weight = weight - 0.1 * (2 * error.T @ x / len(x))
        keep = min(0.8, (1 + step) / (10 + step))
        average = keep * average + (1 - keep) * weight
    learn(net, lambda x: (net(x) - 1).square().mean(), batches, config)
    assert torch.allclose(net.weight.double(), average, atol=1e-6)


def test_what_bf16_changes_is_small() -> None:
    exact, low = Run(), Run()
    want = exact.learn()
    got = low.learn(config=replace(CONFIG, fit=replace(FIT, precision="bf16")))
    assert got != want
    assert got == pytest.approx(want, rel=0.05)
    assert [t.dtype for t in low.state()] == [t.dtype for t in exact.state()]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimizer_learns(optimizer: str) -> None:
    losses = Run().learn(
        config=replace(CONFIG, fit=replace(FIT, optimizer=optimizer)), stages=[]
    )  # fmt: skip
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"optimizer": "lion"}, "optimizer 'lion' is none of adam, adamw, sgd"),
        ({"schedule": "step"}, "schedule 'step' is none of cosine, linear, constant, onecycle"),
        ({"precision": "fp16"}, "precision 'fp16' is unknown"),
        ({"average": 1.0}, "the decay of the average"),
        ({"clip": -1.0}, "clip"),
    ],
)
def test_unknown_words_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        Run().learn(config=replace(CONFIG, fit=replace(FIT, **change)))


def test_curves_without_tensorboard_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(Unavailable, match="bitcompress\\[curves\\]"):
        Run().learn(config=replace(CONFIG, curves=tmp_path))


def test_curves_hold_loss_gradient_and_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            written.append(("closed", 0.0, 0))

    fake = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    losses = Run().learn(config=replace(CONFIG, curves=tmp_path))
    assert [v for n, v, _ in written if n == "loss"] == losses
    assert [s for n, _, s in written if n == "rate"] == list(range(1, 13))
    assert all(0 < v < 10 for n, v, _ in written if n == "gradient")
    assert written[-1][0] == "closed"
