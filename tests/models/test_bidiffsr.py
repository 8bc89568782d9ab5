"""The UNet of BI-DiffSR: the paper's integers, its wiring, mixed timesteps, export."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitcompress.errors import DataError, RecipeError, UsageError
from bitcompress.models.bidiffsr import PAPER, TINY, BiDiffSR, ResidualNoise, TimeEmbedding
from bitcompress.models.diffusion import linear_schedule
from bitcompress.models.reshape import FUSIONS, float_conv
from bitcompress.models.targets import TARGETS, build_target


class Recorded:
    """A factory that remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []

    def __call__(self, c_in: int, c_out: int, kernel: int) -> nn.Module:
        self.asked.append((c_in, c_out, kernel))
        return nn.Identity()


def paper(**settings: Any) -> tuple[BiDiffSR, list[tuple[int, int, int]]]:
    """The paper's network without its body convolutions, and what these would be."""
    factory = Recorded()
    with torch.device("meta"):
        return BiDiffSR(**PAPER | settings, conv=factory), factory.asked


def tiny(**settings: Any) -> BiDiffSR:
    torch.manual_seed(0)
    return BiDiffSR(**TINY | settings).eval()


def inputs(count: int = 2, side: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return (
        torch.randn(count, 3, side, side),
        torch.rand(count, 3, side, side),
        torch.arange(count) * 400,
    )


@pytest.mark.parametrize(("groups", "stored"), [(5, 51280387), (2, 51072259), (1, 51002883)])
def test_the_parameters_of_the_paper(groups: int, stored: int) -> None:
    net, body = paper()
    assert len(body) == 56
    assert all(c_in == c_out for c_in, c_out, _ in body)
    binary = sum(c_in * c_out * kernel**2 for c_in, c_out, kernel in body)
    assert binary == 48_211_968
    tables = 4 * groups * sum(c_in for c_in, _, _ in body)  # a bias before, three numbers after
    assert tables == groups * (17_344 + 52_032)
    assert binary + tables + sum(p.numel() for p in net.parameters()) == stored


def test_the_paper_adds_without_fusion_layers() -> None:
    """Table 2 of the paper: 4.10 M parameters with skips added; we come to 4.094 M."""
    net, body = paper(fusion="add")
    assert len(body) == 56 - 12
    tables = 4 * sum(c_in for c_in, _, _ in body)
    binary = sum(c_in * c_out * kernel**2 for c_in, c_out, kernel in body)
    small = sum(p.numel() for p in net.parameters()) + tables + binary / 32
    assert small / 1e6 == pytest.approx(4.10, abs=0.01)


def test_modules_of_the_paper() -> None:
    net, _ = paper()
    kinds = [type(m).__name__ for m in net.modules()]
    assert kinds.count("ResBlock") == 16 + 6
    assert kinds.count("CSFusion") == 6 + 6
    assert kinds.count("CPDown") == kinds.count("CPUp") == 3
    assert kinds.count("Attention") == 1
    assert len(net.down) + 1 == 12 == kinds.count("UpStep")  # pushed, with the head; popped
    assert net.multiple == 8


def test_skips_are_popped_in_reverse() -> None:
    net, made, read = tiny(), [], []
    net.head.register_forward_hook(lambda m, a, out: made.append(out))
    for step in net.down:
        step.register_forward_hook(lambda m, a, out: made.append(out))
    for step in net.up:
        if hasattr(step, "fusion"):
            step.fusion.register_forward_hook(lambda m, a, out: read.append(a[1]))
    with torch.no_grad():
        net(*inputs())
    assert len(made) == len(read) == 4
    assert all(a is b for a, b in zip(made, reversed(read), strict=True))


def test_the_condition_stands_before_the_noisy_picture() -> None:
    net = tiny()
    noisy, condition, t = inputs()
    seen: list[Tensor] = []
    net.head.register_forward_hook(lambda m, a, out: seen.append(a[0]))
    with torch.no_grad():
        net(noisy, condition, t)
    assert torch.equal(seen[0], torch.cat([condition, noisy], 1))


def test_a_mixed_batch_is_its_samples_one_by_one() -> None:
    net = tiny(attention=True)
    noisy, condition, t = inputs(3)
    with torch.no_grad():
        whole = net(noisy, condition, t)
        alone = [net(noisy[i : i + 1], condition[i : i + 1], t[i : i + 1]) for i in range(3)]
        other = net(noisy, condition, t + 1)
    torch.testing.assert_close(whole, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(whole, other, atol=1e-4)


def test_the_embedding_is_of_the_integer_timestep() -> None:
    embedding = TimeEmbedding(8)
    waves: list[Tensor] = []
    embedding.fc1.register_forward_hook(lambda m, a, out: waves.append(a[0]))
    embedding(torch.tensor([3]))
    angles = 3 * torch.tensor([1.0, 0.1, 0.01, 0.001])
    torch.testing.assert_close(waves[0][0], torch.cat([angles.sin(), angles.cos()]))


def test_attention_is_the_plain_softmax() -> None:
    attention = tiny(attention=True).attention
    x = torch.randn(2, 32, 4, 6)
    with torch.no_grad():
        q, k, v = attention.qkv(attention.norm(x)).flatten(2).chunk(3, 1)
        weights = torch.softmax(q.transpose(1, 2) @ k / 32**0.5, -1)
        plain = x + attention.out((v @ weights.transpose(1, 2)).reshape(x.shape))
        torch.testing.assert_close(attention(x), plain)


def test_the_top_decoder_levels_do_not_ask_the_factory() -> None:
    names = []
    for levels in (0, 1, 2):
        factory = Recorded()
        net = BiDiffSR(**TINY | {"fp_levels": levels}, conv=factory)
        names.append((len(factory.asked), len([m for m in net.modules() if type(m) is nn.Conv2d])))
    assert [asked for asked, _ in names] == [28, 20, 12]
    assert [floats for _, floats in names] == [2, 10, 18]


def test_it_exports_without_being_called() -> None:
    net = tiny()
    exported = torch.export.export(net, inputs(), strict=False).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(*inputs()), net(*inputs()))


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("resample", ["cp", "shuffle"])
def test_variants_run(fusion: str, resample: str) -> None:
    net = tiny(fusion=fusion, resample=resample)
    with torch.no_grad():
        assert net(*inputs()).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("t", [0, 40, 400, 1200, 1999])
def test_with_a_spread_a_silent_network_says_what_a_gaussian_explains(t: int) -> None:
    """Mean and deviation of eps given x = a x0 + s eps, for x0 around the condition, from draws."""
    net, spread = tiny(spread=0.1), 0.1
    kept = float(linear_schedule().kept[t])
    a, s = kept**0.5, (1 - kept) ** 0.5
    torch.manual_seed(0)
    eps = torch.randn(200_000, dtype=torch.float64)
    x = a * (0.4 + spread * torch.randn(200_000, dtype=torch.float64)) + s * eps
    slope = float(((x - x.mean()) * eps).mean() / x.var())
    rest = float((eps - slope * (x - x.mean())).std())
    nn.init.zeros_(net.tail.weight)
    for said, wanted in ((0.0, 0.0), (1.0, rest)):
        nn.init.constant_(net.tail.bias, said)
        noisy = torch.full((1, 3, 4, 4), a * 0.4 + 0.02)
        with torch.no_grad():
            out = net(noisy, torch.full((1, 3, 4, 4), 0.4), torch.tensor([t]))
        assert float(out.mean()) == pytest.approx(0.02 * slope + wanted, rel=0.02, abs=2e-3)
    assert set(net.state_dict()) == set(tiny().state_dict())


@pytest.mark.parametrize("spread", [0.02, 0.1, 1.0])
def test_the_factors_of_a_spread_are_those_of_the_schedule(spread: float) -> None:
    factors, kept, t = ResidualNoise(spread), linear_schedule().kept, torch.arange(2000)
    total = kept * spread**2 + 1 - kept
    one, zero = torch.ones(2000, 1, 1, 1), torch.zeros(2000, 1, 1, 1)
    guess = (1 - kept).sqrt() / total
    for inputs, wanted in (
        ((one, zero, zero), spread * (kept / total).sqrt()),
        ((zero, one, zero), guess),
        ((zero, zero, one), -guess * kept.sqrt()),
    ):
        made = factors(*inputs, t).flatten().double()
        torch.testing.assert_close(made, wanted, rtol=1e-6, atol=0.0)


NOISY, CONDITION, T = inputs()
REFUSED: dict[str, tuple[tuple[Tensor, Tensor, Tensor], str]] = {
    "an odd size": ((NOISY[..., :15], CONDITION[..., :15], T), "multiples of 2"),
    "no batch axis": ((NOISY[0], CONDITION[0], T), "both are"),
    "a small condition": ((NOISY, CONDITION[..., ::2], T), "enlarged"),
    "real timesteps": ((NOISY, CONDITION, T.float()), "integers"),
    "one timestep for two": ((NOISY, CONDITION, T[:1]), r"\(2,\)"),
    "a bare timestep": ((NOISY, CONDITION, T[0]), r"\(2,\)"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_inputs_that_do_not_fit_are_refused(what: str) -> None:
    arguments, said = REFUSED[what]
    with pytest.raises(DataError, match=said):
        tiny()(*arguments)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fusion": "gate"}, "cs, split, concat, add"),
        ({"mult": (1, 3)}, "1, 2, 4"),
        ({"groups": 5}, "even multiple of 5"),
        ({"inner": 5, "groups": 5}, "even multiple of 5"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        tiny(**settings)


def test_targets_by_name() -> None:
    assert list(TARGETS)[:2] == ["bidiffsr", "bidiffsr-tiny"]
    assert isinstance(build_target("bidiffsr-tiny", {"inner": 24, "groups": 8}), BiDiffSR)
    with pytest.raises(RecipeError, match="bidiffsr-tiny"):
        build_target("bidiffsr-huge")
    with pytest.raises(RecipeError, match="cannot be built"):
        build_target("bidiffsr-tiny", {"depth": 3})
    assert float_conv(4, 6, 3).padding == (1, 1)
