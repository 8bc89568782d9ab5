"""Layers, hooks, calls and parameters that mean more than one thing, one small model each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from bitcompress.graph.capture import capture, capture_tree
from bitcompress.graph.plain import plain_weights

Walk = Callable[..., Any]


def picture(height: int = 8, width: int = 8, channels: int = 3) -> Tensor:
    return torch.rand(2, channels, height, width)


def tokens(length: int = 6, features: int = 8) -> Tensor:
    return torch.randn(2, length, features)


# ---- Layers that are not what they seem ---------------------------------------------------------


class Plain(nn.Linear):
    """A subclass that changes nothing."""


class Own(nn.Linear):
    """A subclass with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias).relu()


class Masked(nn.Linear):
    """A subclass that computes its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * (self.weight > 0), self.bias)


def test_a_subclass_that_changes_nothing_is_a_layer(walked: Walk) -> None:
    done = walked(nn.Sequential(Plain(8, 8)), tokens())
    assert done.quantized == {"0"} and done.site("0").tier == "module"


def test_a_subclass_with_its_own_forward_is_seen_through_its_call(walked: Walk) -> None:
    done = walked(nn.Sequential(Own(8, 8)), tokens(), tokens(9))
    assert done.quantized == {"0@linear.0"} and not done.refused
    assert done.site("0@linear.0").params == 72


def test_a_computed_weight_is_refused(walked: Walk) -> None:
    done = walked(nn.Sequential(Masked(8, 8)), tokens())
    assert done.refused == {"0@linear.0": "its weight is computed, not a parameter"}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_weights_that_are_computed_are_refused_by_capture_alone(walked: Walk) -> None:
    """`graph.plain` has made them plain before a model is captured, where that can be done."""
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(8, 8)), nn.utils.weight_norm(nn.Linear(8, 8)),
        nn.Linear(8, 8),
    )  # fmt: skip
    done = walked(model, tokens())
    assert done.quantized == {"2"}
    said = " ".join(done.refused.values())
    assert "is parametrized" in said and "rebuilt by a hook" in said
    assert plain_weights(model) == ["0", "1"]
    assert walked(model, tokens()).quantized == {"0", "1", "2"}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_a_scripted_part_is_opaque_and_data_flow_through_it(walked: Walk) -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
    done = walked(nn.Sequential(nn.Linear(8, 8), scripted, nn.Linear(8, 8)), tokens())
    assert done.quantized == {"0", "2"}
    assert done.refused == {"1": "TorchScript: what it computes cannot be seen"}


@pytest.mark.parametrize(
    ("layer", "example", "macs"),
    [
        (nn.Conv3d(2, 3, 2), torch.randn(1, 2, 4, 4, 4), 3 * 27 * 16),
        (nn.ConvTranspose3d(3, 4, 2, 2), torch.randn(1, 3, 5, 5, 2), 3 * 50 * 32),
        (nn.GRU(4, 5), torch.randn(7, 2, 4), 14 * (15 * 4 + 15 * 5)),
    ],
)
def test_layers_without_a_packed_twin_are_named_and_counted(
    layer: nn.Module, example: Tensor, macs: int, walked: Walk
) -> None:
    done = walked(nn.Sequential(layer), example)
    assert done.refused == {"0": f"no packed operator for {type(layer).__name__}"}
    assert done.site("0").macs == macs


@pytest.mark.parametrize(
    ("layer", "example", "macs"),
    [
        (nn.Conv1d(3, 4, 3), torch.randn(2, 3, 9), 2 * 4 * 7 * 9),
        (nn.ConvTranspose1d(3, 4, 2, 2), torch.randn(1, 3, 5), 3 * 5 * 8),
        (nn.ConvTranspose2d(3, 4, 2, 2), torch.randn(1, 3, 5, 5), 3 * 25 * 16),
    ],
)
def test_other_convolutions_are_ones_of_pictures(
    layer: nn.Module, example: Tensor, macs: int, walked: Walk
) -> None:
    done = walked(nn.Sequential(layer), example)
    assert (done.quantized, done.refused) == ({"0"}, {})
    assert (done.site("0").op, done.site("0").macs) == ("conv2d", macs)


# ---- Hooks --------------------------------------------------------------------------------------


def test_hooks_of_the_user_stay_on_swapped_layers(walked: Walk) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    seen: list[str] = []
    model[0].register_forward_hook(lambda m, args, out: out * 2)
    model[1].register_forward_pre_hook(lambda m, args: (args[0] + 1,))
    model[1].register_forward_hook(
        lambda m, args, kwargs, out: seen.append(type(m).__name__), with_kwargs=True
    )
    walked(model, tokens())
    assert {"Linear", "QuantLinear", "PackedLinear"} <= set(seen)


def test_products_in_hooks_do_not_shift_those_of_the_forward(walked: Walk) -> None:
    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x @ x.transpose(-2, -1)).softmax(-1) @ x

    model = nn.Sequential(Inner(), nn.Linear(8, 8))
    model[0].register_forward_pre_hook(lambda m, args: (args[0] @ torch.eye(8),))
    model[1].register_forward_hook(lambda m, args, out: out @ out.transpose(-2, -1))
    model.register_forward_hook(lambda m, args, out: out @ out)
    done = walked(model, tokens(), tokens(9))
    assert {"0@matmul.0", "0@matmul.1", "1"} <= done.quantized
    assert done.refused["(hook)@matmul.0"] == "is called by a hook, in the forward of no module"


# ---- Where calls mean different things ----------------------------------------------------------


class Shifts(nn.Module):
    """At large sizes there is one product more, before the others."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] > 8:
            x = x @ x.transpose(-2, -1) @ x
        return (x @ x.transpose(-2, -1)).softmax(-1) @ x


class Swaps(nn.Module):
    """At large sizes the same number of products, but others."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Any:
        if x.shape[1] > 6:
            return x.relu() @ (x.transpose(-2, -1) @ x).sigmoid()
        return (x @ x.transpose(-2, -1)).softmax(-1) @ self.a(x)


class Unequal(nn.Module):
    """A part that makes one product in one run, two in the next."""

    def forward(self, x: Tensor, more: bool) -> Tensor:
        return x @ (x.transpose(-2, -1) @ x) if more else x @ x.transpose(-2, -1) @ x.exp()


class Other(nn.Module):
    """Is called with other weights each time."""

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight)


class Calls(nn.Module):
    """Calls a part twice, with what it is given."""

    def __init__(self, part: nn.Module, *extra: Any) -> None:
        super().__init__()
        self.part = part
        self.extra = nn.ParameterList(e for e in extra if isinstance(e, Tensor))
        self.flags = [e for e in extra if not isinstance(e, Tensor)]

    def forward(self, x: Tensor) -> Tensor:
        for extra in (*self.extra, *self.flags):
            x = self.part(x, extra)
        return x


CHANGES = "its module makes other calls at another input size or in another run"


@pytest.mark.parametrize(("model", "example"), [(Shifts(), picture()), (Swaps(), tokens())])
def test_products_that_change_with_the_size_are_refused(
    model: nn.Module, example: Tensor, walked: Walk
) -> None:
    done = walked(model, example)
    products = {site.name for site in done.captured.sites if site.tier == "recorded"}
    assert products and all(done.refused[name] == CHANGES for name in products)


def test_products_that_change_between_runs_are_refused(walked: Walk) -> None:
    done = walked(Calls(Unequal(), True, False), tokens())
    assert set(done.refused.values()) == {CHANGES} and not done.quantized


def test_a_call_with_other_weights_each_time_is_refused(walked: Walk) -> None:
    weights = [torch.randn(8, 8) for _ in range(2)]
    done = walked(Calls(Other(), *weights), tokens())
    assert done.refused == {"part@linear.0": CHANGES}


def test_a_call_with_one_weight_each_time_is_one_place(walked: Walk) -> None:
    model = Calls(Other(), torch.randn(8, 8))
    model.flags = [model.extra[0]]
    done = walked(model, tokens(), tokens(9))
    assert done.quantized == {"part@linear.0"} and done.site("part@linear.0").calls == 2


def test_another_size_that_fails_is_a_note(walked: Walk) -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 4))
    done = walked(model, picture())
    assert done.quantized == {"0", "2"}
    assert "one input size recorded" in done.captured.notes[0]


def test_inputs_without_a_size_to_vary_are_a_note(walked: Walk) -> None:
    done = walked(nn.Sequential(nn.Linear(8, 4)), torch.randn(3, 8))
    assert done.captured.notes == (
        "one input size recorded: no picture or sequence among the inputs to vary",
    )


def test_longer_sequences_grow_masks_with_them() -> None:
    class Strict(nn.Module):
        def forward(self, x: Tensor, *, mask: Tensor, padding: Tensor) -> Tensor:
            n = x.shape[1]
            assert mask.shape == (n, n) and padding.shape == (2, n)
            return (x @ x.transpose(-2, -1) + mask).masked_fill(padding[:, None], -9.0).softmax(-1)

    example = (tokens(),), {"mask": torch.zeros(6, 6), "padding": torch.zeros(2, 6).bool()}
    assert not capture(Strict(), example).notes


# ---- Constants ----------------------------------------------------------------------------------


class Constants(nn.Module):
    """Products of things that are no activations."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(5, 8))
        self.mix = nn.Parameter(torch.randn(8, 8))
        self.on_table, self.on_input = nn.Linear(8, 8), nn.Linear(8, 8)
        self.basis = [torch.randn(8, 8)]

    def forward(self, x: Tensor) -> Any:
        keys = self.on_table(self.table)
        x = self.on_input(x) @ self.mix.t()
        x = x @ self.basis[0]
        y = (x @ keys.t()).softmax(-1) @ keys
        return y + torch.arange(8.0) @ torch.eye(8)


def test_products_with_constants_are_refused_by_name(walked: Walk) -> None:
    done = walked(Constants(), tokens(), tokens(9))
    parameter = "one operand is a parameter used as it is: make it an nn.Linear"
    assert done.refused == {
        "on_table": "does not depend on the input: a constant of the model",
        "@matmul.0": parameter,
        "@matmul.1": parameter,
        "@matmul.4": "a matrix times a vector has no row to share",
    }
    assert done.quantized == {"on_input", "@matmul.2", "@matmul.3"}


# ---- Functional layers with own parameters ------------------------------------------------------


class Functional(nn.Module):
    """Linear and convolution as functions, in several ways of calling them."""

    blur: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 3, 3, 3) * 0.2)
        self.b = nn.Parameter(torch.randn(4))
        self.register_buffer("blur", torch.full((4, 1, 3, 3), 1 / 9))
        self.out = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.w, self.b, 1, 1)
        x = F.conv2d(bias=None, weight=self.blur, groups=4, input=x, padding="same")
        x = F.conv2d(x, weight=torch.ones(4, 4, 1, 1), stride=(2, 2))
        return F.linear(weight=self.out, input=x.movedim(1, -1), bias=None)


def test_functional_layers_are_packed_and_their_floats_are_gone(walked: Walk) -> None:
    done = walked(Functional(), picture(), picture(10, 12))
    assert done.quantized == {"@conv2d.0", "@conv2d.1", "@linear.0"}
    assert done.refused == {"@conv2d.2": "its weight is computed, not a parameter"}
    assert done.site("@conv2d.0").params == 112
    for name in ("w", "b", "blur", "out"):
        assert getattr(done.packed.net, name).is_meta


class Twice(nn.Module):
    """Reads a parameter in two places."""

    def __init__(self, how: Callable[[Tensor, Any], Tensor]) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(x, self)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda x, m: F.linear(F.linear(x, m.w), m.w), "its weight w is also used by @linear"),
        (lambda x, m: F.linear(x, m.w) * m.w.norm(), "its weight w is also used by norm in"),
        (lambda x, m: F.linear(x, m.w, m.b) * m.b, "its bias b is also used by mul in"),
        (lambda x, m: F.linear(x, m.w, m.b * 2), "its bias is computed, not a parameter"),
        (lambda x, m: (F.linear(x, m.w), m.w), "its weight w is also used by the model's output"),
        (lambda x, m: F.linear(x, m.b), "its weight has 1 axes"),
    ],
)
def test_a_parameter_read_twice_stays(how: Any, said: str, walked: Walk) -> None:
    done = walked(Twice(how), tokens())
    assert not done.quantized
    assert all(reason.startswith(said) for reason in done.refused.values()), done.refused


def test_a_layer_that_only_lends_its_weight_is_its_call(walked: Walk) -> None:
    class Lends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.a.weight, self.a.bias)

    done = walked(Lends(), tokens(), tokens(9))
    assert done.quantized == {"@linear.0"} and not done.refused
    assert done.packed.net.a.weight.is_meta


def test_a_functional_linear_on_the_weight_of_an_embedding_stays(walked: Walk) -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 8)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.embed(x), self.embed.weight)

    done = walked(Head(), torch.randint(0, 10, (2, 5)))
    assert done.refused == {"@linear.0": "its weight embed.weight is also used by embed"}


def test_the_module_tree_alone_gives_layers() -> None:
    tree = capture_tree(nn.Sequential(Plain(8, 8), nn.Conv2d(3, 4, 1), nn.GRU(4, 4), Own(8, 8)))
    assert tree.tier == "module" and tree.recording is None and tree.notes
    assert [site.name for site in tree.sites if not site.refusal] == ["0", "1"]
    assert tree.site("2").refusal == "no packed operator for GRU"
    assert tree.site("3").refusal == "Own has a forward of its own"


# ---- The root itself ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "example"),
    [(nn.Linear(8, 4), tokens()), (nn.Conv2d(3, 4, 3), picture()), (Own(8, 4), tokens())],
)
def test_a_model_that_is_one_layer(model: nn.Module, example: Tensor, walked: Walk) -> None:
    done = walked(model, example)
    assert len(done.quantized) == 1
    assert "Packed" in repr(done.packed)
