"""Columns: a net and the wide one grown from it are at first one function, whatever it does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitcompress.blocks import BlockPolicy, blocks_of, insert_blocks, prepare_binary
from bitcompress.layers.binary import BlockSpec, Clock, binary_block
from bitcompress.models.resnet_cifar import ResNetCifar
from bitcompress.train.reparam import Columns
from bitcompress.train.reparam.columns import Grid, PerCopy


class Branchy(nn.Module):
    """Concatenation, shuffled pixels, a transposed convolution, channels filled up by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm, self.act = nn.BatchNorm2d(8), nn.PReLU(8)
        self.down = nn.Conv2d(16, 12, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(12, 12, 2, stride=2)
        self.tail = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        z = torch.cat([y, self.act(self.norm(self.deep(y)))], 1)
        z = self.up(functional.gelu(self.down(z)))
        z = functional.pad(z, (0, 0, 0, 0, 2, 2))
        out: Tensor = self.tail(functional.pixel_shuffle(z, 2))
        return out


class Tokens(nn.Module):
    """Attention written out, layer norm, GELU, a table of places."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.proj = nn.Linear(6, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)
        self.places = nn.Parameter(torch.randn(1, 7, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x) + self.places
        b, n, c = y.shape
        q, k, v = self.qkv(self.norm(y)).view(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-1, -2)).softmax(-1)
        y = y + self.proj(functional.gelu((attention @ v).transpose(1, 2).reshape(b, n, c)))
        out: Tensor = self.head(y.mean(1))
        return out


class Timed(nn.Module):
    """A head, two time-aware blocks, a tail."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock(3, 30)
        spec = BlockSpec("bidiffsr", groups=3)
        self.head, self.tail = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.body = nn.Sequential(
            *(
                binary_block(nn.Conv2d(8, 8, 3, padding=1, bias=False), spec, clock=self.clock)
                for _ in range(2)
            )
        )
        for block in self.body:
            nn.init.normal_(block.threshold.bias)
            nn.init.normal_(block.activation.before)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.tail(self.body(self.head(x)))
        return out


def binary(method: str) -> nn.Module:
    """A thin ResNet whose body is binary."""
    net = ResNetCifar([1, 1], width=8)
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.Conv2d) and name != "conv1":
            net.set_submodule(name, binary_block(module, BlockSpec(method)))
    return net


PICTURES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
WORDS = torch.randn(4, 7, 6, generator=torch.Generator().manual_seed(1))
METHODS = ["xnor", "bireal", "irnet", "reactnet", "bidense"]


def net_of(name: str) -> tuple[nn.Module, Tensor]:
    """A net and an input for it."""
    torch.manual_seed(0)
    if name in METHODS:
        return binary(name), PICTURES
    made = {"branchy": Branchy, "tokens": Tokens, "resnet": lambda: ResNetCifar([1, 1], width=8)}
    return made[name](), WORDS if name == "tokens" else PICTURES


def drifted(net: nn.Module, x: Tensor) -> nn.Module:
    """Statistics of norms that are not those of the start."""
    net.train()
    for _ in range(2):
        net(x)
    return net


@pytest.mark.parametrize("ratio", [2, 3])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["branchy", "tokens", "resnet", *METHODS])
def test_the_wide_net_is_the_net_at_first_bit_for_bit(
    name: str, training: bool, ratio: int
) -> None:
    net, x = net_of(name)
    drifted(net, x)
    wide = Columns(net, ratio, ((x,), {}))
    assert any(isinstance(m, Grid) for m in wide.modules())
    wide.train(training)
    alone = copy.deepcopy(net).train(training)  # xnor edits its latent weights as it trains
    assert torch.equal(wide(x), alone(x))


def test_timesteps_reach_every_copy() -> None:
    torch.manual_seed(2)
    net = Timed()
    net.clock.attach(net, "t")
    x, t = torch.randn(3, 3, 6, 6), torch.tensor([0, 14, 29])
    wide = Columns(net, 2, ((x, t), {}))
    net.eval(), wide.eval()
    assert torch.equal(wide(x, t=t), net(x, t))
    assert not torch.equal(wide(x, t.flip(0)), wide(x, t))
    assert torch.equal(wide(x, torch.tensor([3])), net(x, torch.tensor([3])))


def test_a_linear_grid_is_one_wide_kernel() -> None:
    """Row p of it is (1 - sum m_pj) L_pp beside m_pj L_pj: what the paper multiplies with."""
    torch.manual_seed(3)
    grid = Grid(nn.Linear(4, 5), 3, 5, -1).double()
    for layer in grid.layers:
        nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    rows, biases = [], []
    for p in range(3):
        others = [j for j in range(3) if j != p]
        m = dict(zip(others, grid.shares[p], strict=True))
        m[p] = 1 - sum(m.values())
        rows.append(torch.cat([m[j][:, None] * grid.layers[3 * p + j].weight for j in range(3)], 1))
        biases.append(sum(m[j] * grid.layers[3 * p + j].bias for j in range(3)))
    x = torch.randn(7, 3, 4, dtype=torch.float64)
    want = x.flatten(1) @ torch.cat(rows).T + torch.cat(biases)
    got = grid(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (3, 7)).transpose(0, 1).flatten(1)
    assert torch.allclose(got, want)


def test_the_net_is_part_of_the_wide_one_and_statistics_are_not() -> None:
    net, x = net_of("resnet")
    wide = Columns(net, 2, ((x,), {}))
    ours, theirs = {id(p) for p in net.parameters()}, {id(p) for p in wide.parameters()}
    assert ours < theirs
    assert not {id(b) for b in net.buffers()} & {id(b) for b in wide.buffers()}
    net.eval(), wide.eval()
    before = net(x), wide(x)
    with torch.no_grad():
        net.layer1[0].conv2.weight.add_(0.1)
    assert not torch.equal(net(x), before[0]) and not torch.equal(wide(x), before[1])
    between = net(x), wide(x)
    with torch.no_grad():
        grid = next(m for m in wide.modules() if isinstance(m, Grid))
        grid.layers[1].weight.add_(0.1)
    assert torch.equal(net(x), between[0]) and not torch.equal(wide(x), between[1])


def test_first_and_last_have_one_layer_a_copy() -> None:
    net, x = net_of("branchy")
    wide = Columns(net, 2, ((x,), {})).wide
    kinds = {name: type(m) for name, m in wide.named_children()}
    assert kinds["head"] is kinds["tail"] is kinds["norm"] is kinds["act"] is PerCopy
    assert kinds["deep"] is kinds["down"] is kinds["up"] is Grid


@pytest.mark.parametrize("even", [True, False])
def test_only_uneven_shares_part_the_copies(even: bool) -> None:
    torch.manual_seed(4)
    net = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(),
        nn.Linear(6, 2),
    ).double()  # fmt: skip
    x = torch.randn(16, 4, dtype=torch.float64)
    wide = Columns(net, 2, ((x,), {})).double()
    grids = [m for m in wide.modules() if isinstance(m, Grid)]
    if even:
        for grid in grids:
            nn.init.constant_(grid.shares, 0.5)
    optimizer = torch.optim.SGD(wide.parameters(), lr=0.05)
    for _ in range(10):
        optimizer.zero_grad()
        (wide(x) - 1).square().mean().backward()
        optimizer.step()
    first = wide.wide[0].layers
    distance = (first[0].weight - first[1].weight).abs().max().item()
    assert distance < 1e-12 if even else distance > 1e-5


def test_stages_of_blocks_are_followed() -> None:
    net, x = net_of("reactnet")
    wide = Columns(net, 2, ((x,), {})).eval()
    net.eval()
    both = net(x)
    for module in net.modules():
        if hasattr(module, "stage") and hasattr(module, "core"):
            module.stage = "activations"
    assert not torch.equal(net(x), both)
    assert torch.equal(wide(x), net(x))


def test_the_net_itself_is_left_alone() -> None:
    net, x = net_of("bidense")
    before = copy.deepcopy(net.state_dict())
    modes = [m.training for m in net.modules()]
    Columns(net, 2, ((x,), {}))
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes


class ByFunctions(nn.Module):
    """Products and activations as function calls, which rules answer by place and order."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.mid = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.kernel = nn.Parameter(torch.randn(32, 32, 3, 3) / 17)
        self.tail = nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.mid(torch.relu(self.head(x))))
        y = torch.relu(functional.conv2d(y, self.kernel, None, padding=1))
        out: Tensor = self.tail(y)
        return out


def test_a_rewritten_model_grows_too() -> None:
    torch.manual_seed(6)
    policy = BlockPolicy(method="reactnet")
    student = insert_blocks(prepare_binary(ByFunctions(), PICTURES, policy))
    assert len(blocks_of(student)) == 2
    wide = Columns(student, 2, ((PICTURES,), {}))
    student.eval(), wide.eval()
    want = student(PICTURES)
    assert torch.equal(wide(PICTURES), want)
    wide.train()
    wide(PICTURES).square().sum().backward()
    grids = [m for m in wide.modules() if isinstance(m, Grid)]
    assert len(grids) == 2 and all(grid.shares.grad is not None for grid in grids)
    assert torch.equal(student(PICTURES), want)
