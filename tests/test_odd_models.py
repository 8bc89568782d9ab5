"""Models as people bring them: odd outputs, types and inputs; each works or says why not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import bitcompress
from bitcompress.errors import (
    CaptureError,
    DataError,
    GateError,
    LoadError,
    NothingPacked,
    RecipeError,
    UsageError,
)
from bitcompress.graph.arguments import tensors_of
from bitcompress.parity import parity

FEW = {"train.steps": 2}


class Net(nn.Module):
    """Two linears, and a way to dress up what comes in and goes out."""

    def __init__(
        self,
        after: Callable[[Tensor], Any] = lambda y: y,
        before: Callable[[Net, Tensor], Tensor] = lambda net, x: x,
    ) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 8)
        self.after, self.before = after, before

    def forward(self, x: Tensor) -> Any:
        return self.after(self.two(self.one(self.before(self, x)).relu()))


@dataclass
class Sample:
    """An output as diffusion libraries have it."""

    label: str
    sample: Tensor


def quantized(model: nn.Module, x: Any, bits: int = 4) -> bitcompress.Result:
    return bitcompress.quantize(model, x, bits=bits, data=[x], overrides=FEW)


def states(result: bitcompress.Result) -> dict[str, str]:
    return {row["name"]: row["state"] for row in result.report["layers"]}


@pytest.mark.parametrize(
    "after",
    [
        lambda y: Sample("x", y),
        lambda y: (y.argmax(-1), {"deep": [y]}),
        lambda y: [None, (y, y)],
        lambda y: torch.complex(y, y),
    ],
    ids=["dataclass", "labels first", "nested", "complex"],
)
def test_any_shape_of_output_comes_out_as_it_was(
    after: Callable[[Tensor], Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net, x = Net(after).eval(), torch.rand(4, 8)
    if isinstance(net(x), Tensor):  # nothing real to imitate, so only bounds are found
        result = bitcompress.quantize(net, x, bits=4, data=[x], overrides={"train.method": "none"})
    else:
        result = quantized(net, x)
    out = result.model(x)
    assert type(out) is type(net(x))
    bitcompress.save(result, tmp_path / "out")
    again = bitcompress.load(tmp_path / "out", model=net).model(x)
    assert [t.shape for t in tensors_of(out)] == [t.shape for t in tensors_of(net(x))]
    assert all(map(torch.equal, tensors_of(out), tensors_of(again)))


def test_an_output_without_a_tensor_cannot_be_checked() -> None:
    with pytest.raises(CaptureError, match="returns float without a tensor"):
        net, x = Net(lambda y: y.detach().sum().item()).eval(), torch.rand(4, 8)
        bitcompress.quantize(net, x, bits=4, data=[x], overrides={"train.method": "none"})


def test_tensors_of_what_holds_itself() -> None:
    x, loop = torch.ones(1), Sample("a", torch.zeros(1))
    loop.label = [loop, x]  # type: ignore[assignment]
    assert [t.item() for t in tensors_of(loop)] == [1.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_than_float32_stay_as_they_are(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net, x = Net().to(dtype).eval(), torch.rand(4, 8).to(dtype)
    name = str(dtype).removeprefix("torch.")
    with pytest.warns(
        NothingPacked, match=rf"one and 1 more \(its weight is {name}: .*\.float\(\)"
    ):
        result = quantized(net, x)
    assert states(result) == {"one": "float", "two": "float"}
    assert torch.equal(result.model(x), net(x))


def test_half_precision_inside_a_float_model_is_left_alone() -> None:
    torch.manual_seed(0)
    net, x = Net(), torch.rand(4, 8)
    net.two.half()
    net.two.register_forward_pre_hook(lambda module, args: (args[0].half(),))
    net.after = Tensor.float
    net.steps = nn.Parameter(torch.arange(3), requires_grad=False)
    result = quantized(net.eval(), x)
    assert states(result) == {"one": "packed", "two": "float"}
    assert result.model(x).dtype == torch.float32


def test_a_single_vector_is_an_input_too() -> None:
    torch.manual_seed(0)
    net, x = Net().eval(), torch.rand(8)
    result = quantized(net, x)
    assert states(result) == {"one": "packed", "two": "packed"}
    assert result.report["parity"]["psnr_db"] == float("inf")
    rows = torch.rand(3, 8)
    assert torch.equal(result.model(rows)[1], result.model(rows[1]))


def test_blocks_in_a_bare_sequential_are_tapped() -> None:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3)]
    result = quantized(nn.Sequential(*blocks).eval(), torch.rand(4, 8))
    assert set(states(result).values()) == {"packed"}
    assert result.report["training"]["steps"] == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_broken_weight_is_named(bad: float, bits: int) -> None:
    net, x = Net().eval(), torch.rand(4, 8)
    net.two.weight.data[3, 4] = bad
    with pytest.raises(DataError, match="the weight of two holds NaN or infinite numbers"):
        quantized(net, x, bits)


@pytest.mark.parametrize("recipe", ["default", "minmax"])
def test_broken_data_is_told_from_a_broken_weight(recipe: str) -> None:
    net, x = Net().eval(), torch.rand(4, 8)
    with pytest.raises(DataError, match="one meets NaN or infinite numbers on the calibration"):
        bitcompress.quantize(net, x, bits=8, recipe=recipe, data=[x * float("nan")])


def test_models_without_numbers_say_what_to_do() -> None:
    x = torch.rand(4, 8)
    with pytest.raises(CaptureError, match=r"one\.weight is on the meta device.*load the weights"):
        quantized(Net().to("meta"), x)
    with pytest.raises(CaptureError, match=r"0\.weight has no shape yet: run the model once"):
        quantized(nn.Sequential(nn.LazyLinear(4)), x)


def test_nothing_packed_is_said() -> None:
    x = torch.rand(2, 5, 8)
    with pytest.warns(NothingPacked, match=r"nothing is packed: .*no packed operator for GRU"):
        result = quantized(nn.Sequential(nn.GRU(8, 8)), x)
    assert result.report["notes"][-1].startswith("nothing is packed: 0 (no packed operator")
    with pytest.raises(CaptureError, match=r"coverage is 0\.0 %.*no packed operator for GRU"):
        bitcompress.quantize(nn.Sequential(nn.GRU(8, 8)), x, bits=4, data=[x], min_coverage=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantized(Net().eval(), torch.rand(4, 8))


class Functional(nn.Module):
    """Its first parameter is the weight of a functional linear."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 8))
        self.out = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        first = next(self.parameters())
        y = F.linear(x.to(first.device, first.dtype), self.weight).relu()
        result: Tensor = self.out(y + torch.zeros(16, device=first.device))
        return result


@pytest.mark.parametrize(
    "make",
    [lambda: Net(before=lambda net, x: x.to(next(net.parameters()).dtype)), Functional],
    ids=["module", "functional"],
)
def test_a_forward_may_ask_the_first_parameter_where_it_is(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net, x = make().eval(), torch.rand(4, 8)
    result = quantized(net, x)
    assert set(states(result).values()) == {"packed"}
    bitcompress.save(result, tmp_path / "out")
    packed = bitcompress.load(tmp_path / "out", model=make()).model
    assert torch.equal(packed(x), result.model(x))
    assert not any(p.requires_grad for p in packed.parameters())


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (lambda y: torch.from_numpy(y.detach().numpy()), "no gradient comes through the model"),
        (lambda y: torch.add(y, 1, out=torch.empty_like(y)), "the model fails while it is tuned"),
        (lambda y: Sample("x", y.detach()), "no gradient comes through the model"),
    ],
    ids=["numpy", "out=", "detached"],
)
def test_a_forward_without_gradients_goes_without_tuning(
    after: Callable[[Tensor], Any], said: str
) -> None:
    torch.manual_seed(0)
    net, x = Net(after).eval(), torch.rand(4, 8)
    with pytest.raises(RecipeError, match=rf"{said}.*--set train\.method=none"):
        quantized(net, x)
    result = bitcompress.quantize(net, x, bits=4, data=[x], overrides={"train.method": "none"})
    assert result.report["parity"]["psnr_db"] == float("inf")


def test_random_numbers_in_a_forward_are_no_wrong_operator() -> None:
    torch.manual_seed(0)
    net = Net(before=lambda net, x: x + torch.randn_like(x)).eval()
    result = quantized(net, torch.rand(4, 8))
    assert result.report["parity"]["psnr_db"] == float("inf")


def test_a_model_that_changes_from_run_to_run_is_told_from_a_wrong_operator() -> None:
    torch.manual_seed(0)
    runs: list[int] = []
    net = Net(before=lambda net, x: x * (runs.append(1) or (-1.0) ** len(runs)))  # type: ignore[func-returns-value]
    with pytest.raises(GateError, match="the float model itself gives another output"):
        bitcompress.quantize(net.eval(), torch.rand(4, 8), bits=8, data=[torch.rand(4, 8)] * 2)


class Force(nn.Module):
    """The gradient of an energy, as potentials of atoms have it."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (force,) = torch.autograd.grad(self.energy(x).sum(), x)
        return force


def test_a_forward_that_differentiates_cannot_be_packed() -> None:
    x = torch.rand(4, 8)
    with pytest.raises(CaptureError, match=r"fails on codes.*keep: float"):
        bitcompress.quantize(Force().eval(), x, bits=8, data=[x])


class Mapped(nn.Module):
    """Its layer runs under vmap."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.outside = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.outside(torch.func.vmap(self.inside)(x))
        return out


def test_layers_under_vmap_stay_float() -> None:
    result = quantized(Mapped().eval(), torch.rand(4, 8))
    assert states(result) == {"inside": "float", "outside": "packed"}
    assert "torch.func" in result.report["layers"][0]["reason"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, on its own TorchScript
def test_compiled_modules_are_quantized_as_what_they_were_made_of(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = Net().eval(), torch.rand(4, 8)
    inner = nn.Sequential(net, nn.Linear(8, 8)).eval()
    for model in (torch.compile(net), nn.Sequential(torch.compile(inner[0]), inner[1])):
        result = quantized(model, x)  # type: ignore[arg-type]
        assert set(states(result).values()) == {"packed"}
        assert not any("_orig_mod" in name for name in states(result))
        bitcompress.save(result, tmp_path / "out", overwrite=True)
        plain = net if isinstance(result.model.net, Net) else inner
        for skeleton in (plain, model):
            packed = bitcompress.load(tmp_path / "out", model=skeleton).model  # type: ignore[arg-type]
            assert torch.equal(packed(x), result.model(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, on its own TorchScript
def test_what_is_no_float_model_of_python_is_refused() -> None:
    net, x = nn.Sequential(nn.Linear(8, 8)).eval(), torch.rand(4, 8)
    with pytest.raises(CaptureError, match="TorchScript, whose code is frozen"):
        quantized(torch.jit.trace(net, x), x)
    with pytest.raises(UsageError, match="packed already: give the float model"):
        quantized(quantized(net, x).model, x)


class Kept(nn.Module):
    """Parameters and buffers of every sort beside a layer."""

    def __init__(self, dtype: torch.dtype = torch.int64) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.whole = nn.Parameter(torch.arange(3).to(dtype), requires_grad=False)
        self.empty = nn.Parameter(torch.zeros(0))
        self.short = nn.Parameter(torch.rand(3).bfloat16())
        self.register_buffer("bad", torch.tensor([float("inf"), float("nan")]))
        self.turn = nn.Parameter(torch.rand(2, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x) + self.whole.sum()
        return out


def test_odd_tensors_beside_the_layers_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = Kept().eval(), torch.rand(4, 8)
    result = quantized(net, x)
    bitcompress.save(result, tmp_path / "out")
    packed = bitcompress.load(tmp_path / "out", model=Kept()).model
    assert torch.equal(packed(x), result.model(x))
    for name in ("whole", "empty", "short", "turn"):
        got, wanted = getattr(packed.net, name), getattr(net, name)
        assert got.dtype == wanted.dtype and torch.equal(got, wanted)
    with pytest.raises(LoadError, match="'whole' is torch.float32 in the model and torch.int64"):
        bitcompress.load(tmp_path / "out", model=Kept(torch.float32))


def test_modules_that_lie_deep_come_back(tmp_path: Path) -> None:
    def deep() -> nn.Module:
        net: nn.Module = nn.Linear(8, 8)
        for _ in range(100):
            net = nn.Sequential(net)
        return net.eval()

    result = quantized(deep(), torch.rand(4, 8))
    bitcompress.save(result, tmp_path / "out")
    packed = bitcompress.load(tmp_path / "out", model=deep()).model
    assert torch.equal(packed(torch.ones(1, 8)), result.model(torch.ones(1, 8)))


def test_infinities_of_an_output_are_no_difference() -> None:
    torch.manual_seed(0)
    mask = torch.full((4, 8), float("-inf")).triu(1)
    net, x = Net(lambda y: (y + mask, y.log())).eval(), torch.rand(4, 8)
    result = bitcompress.quantize(net, x, bits=8, data=[x])
    assert result.report["parity"] == {"psnr_db": float("inf"), "changed_share": 0.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_infinity_on_one_side_alone_is_one(bad: float) -> None:
    one = torch.rand(4, 8)
    two = one.clone()
    assert parity(one, two).psnr_db == float("inf")
    two[1, 2] = bad
    assert not parity(one, two).psnr_db >= 30 and parity(one, two).changed_share == 1 / 32
    nothing = torch.zeros(0)
    assert parity(nothing, nothing).psnr_db == float("inf")
