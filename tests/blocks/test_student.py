"""Models of many makes as students of binary blocks: laws that hold for each, whatever it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from bitcompress.blocks import (
    BlockPolicy,
    PreparedBlocks,
    blocks_of,
    insert_blocks,
    pack_blocks,
    prepare_binary,
    settle,
)
from bitcompress.errors import NotPackable, RecipeError, UsageError
from bitcompress.graph.arguments import tensors_of
from bitcompress.graph.capture import as_inputs
from bitcompress.layers.binary import METHODS, EndActivation, PackedBlock

from ..makes import PAIRS, REST, Make, made

USERS = [name for name in METHODS if name not in ("bidense-tokens", "bidiffsr-cfb")]


def run(model: nn.Module, example: Any) -> list[torch.Tensor]:
    args, kwargs = as_inputs(example)
    with torch.no_grad():
        return tensors_of(model(*args, **kwargs))


def prepared(model: Make, method: str = "reactnet", **choice: Any) -> PreparedBlocks:
    choice = {"min_channels": 16, "reshape": method == "bidiffsr", **choice}
    return prepare_binary(model.net, model.example, BlockPolicy(method, **choice))


@pytest.mark.parametrize("name, method", PAIRS)
def test_any_make_becomes_a_student_that_packs_to_the_same_bits(name: str, method: str) -> None:
    check(name, method)


@pytest.mark.slow
@pytest.mark.parametrize("name, method", REST)
def test_all_makes_with_all_methods(name: str, method: str) -> None:
    if method in METHODS:
        check(name, method)


def check(name: str, method: str) -> None:
    """Capture, plan, insert, settle and pack a model, with the laws of each step."""
    model = made(name)
    state = {k: v.clone() for k, v in model.net.state_dict().items()}
    wanted = run(model.net, model.example)
    plan = prepared(model, method)
    assert any(p.keep == "packed" for p in plan.plans)
    for each in plan.plans:
        assert each.became if each.keep == "packed" else each.reason, each.site.name
        assert each.row()["state"] == each.keep
    student = insert_blocks(plan)
    settled = settle(student, [model.example])
    assert settled.explained and all(share <= 1 for share in settled.explained.values())
    trained = run(student, model.example)
    assert [t.shape for t in trained] == [t.shape for t in wanted]
    assert all(bool(torch.isfinite(t).all()) for t in trained)
    # It starts near its float model: no further than a multiple of what that varies.
    for one, other in zip(trained, wanted, strict=True):
        assert float((one - other).square().mean()) < 4 * float(other.var())
    parity = pack_blocks(student, model.example)
    assert parity is not None and parity.psnr_db == float("inf")
    assert all(map(torch.equal, run(student, model.example), trained))
    assert not blocks_of(student)
    packed = [m for m in student.modules() if isinstance(m, PackedBlock)]
    assert packed
    assert all(torch.equal(state[k], v) for k, v in model.net.state_dict().items())


@pytest.mark.parametrize("method", USERS)
def test_each_method_trains(method: str) -> None:
    model = made("edsr")
    student = insert_blocks(prepared(model, method))
    settle(student, [model.example, model.example])
    target = run(model.net, model.example)[0]
    optimizer = torch.optim.Adam(student.parameters(), lr=2e-3)
    losses = []
    student.train()
    for _ in range(12):
        loss = (student(model.example) - target).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    for name, block in blocks_of(student).items():
        grad = block.core.weight.grad
        assert grad is not None and bool(torch.isfinite(grad).all()), name
    trained = run(student.eval(), model.example)[0]
    pack_blocks(student)
    assert torch.equal(run(student, model.example)[0], trained)


def test_from_scratch_only_gains_are_set() -> None:
    model = made("rlfn")
    student = insert_blocks(prepared(model, start="scratch"))
    settled = settle(student, [model.example], trained=False)
    assert not settled.explained
    for block in blocks_of(student).values():
        gain = block.threshold.gain
        assert not bool(block.threshold.bias.any())
        assert bool((gain == gain[0]).all()) and float(gain.log2().frac().abs().max()) == 0
        assert float(gain[0]) < 1  # features of 0 to 255


def test_timesteps_choose_rows_in_mixed_batches() -> None:
    model = made("unet")
    student = insert_blocks(prepared(model, "bidiffsr", time_groups=5, reshape=True))
    settle(student, [model.example])
    for block in blocks_of(student).values():
        with torch.no_grad():
            block.threshold.bias.add_(torch.randn_like(block.threshold.bias))
    x, t = model.example["x"], model.example["timestep"]
    both = run(student, model.example)[0]
    each = [run(student, (x[i : i + 1], t[i : i + 1]))[0] for i in range(2)]
    assert torch.allclose(both, torch.cat(each), atol=1e-5)
    swapped = run(student, (x, t.flip(0)))[0]
    assert not torch.allclose(both, swapped)
    copied = copy.deepcopy(student)
    assert torch.equal(run(copied, model.example)[0], both)
    pack_blocks(student)
    assert torch.equal(run(student, model.example)[0], both)
    with pytest.raises(UsageError, match="out of range"):
        student(x, torch.tensor([3, 100]))
    with pytest.raises(UsageError, match="whole numbers"):
        student(x, timestep=t + 0.5)
    assert torch.equal(run(student, {"x": x, "timestep": t.float()})[0], both)


@pytest.mark.parametrize(
    ("aware", "threshold", "activation"), [("thresholds", 5, 1), ("activations", 1, 5)]
)
def test_one_kind_of_tables_knows_the_time(aware: str, threshold: int, activation: int) -> None:
    model = made("unet")
    plan = prepared(model, "bidiffsr", time_groups=5, time_aware=aware)
    said = next(p.became for p in plan.plans if p.spec is not None)
    assert ("TaR x 5" in said, "TaA x 5" in said) == (threshold == 5, activation == 5)
    student = insert_blocks(plan)
    settle(student, [model.example])
    for block in blocks_of(student).values():
        assert len(block.threshold.bias) == threshold and block.activation is not None
        assert len(block.activation.slope) == activation
        with torch.no_grad():
            for table in (block.threshold.bias, block.activation.slope, block.activation.after):
                table.add_(torch.randn_like(table))
    x, t = model.example["x"], model.example["timestep"]
    trained = run(student, model.example)[0]
    assert not torch.allclose(trained, run(student, (x, t.flip(0)))[0])
    pack_blocks(student)
    assert torch.equal(run(student, model.example)[0], trained)


def test_time_groups_that_nobody_would_have_are_refused() -> None:
    with pytest.raises(RecipeError, match="no block of bidense has such tables"):
        prepared(made("unet"), "bidense", time_groups=5, time_aware="activations")


def test_a_shared_layer_is_one_block() -> None:
    student = insert_blocks(prepared(made("shared")))
    assert len(blocks_of(student)) == 1
    assert student.net.smooth is student.net.again


def test_what_cannot_be_is_refused() -> None:
    model = made("resnet")
    with pytest.raises(RecipeError, match="no timestep among its arguments"):
        prepared(model, "bidiffsr", time_groups=5)
    with pytest.raises(RecipeError, match="has no argument 'sigma'"):
        prepared(model, "bidiffsr", time_groups=5, time_arg="sigma")
    with pytest.raises(RecipeError, match="no tables for 5 time groups"):
        prepared(model, "reactnet", time_groups=5)
    with pytest.raises(RecipeError, match="it is one of"):
        prepared(model, "binary")
    with pytest.raises(RecipeError, match="matches none .* nearest name: 'conv"):
        prepared(model, keep=("convl",))
    with pytest.raises(NotPackable, match="no layer becomes a block: .* fewer than 999"):
        prepared(model, min_channels=999)
    untimed = made("unet")
    del type(untimed.net).time_steps
    try:
        with pytest.raises(RecipeError, match="how many timesteps"):
            prepared(untimed, "bidiffsr", time_groups=5)
    finally:
        type(untimed.net).time_steps = 100
    student = insert_blocks(prepared(model))
    settle(student, [model.example])
    with pytest.raises(UsageError, match="insert its blocks anew"):
        settle(student, [model.example])


def test_an_activation_behind_a_sum_starts_as_it_was_and_learns() -> None:
    model = made("resnet")
    plan = prepare_binary(model.net, model.example, BlockPolicy("reactnet", min_channels=16))
    student = insert_blocks(plan)
    ends = [m for m in student.modules() if isinstance(m, EndActivation)]
    assert len(ends) == sum(each.takes_end for each in plan.plans) > 0
    assert all(bool((end.act.slope == 0.25).all()) for end in ends)  # a ReLU behind a norm
    blocks = blocks_of(student)
    assert blocks["net.conv2"].activation is None  # one behind the sum is enough
    x = model.example if isinstance(model.example, torch.Tensor) else model.example[0]
    student.train()(x).square().mean().backward()
    assert all(p.grad is not None for end in ends for p in end.parameters())
