"""What calibration looks at: clean float activations, every quantizer, nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bitcompress.calibrate import SEARCHES, calibrate, set_weight_bounds
from bitcompress.calibrate.bounds import minmax
from bitcompress.calibrate.observe import activation_quantizers, observe, weight_quantizers
from bitcompress.errors import DataError
from bitcompress.graph.capture import capture
from bitcompress.graph.intercept import Rewritten
from bitcompress.graph.rewrite import insert, quant_layers
from bitcompress.layers import QuantConv2d, QuantLinear, QuantMatmul
from bitcompress.plan import make_plans
from bitcompress.quant.uniform import UniformQuantizer
from bitcompress.recipe import Recipe


class Attends(nn.Module):
    """Two linears and the two products of attention; `late` is reached where it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, T, 8) -> (N, T, 4)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        out: Tensor = self.out(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))
        return out


def student(rules: list[dict[str, object]] | None = None) -> Rewritten:
    """The net on grids that have no bounds yet."""
    captured = capture(Attends().eval(), torch.randn(2, 6, 8))
    data = {"metadata": {"name": "test"}, "bits": 4, "rules": rules or [{"apply": {}}]}
    return insert(captured, make_plans(captured, Recipe.parse(data)))


def test_every_quantizer_gets_bounds() -> None:
    model = student()
    assert calibrate(model, [torch.randn(2, 6, 8)] * 3, SEARCHES["dobi"]) == 3
    quantizers = [m for m in model.modules() if isinstance(m, UniformQuantizer)]
    assert len(quantizers) == 8
    assert all(q.ready and q.enabled for q in quantizers)


def test_minmax_bounds_are_those_of_clean_activations() -> None:
    model = student([{"apply": {"per_head": False, "per_channel": False}}])
    net = Attends().eval()
    net.load_state_dict(
        {k.replace("net.", ""): v for k, v in model.state_dict().items() if "quantizer" not in k}
    )
    batches = [torch.randn(2, 6, 8) * s for s in (1.0, 3.0)]
    calibrate(model, batches, minmax)
    layers = quant_layers(model)
    qkv = layers["qkv"]
    assert isinstance(qkv, QuantLinear)
    with torch.no_grad():
        made = [net.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4) for x in batches]
    seen = {
        "input": (torch.stack(batches), qkv.input_quantizer),
        "weight": (net.qkv.weight.detach(), qkv.weight_quantizer),
    }
    products = [layer for layer in layers.values() if isinstance(layer, QuantMatmul)]
    seen["q"] = (torch.stack([m[0] for m in made]), products[0].a_quantizer)
    seen["v"] = (torch.stack([m[2] for m in made]), products[1].b_quantizer)
    for values, quantizer in seen.values():
        lower, upper = (end.detach() for end in vars(quantizer.bounds()).values())
        assert float(lower) == pytest.approx(float(values.min()), rel=1e-5)
        assert float(upper) == pytest.approx(float(values.max()), rel=1e-5)


def test_weight_bounds_need_no_data() -> None:
    model = student()
    set_weight_bounds(model, minmax)
    for layer in quant_layers(model).values():
        for weight, quantizer in weight_quantizers(layer):
            assert torch.equal(quantizer.bounds().lower, weight.amin(1))
        assert not any(q.ready for _, q in activation_quantizers(layer))


def test_split_linears_are_seen_part_by_part() -> None:
    model = student([{"apply": {}}, {"match": {"name": "qkv"}, "apply": {"split": 3}}])
    calibrate(model, [torch.randn(2, 6, 8)], minmax)
    parts = [m for m in model.modules() if isinstance(m, QuantLinear)]
    assert len(parts) == 4
    assert all(part.input_quantizer.ready and part.weight_quantizer.ready for part in parts)


def test_producers_reach_the_search() -> None:
    asked: list[str] = []

    def search(atoms, spec, producer):  # type: ignore[no-untyped-def]
        asked.append(producer)
        return minmax(atoms, spec)

    model = student()
    names = list(quant_layers(model))
    calibrate(
        model, [torch.randn(1, 6, 8)], search, weight_search=minmax,
        producers={names[0]: ("gelu", ""), names[-1]: ("softmax", "view")},
    )  # fmt: skip
    assert asked == ["gelu", "", "", "", "softmax", "view"]


def test_memory_does_not_grow_with_the_batches() -> None:
    def held(count: int) -> list[int]:
        histograms, seen = observe(model, (torch.randn(1, 6, 8) for _ in range(count)))
        assert seen == count
        return [
            sum(v.numel() for v in vars(h).values() if isinstance(v, Tensor))
            for h in histograms.values()
        ]

    model = student()
    assert held(1) == held(50)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(bad: float) -> None:
    model = student()
    x = torch.randn(1, 6, 8)
    x[0, 0, 0] = bad
    hooks = sum(len(m._forward_pre_hooks) for m in model.modules())
    with pytest.raises(DataError, match="NaN or infinite"):
        calibrate(model, [x], minmax)
    assert all(q.enabled for q in model.modules() if isinstance(q, UniformQuantizer))
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == hooks


def test_no_batch_is_refused() -> None:
    with pytest.raises(DataError, match="no calibration batch"):
        calibrate(student(), [], minmax)


def test_a_layer_that_never_runs_is_named() -> None:
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.always, self.rarely = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.always(x)
            return self.rarely(y) if x.shape[0] > 1 else y

    captured = capture(Sometimes().eval(), torch.randn(2, 4))
    data = {"metadata": {"name": "test"}, "rules": [{"apply": {}}]}
    model = insert(captured, make_plans(captured, Recipe.parse(data)))
    with pytest.raises(DataError, match="rarely never ran"):
        calibrate(model, [torch.randn(1, 4)], minmax)


def test_constant_activations_still_compute() -> None:
    model = student()
    x = torch.full((1, 6, 8), 0.75)
    calibrate(model, [x], SEARCHES["mse"])
    with torch.no_grad():
        assert torch.isfinite(model(x)).all()


def test_an_unbatched_picture_with_stretched_channels() -> None:
    """A lone (C, H, W) picture has its channels first, not second."""
    captured = capture(nn.Sequential(nn.Conv2d(3, 5, 3)).eval(), torch.randn(3, 8, 6))
    data = {"metadata": {"name": "test"}, "rules": [{"apply": {}}]}
    model = insert(captured, make_plans(captured, Recipe.parse(data)))
    layer = quant_layers(model)["0"]
    assert isinstance(layer, QuantConv2d)
    layer.stretch = torch.tensor([1.0, 10.0, 0.1])
    x = torch.randn(3, 8, 6)
    calibrate(model, [x], minmax)
    scaled = x / torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1)
    upper = layer.input_quantizer.bounds().upper.detach()
    assert float(upper) == pytest.approx(float(scaled.max()), rel=1e-5)


def test_progress_names_layer_i_of_n() -> None:
    model, said = student(), list[tuple[str, int, int]]()
    calibrate(model, [torch.randn(2, 6, 8)], minmax, progress=lambda *words: said.append(words))
    names = list(quant_layers(model))
    for stage in ("weight bounds", "activation bounds"):
        wanted = [(f"{stage} ({name})", i + 1, len(names)) for i, name in enumerate(names)]
        assert [words for words in said if words[0].startswith(stage)] == wanted


def test_a_batch_that_the_model_does_not_take_is_named() -> None:
    model = student()
    batches = [torch.randn(2, 6, 8), torch.randn(2, 6, 9)]
    with pytest.raises(DataError, match=r"fails on batch 2 of the data \(\(2, 6, 9\)\): Runtime"):
        calibrate(model, batches, minmax)
