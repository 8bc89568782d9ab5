"""The rewritten model as a module: copies, state, parts called alone, checkpointing, export."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bitcompress.errors import BitcompressError
from bitcompress.graph.intercept import Call, Rewritten, strip_parameter, tensor_at
from bitcompress.quant import UniformQuantizer

Walk = Callable[..., Any]


class Attention(nn.Module):
    """Two products between two linears."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


class Net(nn.Module):
    """Convolutions around attention, with more than a forward."""

    scale = 2

    def __init__(self, again: bool | None = None) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding="same", padding_mode="reflect")
        self.attn = Attention()
        self.tail = nn.Conv2d(8, 12, 3, padding=1)
        self.mix = nn.Parameter(torch.randn(8, 8))
        self.again = again

    def features(self, x: Tensor) -> Tensor:
        y = self.head(x)
        flat = y.flatten(2).transpose(1, 2)
        if self.again is None:
            flat = flat + self.attn(flat)
        else:
            flat = flat + checkpoint(self.attn, flat, use_reentrant=self.again)
        return nn.functional.linear(flat, self.mix).transpose(1, 2).view_as(y)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.tail(self.features(x)), 2)


def picture(height: int = 6, width: int = 8) -> Tensor:
    return torch.rand(1, 3, height, width)


@pytest.fixture
def done(walked: Walk) -> Any:
    return walked(Net(), picture(), picture(8, 6))


def test_it_takes_every_size_and_keeps_attributes(done: Any, outputs: Any) -> None:
    assert outputs(done.packed, picture(10, 12))[0].shape == (1, 3, 20, 24)
    assert done.packed.scale == 2
    with pytest.raises(AttributeError, match="nothing"):
        _ = done.packed.nothing


def test_places_are_found_by_site_name(done: Any) -> None:
    for name in done.quantized:
        assert "Packed" in type(done.packed.place(name)).__name__, name


def test_a_copy_is_its_own_model(done: Any, outputs: Any) -> None:
    x = picture()
    twin = copy.deepcopy(done.simulated)
    assert torch.equal(outputs(twin, x)[0], outputs(done.simulated, x)[0])
    assert twin.scopes is not done.simulated.scopes
    for module in twin.products.modules():
        if isinstance(module, UniformQuantizer):
            module.upper.data.mul_(0.1)
    assert not torch.equal(outputs(twin, x)[0], outputs(done.simulated, x)[0])
    wanted = outputs(done.simulated, x)[0]
    del twin
    assert torch.equal(outputs(done.simulated, x)[0], wanted)


def test_a_copy_of_a_model_with_its_own_way_to_copy() -> None:
    class Special(nn.Module):
        def __deepcopy__(self, memo: dict[int, Any]) -> Special:
            return Special()

    assert isinstance(copy.deepcopy(Rewritten(Special())), Rewritten)


def test_state_goes_from_one_to_another(done: Any, outputs: Any) -> None:
    for station in (done.simulated, done.packed):
        twin, x = copy.deepcopy(station), picture()
        for tensor in (*twin.parameters(), *twin.buffers()):
            if not tensor.is_meta:
                tensor.data.zero_()
        twin.load_state_dict(station.state_dict())
        assert torch.equal(outputs(twin, x)[0], outputs(station, x)[0])


def test_no_float_weight_is_left_in_a_packed_model(done: Any) -> None:
    left = [name for name, p in done.packed.named_parameters() if not p.is_meta]
    assert left and all(name.endswith("weight_scale") for name in left)
    assert done.packed.net.mix.is_meta and done.packed.net.mix.shape == (8, 8)


def test_parts_called_by_themselves_run_their_products(done: Any) -> None:
    x = torch.randn(1, 5, 8) * 0.1
    with torch.no_grad():
        wanted = done.switched_off.net.attn(x)
        for layer in (done.simulated.net.attn.qkv, done.simulated.net.attn.out):
            layer.weight_quantizer.enabled = layer.input_quantizer.enabled = False
        got = done.simulated.attn(x)
    assert not torch.equal(got, wanted), "its products are on grids, its linears are not"
    assert done.simulated.scopes.mode is None and not done.simulated.scopes.stack


def test_a_method_of_the_original_reaches_the_parts(done: Any) -> None:
    x = picture()
    with torch.no_grad():
        features = done.packed.features(x)
    assert features.shape == (1, 8, 6, 8)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
def test_parts_computed_again_for_gradients_run_their_products(
    reentrant: bool, walked: Walk
) -> None:
    model, x = Net(reentrant), picture()
    done = walked(model, x)
    plain = copy.deepcopy(done.simulated)
    plain.net.again = None
    gradients = []
    for station in (plain, done.simulated):
        station(x).square().sum().backward()
        gradients.append({name: p.grad for name, p in station.named_parameters()})
        assert not station.scopes.stack and station.scopes.mode is None
    assert any("products" in name for name in gradients[0])
    for name, wanted in gradients[0].items():
        if wanted is None:
            assert gradients[1][name] is None
        else:
            assert torch.allclose(gradients[1][name], wanted, atol=1e-5), name


def test_gradients_reach_every_bound(done: Any) -> None:
    done.simulated(picture()).square().sum().backward()
    for name, parameter in done.simulated.named_parameters():
        assert parameter.is_meta or parameter.grad is not None, name


@pytest.mark.parametrize("size", [(6, 8), (10, 12)])
def test_the_packed_model_exports_as_it_computes(size: tuple[int, int], done: Any) -> None:
    program = torch.export.export(done.packed, (picture(*size),), strict=False)
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    packed = [name for name in names if name.startswith("bitcompress.")]
    assert len(packed) == len(done.quantized)
    assert not any(name.startswith(("aten.matmul", "aten.linear", "aten.conv2d")) for name in names)
    x = picture(*size)
    with torch.no_grad():
        assert torch.equal(program.module()(x), done.packed(x))


def test_one_exported_program_serves_two_sizes(done: Any) -> None:
    dim = torch.export.Dim
    sides = {2: dim("height", min=4, max=64), 3: dim("width", min=4, max=64)}
    program = torch.export.export(
        done.packed, (picture(),), dynamic_shapes=((sides,),), strict=False
    )
    module = program.module()
    for size in ((6, 8), (10, 12), (16, 14)):
        x = picture(*size)
        with torch.no_grad():
            assert torch.allclose(module(x), done.packed(x), atol=1e-6)


def test_a_stripped_parameter_keeps_its_shape_under_all_its_names() -> None:
    net = nn.Module()
    net.a = nn.Parameter(torch.randn(3, 4))
    net.b = nn.Module()
    net.b.c = net.a
    strip_parameter(net, "b.c")
    assert net.a.is_meta and net.b.c is net.a and net.a.shape == (3, 4)
    net.register_buffer("d", torch.ones(2))
    assert torch.equal(tensor_at(net, "d"), torch.ones(2))
    strip_parameter(net, "d")
    assert net.d.is_meta and "d" in net._buffers


def test_another_weight_at_the_same_place_is_another_call(walked: Walk, outputs: Any) -> None:
    class Either(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.v = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.w if x.mean() > 0 else self.v)

    model, x = Either(), torch.rand(3, 4)
    done = walked(model, x)
    assert done.quantized == {"@linear.0"}
    for station in (done.switched_off, done.packed):
        assert torch.equal(outputs(station, -x)[0], outputs(model, -x)[0])


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
def test_exported_programs_are_captured_like_modules(walked: Walk) -> None:
    sides = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(Net().eval(), (picture(),), dynamic_shapes=(sides,), strict=False)
    done = walked(program.module(), picture(), picture(8, 6))
    assert {site.op for site in done.captured.sites if not site.refusal} == {
        "linear", "conv2d", "matmul",
    }  # fmt: skip
    assert not done.refused and len(done.quantized) == 7


def test_a_call_is_replaced_only_where_it_stands() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x @ x, x @ x

    class Nothing(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a * 0

    model = Rewritten(Two())
    model.replace_call(Call("", "matmul", 1), "", "@matmul.1", Nothing())
    x = torch.randn(3, 3)
    for _ in range(2):
        one, other = model(x)
        assert torch.equal(one, x @ x) and not other.any()


def test_moves_leave_emptied_parameters_empty_and_refuse_other_types(walked: Walk) -> None:
    packed = walked(Net().eval(), (x := picture())).packed
    assert any(p.is_meta for p in packed.parameters())
    expected = packed(x)
    for move in (lambda m: m.cpu(), lambda m: m.to("cpu"), lambda m: m.float(), lambda m: m.eval()):
        moved = move(copy.deepcopy(packed))
        assert any(p.is_meta for p in moved.parameters())
        assert torch.equal(moved(x), expected)
    for move in (lambda m: m.half(), lambda m: m.double(), lambda m: m.to(torch.bfloat16)):
        with pytest.raises(BitcompressError, match="convert what goes in and comes out"):
            move(packed)
        assert torch.equal(packed(x), expected)
