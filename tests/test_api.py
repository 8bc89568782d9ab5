"""Tests of the Python API: any model and batches in, the model untouched, the same bytes out."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitcompress
from bitcompress import api
from bitcompress.data.folders import PictureSet, open_pictures
from bitcompress.errors import (
    BitcompressError,
    CaptureError,
    DataError,
    LoadError,
    NothingPacked,
    OutputError,
    RecipeError,
    Unavailable,
    UsageError,
)
from bitcompress.models import MODELS

FEW = {"train.steps": 2, "train.batch": 2, "calibration.patches": 2}


class Mixer(nn.Module):
    """Two linears, a product of two inputs and a convolution over what comes out."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.enter = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(2 * width, width)
        self.tail = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y: Tensor = self.leave(self.enter(x).relu())
        if mask is not None:
            y = y * mask
        scores = (y @ x.transpose(-2, -1)).softmax(-1)
        out: Tensor = self.tail(scores[:, None])[:, 0]
        return out


def mixer() -> Mixer:
    torch.manual_seed(1)
    return Mixer().eval()


def batches(kind: str = "tensor", count: int = 3) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    made: list[Any] = []
    for _ in range(count):
        x = torch.randn(2, 5, 8, generator=generator)
        mask = torch.rand(2, 5, 1, generator=generator)
        choices = {"tensor": x, "tuple": (x, mask), "dict": {"x": x, "mask": mask}}
        made.append(choices[kind])
    return made


def run(model: nn.Module, batch: Any) -> Tensor:
    with torch.no_grad():
        if isinstance(batch, dict):
            out: Tensor = model(**batch)
        else:
            out = model(*batch) if isinstance(batch, tuple) else model(batch)
    return out


def near(one: Tensor, two: Tensor) -> float:
    return float((one - two).norm() / two.norm())


@pytest.fixture(scope="module")
def tiny(tiny_sr: Path) -> api.Result:
    """A tiny network that doubles pictures, at 4 bits."""
    return bitcompress.quantize(tiny_sr, bits=4, overrides=FEW)


@pytest.mark.parametrize("kind", ["tensor", "tuple", "dict"])
def test_a_model_of_ones_own_with_batches_of_ones_own(kind: str, tmp_path: Path) -> None:
    model, data = mixer(), batches(kind)
    result = bitcompress.quantize(model, data[0], bits=8, data=data, overrides=FEW)
    assert near(run(result.model, data[0]), run(model, data[0])) < 0.1
    states = {row["name"]: row["state"] for row in result.report["layers"]}
    assert states["enter"] == "packed" and len(states) == 4
    bitcompress.save(result, tmp_path / "out")
    again = bitcompress.load(tmp_path / "out", model=Mixer()).model
    for batch in data:
        assert torch.equal(run(again, batch), run(result.model, batch))


def test_batches_may_come_from_a_generator_and_an_example_is_not_needed() -> None:
    data = batches()

    def once() -> Iterator[Tensor]:
        yield from data

    result = bitcompress.quantize(mixer(), bits=4, data=once(), overrides=FEW)
    assert result.report["data"] == "3 batches of the caller's own"


def test_the_model_is_left_alone() -> None:
    model = mixer().train()
    calls: list[int] = []
    model.enter.register_forward_hook(lambda *a: calls.append(1))
    for p in model.leave.parameters():
        p.requires_grad_(False)
    before, modules = copy.deepcopy(model.state_dict()), list(model.modules())
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules]
    bitcompress.quantize(model, batches()[0], bits=2, data=batches(), overrides=FEW)
    assert list(model.modules()) == modules and all(m.training for m in modules)
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules] == hooks
    assert [p.requires_grad for p in model.leave.parameters()] == [False, False]
    assert all(p.grad is None for p in model.parameters())
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[k], before[k]) for k in before)
    calls.clear()
    model(batches()[0])
    assert calls == [1]


def test_a_model_that_fails_stays_usable() -> None:
    class Fails(Mixer):
        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            if x.shape[-1] != 8:
                raise ValueError("only 8 wide")
            return super().forward(x, mask)

    model, good = Fails().eval(), batches()[0]
    before = run(model, good)
    with pytest.raises(CaptureError, match="only 8 wide"):
        bitcompress.quantize(model, torch.rand(2, 5, 7), bits=4, data=batches())
    assert torch.equal(run(model, good), before)


def test_the_packed_model_takes_every_size_the_model_took(tiny: api.Result) -> None:
    for shape in [(1, 3, 64, 64), (2, 3, 17, 23), (1, 3, 1, 1)]:
        x = torch.rand(*shape) * tiny.source.image_range
        out, wanted = run(tiny.model, x), run(tiny.float_model, x)
        assert out.shape == wanted.shape == (shape[0], 3, 2 * shape[2], 2 * shape[3])
        assert near(out, wanted) < 0.5


def test_a_saved_model_is_bit_equal(tiny: api.Result, tmp_path: Path) -> None:
    bitcompress.save(tiny, tmp_path / "out")
    again = bitcompress.load(tmp_path / "out")
    x = torch.rand(1, 3, 20, 31) * tiny.source.image_range
    assert torch.equal(run(again.model, x), run(tiny.model, x))
    assert again.source == tiny.source


def test_a_packed_model_gives_the_same_with_gradients_on(tiny: api.Result) -> None:
    x = torch.rand(1, 3, 16, 16)
    y = tiny.model(x)
    with torch.no_grad():
        assert not y.requires_grad and torch.equal(y, tiny.model(x))


def test_a_folder_is_not_written_over_unasked(tiny: api.Result, tmp_path: Path) -> None:
    bitcompress.save(tiny, tmp_path / "out")
    with pytest.raises(OutputError, match="exists already"):
        bitcompress.save(tiny, tmp_path / "out")
    bitcompress.save(tiny, tmp_path / "out", True)


def test_the_same_seed_gives_the_same_bytes(tiny_sr: Path, tmp_path: Path) -> None:
    files = []
    for number, seed in enumerate((3, 3, 4)):
        torch.rand(number)  # what happened before must not matter
        result = bitcompress.quantize(tiny_sr, bits=2, seed=seed, overrides=FEW)
        bitcompress.save(result, tmp_path / str(number))
        files.append((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


def test_a_network_and_its_file_give_the_same_codes(tiny_sr: Path, tiny: api.Result) -> None:
    net = bitcompress.load_model(tiny_sr).model
    result = bitcompress.quantize(net, bits=4, overrides=FEW)
    x = torch.rand(1, 3, 20, 20) * tiny.source.image_range
    assert torch.equal(run(result.model, x), run(tiny.model, x))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("swinir", {"embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 8,
                    "mlp_ratio": 2.0, "upscale": 2, "upsampler": "pixelshuffledirect"}),
        ("dat", {"embed_dim": 32, "depth": [2], "num_heads": [2], "split_size": [4, 8],
                 "expansion_factor": 2.0, "upscale": 2, "upsampler": "pixelshuffledirect"}),
    ],
)  # fmt: skip
def test_transformers_pack_their_attention(
    name: str, config: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    few = {**FEW, "calibration.patch": 32, "train.steps": 1}
    net = MODELS[name].build(**config).eval()
    result = bitcompress.quantize(net, bits=8, overrides=few)
    products = [row for row in result.report["layers"] if row["op"] == "matmul"]
    assert products and all(row["state"] == "packed" for row in products)
    x = torch.rand(1, 3, 21, 40)
    assert near(run(result.model, x), run(net, x)) < 0.1
    bitcompress.save(result, tmp_path / "out")
    again = bitcompress.load(tmp_path / "out", model=MODELS[name].build(**config))
    assert torch.equal(run(again.model, x), run(result.model, x))


def test_inspect_says_what_would_become_of_each_layer(
    tiny_sr: Path, tiny: api.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = bitcompress.inspect(tiny_sr, bits=4).rows()
    assert not list(tmp_path.iterdir()) and len(list(tiny_sr.parent.iterdir())) == 1
    keys = ("name", "op", "state", "reason", "weight_bits", "act_bits")
    planned = [[row[key] for key in keys] for row in rows]
    assert planned == [[row[key] for key in keys] for row in tiny.report["layers"]]
    json.dumps(rows)


def test_analyze_gives_a_row_a_layer_and_width(tiny_sr: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    rows = bitcompress.analyze(
        tiny_sr, widths=(8, 2), progress=lambda *step: seen.append(step)
    )  # fmt: skip
    wide = {row["name"]: row["sqnr_db"] for row in rows if row["bits"] == 8}
    narrow = {row["name"]: row["sqnr_db"] for row in rows if row["bits"] == 2}
    assert set(wide) == set(narrow) and len(rows) == 2 * len(wide) == 16
    assert all(wide[name] > narrow[name] + 10 for name in wide)
    assert seen[-1] == ("analyze at 2 bits", 2, 2)


def test_a_byte_budget_is_kept(tiny_sr: Path) -> None:
    few = {**FEW, "train.steps": 0}
    for target in (20_000, 14_000):
        fitted = bitcompress.quantize(tiny_sr, bits=8, overrides=few, target_bytes=target)
        assert 0.97 * target < fitted.report["size"]["packed_bytes"] <= target
        rows = [row for row in fitted.report["layers"] if row["state"] == "packed"]
        assert min(row["weight_bits"] for row in rows) < 8
        assert all(row["act_bits"] == 8 for row in rows)
    with pytest.raises(UsageError, match="even at 2 bits"):
        bitcompress.quantize(tiny_sr, bits=8, overrides=few, target_bytes=1000)
    one = nn.Linear(64, 64)
    fitted = bitcompress.quantize(
        one, data=[torch.randn(4, 64)], bits=8, overrides={"train.steps": 0}, target_bytes=4000
    )
    assert fitted.report["size"]["packed_bytes"] <= 4000


def test_progress_names_stages_that_end(tiny_sr: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    bitcompress.quantize(
        tiny_sr, bits=4, overrides=FEW, progress=lambda *step: seen.append(step)
    )  # fmt: skip
    last = {what.split(" (")[0]: (done, total) for what, done, total in seen}
    assert last["train"] == (2, 2) and len(last) >= 2
    assert all(done == total for done, total in last.values() if total)


def test_pictures_may_be_a_folder_or_a_set(tiny_sr: Path, tmp_path: Path) -> None:
    from bitcompress.data.calibration import packaged_calibration

    small = open_pictures(packaged_calibration(), scale=2)
    few = PictureSet("mine", small.items[:2], small.kind)
    result = bitcompress.quantize(tiny_sr, bits=4, data=few, overrides=FEW)
    assert result.report["data"] == "2 pictures of mine"
    with pytest.raises(DataError, match="no picture"):
        bitcompress.quantize(tiny_sr, bits=4, data=tmp_path, overrides=FEW)


REFUSED: dict[str, tuple[dict[str, Any], type[BitcompressError], str]] = {
    "coverage": ({"min_coverage": 0.999}, CaptureError, "conv_first"),
    "one bit": ({"bits": 1}, UsageError, "binarize"),
    "no bits": ({"bits": 0}, RecipeError, "bits"),
    "nine bits": ({"bits": 9}, RecipeError, "bits"),
    "unknown recipe": ({"recipe": "2dqant"}, RecipeError, "2dquant"),
    "unknown key": ({"overrides": {"train.stepz": 1}}, RecipeError, "stepz"),
    "device": ({"device": "cuda"}, Unavailable, "cuda"),
    "no batch": ({"data": []}, DataError, "no batch"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_with_a_reason(tiny_sr: Path, case: str) -> None:
    given, kind, said = REFUSED[case]
    with pytest.raises(kind, match=said):
        bitcompress.quantize(tiny_sr, **{"bits": 4, "overrides": FEW, **given})


def test_a_custom_model_needs_data() -> None:
    with pytest.raises(UsageError, match="data is needed"):
        bitcompress.quantize(mixer(), batches()[0], bits=4)
    with pytest.raises(UsageError, match="example_inputs"):
        bitcompress.inspect(mixer(), bits=4)


def test_a_selector_that_matches_nothing_names_a_near_layer() -> None:
    rules = [{"match": {"name": "entr"}, "apply": {"keep": "float"}}]
    recipe = bitcompress.Recipe.parse({"metadata": {"name": "mine"}, "rules": rules})
    with pytest.raises(RecipeError, match="nearest name: 'enter'"):
        bitcompress.quantize(mixer(), batches()[0], recipe=recipe, data=batches())


def test_a_recipe_object_and_a_file_mean_the_same(tmp_path: Path) -> None:
    recipe = bitcompress.Recipe.load("minmax").set({"bits": 5})
    (tmp_path / "mine.yaml").write_text(recipe.to_yaml())
    one, two = (
        bitcompress.quantize(mixer(), recipe=given, data=batches())
        for given in (recipe, tmp_path / "mine.yaml")
    )
    assert one.recipe == two.recipe == recipe
    assert torch.equal(run(one.model, batches()[0]), run(two.model, batches()[0]))


def test_every_recipe_makes_a_packed_model(tiny_sr: Path) -> None:
    from bitcompress.recipe import names

    for name in names():
        kept = bitcompress.Recipe.load(name)
        few = {**FEW, "train.steps": min(1, kept.steps(4))}
        convolutions_stay = name.startswith("2dquant")
        told = pytest.warns(NothingPacked) if convolutions_stay else contextlib.nullcontext()
        with told:
            result = bitcompress.quantize(tiny_sr, bits=4, recipe=name, overrides=few)
        assert result.report["recipe"] == name
        assert (result.report["states"]["packed"] == 0) == convolutions_stay, name


def test_a_model_with_nothing_to_pack_stays_as_it_is() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Sigmoid())
    with pytest.warns(NothingPacked, match="no layer and no product that multiplies"):
        result = bitcompress.quantize(model, data=[torch.randn(2, 3)], bits=4)
    x = torch.randn(4, 3)
    assert result.report["layers"] == [] and torch.equal(result.model(x), model(x))


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="gone"):
        bitcompress.quantize(tmp_path / "gone.pth", bits=4)


def test_measure_scores_sets_and_times_both(tiny_sr: Path) -> None:
    result = bitcompress.quantize(tiny_sr, bits=4, overrides=FEW)
    from bitcompress.data.calibration import packaged_calibration

    pictures = open_pictures(packaged_calibration(), scale=2)
    few = PictureSet("mine", pictures.items[:1], pictures.kind)
    shown = api.measure(result, [few], repeats=1)
    assert [picture.name for picture in shown] == [few.items[0].name]
    assert result.report["quality"]["mine"]["packed_psnr_y"] > 0
    assert result.report["speed"]["repeats"] >= 1


def test_wide_layers_that_are_too_loud_go_back_to_float() -> None:
    """A layer kept at 8 bits whose own error dominates is float again, and the report says why."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 8, 3, padding=1)
            self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.quiet = nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.body = nn.Conv2d(8, 8, 3, padding=1)
            self.tail = nn.Conv2d(8, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.head(x)
            h = h + 1e-4 * self.body(h) + 1e-4 * self.quiet(h) + 50 * self.depth(h)
            return self.tail(h)

    torch.manual_seed(0)
    net = Net().eval()
    batches = [torch.rand(1, 3, 16, 16) for _ in range(2)]
    protect = {"protect.share": 0.5, "train.steps": 0}
    result = bitcompress.quantize(net, bits=4, data=batches, overrides=protect)
    layers = {row["name"]: row for row in result.report["layers"]}
    assert layers["depth"]["state"] == "float"
    assert "it alone made over 1.5 % of the error" in layers["depth"]["reason"]
    assert (layers["quiet"]["state"], layers["quiet"]["weight_bits"]) == ("packed", 8)
    assert layers["body"]["weight_bits"] == 4
    off = bitcompress.quantize(
        net, bits=4, data=batches, overrides={**protect, "protect.float_share": 0.0}
    )
    assert all(r["weight_bits"] == 8 for r in off.report["layers"] if r["name"] == "depth")


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_weights_that_a_hook_rebuilds_are_saved_and_loaded(tmp_path: Path) -> None:
    """The instance given to load has never run, and its rebuilt weight hangs on a graph: on both
    sides it becomes plain."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 8, 3, padding=1)
            self.b = nn.utils.weight_norm(nn.Conv2d(8, 8, 3, padding=1))
            self.c = nn.Conv2d(8, 8, 3, padding=1)
            self.d = nn.Conv2d(8, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.d(self.c(torch.relu(self.b(self.a(x)))))
            return out

    x = torch.rand(1, 3, 12, 12)
    result = bitcompress.quantize(Normed(), bits=4, data=[x], overrides={"train.steps": 0})
    assert {r["name"]: r["state"] for r in result.report["layers"]}["b"] == "packed"
    bitcompress.save(result, tmp_path / "out")
    loaded = bitcompress.load(tmp_path / "out", model=Normed()).model
    assert torch.equal(loaded(x), result.model(x))


@pytest.mark.parametrize("bits", [8, 4])
def test_attention_over_fewer_tokens_than_were_seen(bits: int, tmp_path: Path) -> None:
    """Weights of attention grow where tokens are few: rows are cut relative to their largest, and a
    grid for all rows widens."""

    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).chunk(3, -1)
            y: Tensor = self.out(nn.functional.scaled_dot_product_attention(q, k, v))
            return y

    torch.manual_seed(0)
    net = Attend()
    short = torch.randn(2, 24, 16)

    def noise(rules: list[dict[str, Any]], follow: bool) -> float:
        result = bitcompress.quantize(
            net, bits=bits, data=[torch.randn(2, 96, 16)],
            overrides={"train.steps": 0, "rules": rules},
        )  # fmt: skip
        folder = tmp_path / f"{len(rules)}{follow}"
        bitcompress.save(result, folder)
        loaded = bitcompress.load(folder, model=Attend()).model
        if not follow:
            for model in (loaded, result.model):
                for product in model.products.values():
                    product.shortest = (0, 0)
        with torch.no_grad():
            wanted, got = net(short), loaded(short)
        assert torch.equal(got, result.model(short))
        return float((got - wanted).square().mean() / wanted.square().mean())

    one_grid = [{"apply": {"per_row": False}}]
    by_row, widened, static = noise([], True), noise(one_grid, True), noise(one_grid, False)
    assert widened < static / 3
    assert by_row < widened
