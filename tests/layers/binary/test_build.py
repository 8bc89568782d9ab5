"""A float layer becomes a block: what it takes over, what it refuses, and its branches."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bitcompress.errors import NotPackable, UsageError
from bitcompress.layers.binary import (
    METHODS,
    BinaryBlock,
    BlockSpec,
    Clock,
    Method,
    binary_block,
    binary_branches,
    stands,
)

CONV = nn.Conv2d(6, 6, 3, padding=1)


def jittered(block: nn.Module, by: float = 0.2) -> nn.Module:
    with torch.no_grad():
        for p in block.parameters():
            p.add_(by * torch.randn_like(p))
    return block.eval()


def bireal(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """mean|w| conv(Sign(x), Sign(w)) + bias + x, straight from the paper."""
    s, w = (torch.where(t >= 0, 1.0, -1.0) for t in (x, layer.weight))
    scale = layer.weight.abs().mean((1, 2, 3)).view(-1, 1, 1)
    return F.conv2d(s, w, None, layer.stride, layer.padding) * scale + layer.bias.view(-1, 1, 1) + x  # type: ignore[union-attr]


def test_a_block_is_its_formula() -> None:
    x = torch.randn(2, 6, 5, 5)
    y = binary_block(CONV, BlockSpec("bireal")).eval()(x)
    assert torch.allclose(y, bireal(x, CONV), atol=1e-5)


@pytest.mark.parametrize("method", ["reactnet", "bidiffsr", "bidense", "irnet"])
def test_the_float_bias_is_taken_over(method: str) -> None:
    layer, x = copy.deepcopy(CONV), torch.randn(2, 6, 5, 5)
    block = binary_block(layer, BlockSpec(method)).eval()
    torch.manual_seed(0)
    bare = nn.Conv2d(6, 6, 3, padding=1, bias=False)
    with torch.no_grad():
        bare.weight.copy_(layer.weight)
        assert layer.bias is not None
        alone = binary_block(bare, BlockSpec(method)).eval()
        for a, b in zip(alone.threshold.parameters(), block.threshold.parameters(), strict=True):
            a.copy_(b)
        difference = block(x) - alone(x)
        assert torch.allclose(difference, layer.bias.view(6, 1, 1).expand(2, 6, 5, 5), atol=1e-5)


@pytest.mark.parametrize("kind", [None, "batch", "affine"])
def test_a_batch_norm_is_taken_over(kind: str | None) -> None:
    norm, x = nn.BatchNorm2d(6), torch.randn(3, 6, 5, 5)
    with torch.no_grad():
        for t in (norm.weight, norm.bias, norm.running_mean):
            assert t is not None
            t.copy_(torch.randn(6))
        assert norm.running_var is not None
        norm.running_var.copy_(torch.rand(6) + 0.5)
    norm.weight.data[0].abs_().neg_()
    block = binary_block(CONV, BlockSpec("xnor", norm=kind), norm=norm).eval()  # type: ignore[arg-type]
    bare = binary_block(CONV, BlockSpec("xnor", norm="none")).eval()
    with torch.no_grad():
        assert torch.allclose(block(x), norm.eval()(bare(x)), atol=1e-4)
        assert torch.equal(block(x), block.pack()(x)), "a negative gain too"


@pytest.mark.parametrize(
    "given", [nn.ReLU(), nn.LeakyReLU(0.1), nn.PReLU(), nn.PReLU(6)], ids=lambda m: str(m)
)
def test_an_activation_is_taken_over(given: nn.Module) -> None:
    x = torch.randn(2, 6, 5, 5)
    block = binary_block(CONV, BlockSpec("bidense"), activation=given).eval()
    alone = binary_block(CONV, BlockSpec("bidense")).eval()
    alone.threshold.load_state_dict(block.threshold.state_dict())
    with torch.no_grad():
        assert torch.allclose(block(x), given(alone(x)), atol=1e-6)


def test_a_block_starts_as_the_identity_or_as_published() -> None:
    trained = binary_block(CONV, BlockSpec("reactnet"))
    scratch = binary_block(CONV, BlockSpec("reactnet", start="scratch"))
    assert trained.activation is not None and scratch.activation is not None
    assert (trained.activation.slope == 1).all() and (scratch.activation.slope == 0.25).all()


@pytest.mark.parametrize(
    ("layer", "method", "reason"),
    [
        (nn.Conv2d(6, 9, 3, padding=1), "bidiffsr", "6 channels become 9"),
        (nn.Conv2d(6, 6, 3, 2, 1), "bidiffsr", "another size"),
        (nn.ConvTranspose2d(6, 6, 2, 2), "bidiffsr", "another size"),
        (nn.ConvTranspose2d(6, 6, 3, 2), "xnor", "does not divide"),
        (nn.Conv3d(6, 6, 3), "xnor", "no binary form"),
        (nn.Bilinear(3, 3, 3), "reactnet", "no binary form"),
    ],
)
def test_where_a_method_cannot_stand(layer: nn.Module, method: str, reason: str) -> None:
    assert reason in stands(layer, BlockSpec(method))
    with pytest.raises(NotPackable, match=reason):
        binary_block(layer, BlockSpec(method))
    instead = METHODS[method].instead
    if instead and not isinstance(layer, nn.Conv3d):
        assert not stands(layer, BlockSpec(instead))


def test_scales_of_dab_that_stand_nowhere() -> None:
    grouped = nn.Conv2d(64, 64, 3, padding=1, groups=2)
    assert "one group" in stands(grouped, BlockSpec("bidense", dab_scale="group"))
    assert not stands(grouped, BlockSpec("bidense"))
    border = BlockSpec("bidense", dab_scale="group", pad_value=1)
    assert "no scale of DAB" in stands(CONV, border)


def test_bad_requests_are_refused() -> None:
    for spec in (
        {"method": "bireel"}, {"method": "xnor", "groups": 2}, {"method": "xnor", "pad_value": 2},
        {"method": "bidense", "dab_scale": "pixel"}, {"method": "bidiffsr", "groups": 0},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            BlockSpec(**spec)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs a clock"):
        binary_block(CONV, BlockSpec("bidiffsr", 3))
    with pytest.raises(UsageError, match="needs a clock"):
        binary_block(CONV, BlockSpec("bidiffsr", 3), clock=Clock(2, 10))
    with pytest.raises(UsageError, match="absorb GELU"):
        binary_block(CONV, BlockSpec("reactnet"), activation=nn.GELU())
    with pytest.raises(UsageError, match="leave it in the model"):
        binary_block(CONV, BlockSpec("xnor"), activation=nn.ReLU())
    with pytest.raises(UsageError, match="batch norm, not GroupNorm"):
        binary_block(CONV, BlockSpec("xnor"), norm=nn.GroupNorm(2, 6))
    block = binary_block(CONV, BlockSpec("xnor"))
    with pytest.raises(UsageError, match="a stage is one of"):
        block.stage = "weights"
    block.stage = "activations"
    with pytest.raises(NotPackable, match="still real"):
        block.pack()


@pytest.mark.parametrize("border", [1, -1])
def test_a_border_of_signs_is_trained_and_packed_alike(border: int) -> None:
    x = torch.randn(2, 6, 5, 5)
    block = jittered(binary_block(CONV, BlockSpec("reactnet", pad_value=border)))
    zero = jittered(binary_block(CONV, BlockSpec("reactnet")), 0.0)
    zero.load_state_dict(block.state_dict())
    assert isinstance(block, BinaryBlock) and isinstance(zero, BinaryBlock)
    with torch.no_grad():
        assert torch.equal(block(x), block.pack()(x))
        assert torch.equal(block(x)[..., 1:-1, 1:-1], zero(x)[..., 1:-1, 1:-1])
        assert not torch.equal(block(x), zero(x))


@pytest.mark.parametrize("kind", ["conv", "linear", "line"])
@pytest.mark.parametrize("sizes", [(4, 12), (12, 4)])
def test_branches_are_blocks_side_by_side(kind: str, sizes: tuple[int, int]) -> None:
    clock = Clock(2, 10)
    clock.set(torch.tensor([1, 9]))
    layer: nn.Module = nn.Linear(*sizes)
    shape: tuple[int, ...] = (2, 5, sizes[0])
    if kind != "linear":
        layer = (nn.Conv2d if kind == "conv" else nn.Conv1d)(*sizes, 3, padding=1)
        shape = (2, sizes[0], 5) if kind == "line" else (2, sizes[0], 5, 4)
    spec = BlockSpec("bidiffsr", 2)
    assert stands(layer, spec)
    branches = binary_branches(layer, spec, clock=clock)
    jittered(branches)
    x, axis = torch.randn(shape), -1 if kind == "linear" else 1
    with torch.no_grad():
        y = branches(x)
        assert y.shape == layer(x).shape
        assert torch.equal(y, branches.pack()(x))
        parts = list(branches.parts)
        if sizes == (4, 12):
            assert torch.equal(y, torch.cat([part(x) for part in parts], axis))
        else:
            places = [torch.arange(j, 12, 3) for j in range(3)]
            each = [p(x.index_select(axis, i)) for p, i in zip(parts, places, strict=True)]
            assert torch.equal(y, each[0] + each[1] + each[2])


def test_branches_refuse_other_ratios() -> None:
    for layer in (nn.Conv2d(6, 9, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 12, 1, groups=2)):
        with pytest.raises(NotPackable):
            binary_branches(layer, BlockSpec("bidiffsr"))


def test_reactnet_joins_two_blocks_in_one_convolution() -> None:
    wide = nn.Conv2d(6, 12, 1)
    block = binary_block(wide, BlockSpec("reactnet"))
    halves = []
    for rows in (slice(0, 6), slice(6, 12)):
        narrow = nn.Conv2d(6, 6, 1)
        with torch.no_grad():
            narrow.weight.copy_(wide.weight[rows])
            assert wide.bias is not None and narrow.bias is not None
            narrow.bias.copy_(wide.bias[rows])
        halves.append(binary_block(narrow, BlockSpec("reactnet")).eval())
    x = torch.randn(2, 6, 4, 4)
    with torch.no_grad():
        assert torch.equal(block.eval()(x), torch.cat([half(x) for half in halves], 1))


def test_every_method_names_words_that_exist() -> None:
    for name, method in METHODS.items():
        assert isinstance(method, Method) and method.source, name
        for other in (method.tokens, method.instead):
            assert not other or other in METHODS
