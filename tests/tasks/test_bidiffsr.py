"""The binary UNet: its variants, its clock, and that it learns and packs without change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bitcompress.blocks import BlockPolicy, insert_blocks, pack_blocks, prepare_binary
from bitcompress.errors import DataError, UsageError
from bitcompress.layers.binary import BinaryBlock, PackedBlock
from bitcompress.measure.accounting import account
from bitcompress.models.bidiffsr import TINY, BiDiffSR
from bitcompress.tasks import Diffusion, Request, task_of
from bitcompress.tasks.bidiffsr import binary_unet
from bitcompress.tasks.sample import Sampler


def packed_twin(net: nn.Module) -> nn.Module:
    """The network with every block in bits."""
    for name, block in [(n, m) for n, m in net.named_modules() if isinstance(m, BinaryBlock)]:
        owner, _, leaf = name.rpartition(".")
        setattr(net.get_submodule(owner), leaf, block.pack())
    return net


def shaken(net: nn.Module) -> nn.Module:
    """Tables as after training: no two time groups alike."""
    torch.manual_seed(3)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p) * p.requires_grad)
    return net.eval()


def inputs(count: int, side: int = 16) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    t = torch.tensor([0, 399, 400, 1200, 1999])[:count]
    return torch.randn(count, 3, side, side), torch.rand(count, 3, side, side), t


def test_a_mixed_batch_is_its_samples_one_by_one() -> None:
    net, clock = binary_unet("tiny", config={"attention": True})
    shaken(net)
    noisy, condition, t = inputs(5)
    with torch.no_grad():
        whole = net(noisy, condition, t)
        assert clock.index(5).tolist() == [0, 0, 1, 3, 4]
        alone = [net(noisy[i : i + 1], condition[i : i + 1], t[i : i + 1]) for i in range(5)]
    # The norms' sums differ in the last bit with the batch size; a flipped sign is a rare tie.
    assert float((whole - torch.cat(alone)).abs().mean()) < 1e-4


def test_tables_matter_only_with_groups() -> None:
    noisy, condition, _ = inputs(1)
    for groups in (1, 5):
        net, _ = binary_unet("tiny", time_groups=groups, config={"spread": None})
        shaken(net)
        for module in net.modules():  # what else knows the time is made silent
            if hasattr(module, "norm2"):
                nn.init.zeros_(module.time.weight)
        with torch.no_grad():
            early, late = (net(noisy, condition, torch.tensor([t])) for t in (0, 1999))
        assert torch.equal(early, late) == (groups == 1)


def test_only_the_rows_of_the_step_get_a_gradient() -> None:
    torch.manual_seed(0)
    net, _ = binary_unet("tiny", config={"dropout": 0.0})
    noisy, condition, _ = inputs(2)
    net(noisy, condition, torch.tensor([900, 1700])).sum().backward()
    grad = net.mid1.conv1.threshold.bias.grad
    assert [bool(row.any()) for row in grad] == [False, False, True, False, True]


def test_packed_computes_the_same_bits_and_samples_the_same_pictures() -> None:
    torch.manual_seed(0)
    net, clock = binary_unet("tiny")
    shaken(net)
    low = torch.rand(1, 3, 9, 7)
    sampler = Sampler(net, 2, steps=5, limit=10**9)
    drawn, (noisy, condition, t) = sampler(low), inputs(5)
    with torch.no_grad():
        said = net(noisy, condition, t)
        packed = packed_twin(net)
        assert sum(isinstance(m, PackedBlock) for m in packed.modules()) == 20
        assert torch.equal(packed(noisy, condition, t), said)
    assert torch.equal(sampler(low), drawn)
    assert drawn.shape == (1, 3, 18, 14)


@pytest.mark.parametrize("method", ["bidiffsr", "xnor", "reactnet"])
def test_variants_of_the_ablation_run(method: str) -> None:
    variants: list[dict[str, Any]] = [
        {"fusion": "add"},
        {"fusion": "split"},
        {"time_groups": 1},
        {"shortcut": False, "resample": "shuffle", "fusion": "concat"},
    ]
    for variant in variants:
        net, _ = binary_unet("tiny", method, **variant)
        with torch.no_grad():
            assert net.eval()(*inputs(1)).shape == (1, 3, 16, 16)


def test_blocks_in_the_places_of_the_float_network_are_the_same_network() -> None:
    """The general way, from a float model and a policy, comes to the paper's network too."""
    plain = BiDiffSR(**TINY | {"attention": True}).eval()
    policy = BlockPolicy(
        "bidiffsr", time_groups=5, keep=plain.float_layers, min_channels=8, start="scratch"
    )
    prepared = prepare_binary(plain, inputs(1), policy)
    student = insert_blocks(prepared)
    net, _ = binary_unet("tiny", config={"attention": True})
    assert account(student, *inputs(1)) == account(net, *inputs(1))
    names = {n: type(m) for n, m in net.named_modules() if isinstance(m, BinaryBlock)}
    assert names == {n: type(m) for n, m in student.net.named_modules() if n in names}
    sampler = Sampler(shaken(student), 2, steps=4)  # long enough that its runs become a program
    low = torch.rand(1, 3, 5, 7)
    drawn = sampler(low)
    pack_blocks(student)
    assert torch.equal(sampler(low), drawn) and torch.equal(sampler(low), drawn)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="paper, tiny"):
        binary_unet("huge")
    net, _ = binary_unet("tiny")
    noisy, condition, _ = inputs(1)
    for t, said in ((torch.tensor([2000]), "range"), (torch.tensor([0.5]), "whole numbers")):
        with pytest.raises(DataError, match=said):
            net(noisy, condition, t)


def test_the_loss_falls(photos: Path) -> None:
    task = task_of(Request(data=photos, scale=2, options={"patch": 8, "probes": 8}), "diffusion")
    assert isinstance(task, Diffusion)
    torch.manual_seed(0)
    net, _ = binary_unet("tiny")
    source, losses = task.batches(4, seed=0), []
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    before = task.noise_error(net)
    for step in range(25):
        loss = task.loss(net.train(), source(step, 0, 1)[0][1])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert task.noise_error(net) < 0.8 * before
