"""Logits that wait: attention runs in one pass, and every other use sees plain numbers."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bitcompress.graph.arguments import tensors_of
from bitcompress.graph.defer import Deferred
from bitcompress.graph.intercept import Rewritten
from bitcompress.layers import QuantMatmul

Body = Callable[[Any, Tensor, Tensor, Tensor], Tensor]
TOKENS = 36


class Attention(nn.Module):
    """q, k, v from one linear, then what the test says."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.qkv, self.body = nn.Linear(12, 36), body
        self.bias = nn.Parameter(torch.randn(3, TOKENS, TOKENS))
        self.drop = nn.Dropout(0.5)
        self.seen: list[Any] = []

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (3, 4)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        return self.body(self, q, k, v)


def plain(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1) @ v


def biased(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(torch.matmul(q * 0.5, k.mT) + m.bias, dim=-1).matmul(v)


def masked(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    logits = 0.5 + (q @ k.mT) * 0.7
    mask = torch.full((2, 1, TOKENS, TOKENS), -100.0).tril(-30)
    shape = logits.shape
    logits = (logits.view(-1, 2, 3, TOKENS, TOKENS) + mask).view(-1, *shape[1:])
    return torch.bmm(m.drop(logits.softmax(-1)).flatten(0, 1), v.flatten(0, 1)).view_as(v)


def with_modules(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    logits = torch.add(m.bias, q @ k.mT)
    return m.drop(nn.Softmax(dim=3)(logits)) @ v


def sdpa(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=m.bias)


def asked(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    logits = q @ k.mT
    bias = torch.zeros(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    return (logits + bias).softmax(-1) @ v


FUSED = {"plain": plain, "asked where": asked, "biased": biased, "with modules": with_modules}


def clipped(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).clamp(-1, 1).softmax(-1) @ v


def shown(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.mT).softmax(-1)
    m.seen = [weights.mean().item(), len(weights), weights.shape, weights.dtype]
    return weights @ v


def changed_later(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q = q.contiguous()
    logits = q @ k.mT
    q.mul_(3)  # the product has been taken already
    return logits.softmax(-1) @ v


def added_in_place(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    logits = q @ k.mT
    logits += m.bias
    return logits.softmax(-1) @ v


def along_queries(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-2) @ v


def twice(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    logits = q @ k.mT
    return (logits + m.bias).softmax(-1) @ v + logits.softmax(-1) @ v


def wider(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    logits = (q @ k.mT)[:, None] + torch.ones(2, 1, 1, 1)
    return (logits.softmax(-1) @ v[:, None]).sum(1)


OTHER = {
    "clipped": clipped, "shown": shown, "changed later": changed_later,
    "added in place": added_in_place, "along queries": along_queries, "wider": wider,
}  # fmt: skip


def tokens() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, TOKENS, 12)


def simulated(done: Any, x: Tensor) -> Tensor:
    """What the packed twin must give, found in float64."""
    layers = [m for m in done.simulated.modules() if hasattr(m, "exact")]
    for layer in layers:
        layer.exact = True
    with torch.no_grad():
        y: Tensor = done.simulated(x)
    for layer in layers:
        layer.exact = False
    return y


@pytest.mark.parametrize("name", FUSED)
def test_attention_runs_in_one_pass_as_the_simulation_says(name: str, walked: Any) -> None:
    done = walked(Attention(FUSED[name]), tokens())
    with torch.no_grad():
        y = done.packed(tokens())
    assert done.packed.fusions.fused == 1 and not done.packed.fusions.refusals
    assert type(y) is Tensor and torch.equal(y, simulated(done, tokens()))


@pytest.mark.parametrize("name", OTHER)
def test_any_other_use_sees_the_numbers(name: str, walked: Any) -> None:
    done = walked(Attention(OTHER[name]), tokens())
    with torch.no_grad():
        y = done.packed(tokens())
    assert done.packed.fusions.fused == 0 and done.packed.fusions.refusals
    assert type(y) is Tensor and torch.equal(y, simulated(done, tokens()))


def test_a_model_that_ran_can_be_pickled(walked: Any) -> None:
    done = walked(Attention(plain), tokens())
    with torch.no_grad():
        y = done.packed(tokens())
    done.packed.net.body = None  # a local function of this test
    assert pickle.loads(pickle.dumps(done.packed.fusions)).fused == 1
    assert pickle.loads(pickle.dumps(done.packed)).fusions.fused == 1
    assert y.shape == (2, 3, TOKENS, 4)


class Parts(NamedTuple):
    """Logits beside the result."""

    y: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Record:
    """The same as a record that nobody may change."""

    y: Tensor
    logits: Tensor


class Several(nn.Module):
    """Gives its logits away, in a container."""

    def __init__(self, pack: Any) -> None:
        super().__init__()
        self.qkv, self.pack = nn.Linear(12, 36), pack

    def forward(self, x: Tensor) -> Any:
        q, k, v = (t.unflatten(-1, (3, 4)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        logits = q @ k.mT
        return self.pack(logits.softmax(-1) @ v, logits)


CONTAINERS = {
    "named tuple": Parts, "record": Record, "dict": lambda y, logits: {"y": y, "logits": logits},
    "ordered dict": lambda y, logits: OrderedDict(y=y, deep=[logits]), "pair": lambda *both: both,
}  # fmt: skip


@pytest.mark.parametrize("name", CONTAINERS)
def test_what_is_given_away_holds_its_numbers(name: str, walked: Any) -> None:
    model = Several(CONTAINERS[name])
    done = walked(model, tokens())
    with torch.no_grad():
        out, wanted = done.packed(tokens()), model(tokens())
    assert type(out) is type(wanted)
    found = tensors_of(out)
    assert len(found) == 2 and all(type(t) is Tensor for t in found)
    assert [t.shape for t in found] == [t.shape for t in tensors_of(wanted)]


def test_logits_may_be_used_twice(walked: Any) -> None:
    done = walked(Attention(twice), tokens())
    with torch.no_grad():
        y = done.packed(tokens())
    assert done.packed.fusions.fused == 2
    assert torch.equal(y, simulated(done, tokens()))


def test_masked_windows_keep_their_views(walked: Any) -> None:
    done = walked(Attention(masked), tokens())
    with torch.no_grad():
        y = done.packed(tokens())
    assert torch.equal(y, simulated(done, tokens()))


def test_sdpa_runs_as_the_simulation_says(walked: Any) -> None:
    done = walked(Attention(sdpa), tokens())
    with torch.no_grad():
        assert torch.equal(done.packed(tokens()), simulated(done, tokens()))


def test_weights_that_are_given_out_are_plain_tensors(walked: Any) -> None:
    def given(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Any:
        logits = q @ k.mT
        return [logits.softmax(-1) @ v, {"logits": logits}]

    done = walked(Attention(given), tokens())
    with torch.no_grad():
        out = done.packed(tokens())
    assert type(out[1]["logits"]) is Tensor


def test_a_hooked_product_is_computed_at_once(walked: Any) -> None:
    done = walked(Attention(plain), tokens())
    seen: list[Any] = []
    for module in done.packed.products.values():
        module.register_forward_hook(lambda m, args, out: seen.append(type(out)))
    with torch.no_grad():
        done.packed(tokens())
    assert seen == [Tensor, Tensor] and done.packed.fusions.fused == 0


def test_training_defers_nothing(walked: Any) -> None:
    done = walked(Attention(plain), tokens())
    assert not any(m.defers for m in done.simulated.modules() if isinstance(m, QuantMatmul))
    done.simulated(tokens()).sum().backward()
    assert done.simulated.fusions.fused == 0


def test_a_part_run_alone_fuses_too(walked: Any) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Attention(plain)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.inner(x)
            return y

    done = walked(Outer(), tokens())
    with torch.no_grad():
        whole, alone = done.packed(tokens()), done.packed.net.inner(tokens())
    assert type(alone) is Tensor and torch.equal(whole, alone)


def test_a_waiting_tensor_shows_its_shape_and_prints_its_numbers(walked: Any) -> None:
    kept: list[Tensor] = []

    def keep(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kept.append(q @ k.mT)
        return v

    done = walked(Attention(keep), tokens())
    kept.clear()
    with torch.no_grad():
        done.packed(tokens())
    (logits,) = kept
    assert isinstance(logits, Deferred) and isinstance(done.packed, Rewritten)
    assert logits.shape == (2, 3, TOKENS, TOKENS) and logits.size(-1) == TOKENS
    assert logits.dtype == torch.float32 and logits.value is None
    assert repr(logits).startswith("tensor(") and type(logits + 1) is Tensor
