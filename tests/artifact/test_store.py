"""A loaded model is the saved one to the bit, for every kind of network; its bytes are counted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from bitcompress.artifact import (
    LoadedPacked,
    Source,
    describe,
    layer_bytes,
    load,
    packed_bytes,
    round_to_stored,
    save,
    save_model,
)
from bitcompress.artifact.encode import encode
from bitcompress.errors import LoadError, UsageError
from bitcompress.graph.intercept import Rewritten
from bitcompress.layers import PackedLinear

NAMED = ("dat", "swinir", "edsr", "msrresnet", "rlfn", "resnet-cifar")
LIVE = (
    "functional", "shared", "attention", "convolutions", "one-linear", "listed", "bare-linear",
    "bare-attention",
)  # fmt: skip


@dataclass
class FakeResult:
    """What `save` needs of a result."""

    model: Rewritten
    source: Source
    edits: list[dict[str, Any]]
    report: dict[str, Any] = field(default_factory=dict)
    recipe: Any = field(
        default_factory=lambda: SimpleNamespace(
            metadata=SimpleNamespace(name="minmax"), to_yaml=lambda: "bits: 2\n"
        )
    )


@pytest.mark.parametrize("name", NAMED)
def test_a_named_architecture_needs_nothing_but_the_folder(make: Any, name: str, tmp_path: Path):
    made = make(name)
    loaded = load(made.save(tmp_path / "out"))
    assert isinstance(loaded, LoadedPacked)
    assert torch.equal(made.run(), made.run(loaded.model))
    assert loaded.source == made.source
    assert loaded.recipe == "test"
    assert loaded.report is None
    assert not loaded.model.training


@pytest.mark.parametrize("name", LIVE)
def test_a_live_module_needs_an_instance_whose_weights_do_not_matter(
    make: Any, float_model: Callable[[str], nn.Module], name: str, tmp_path: Path
):
    made = make(name)
    folder = made.save(tmp_path / "out")
    other = float_model(name)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_()
    before = {key: value.clone() for key, value in other.state_dict().items()}
    other.load_state_dict(other.state_dict())
    loaded = load(folder, model=other)
    if name != "functional":  # its loose buffer is the instance's own
        assert torch.equal(made.run(), made.run(loaded.model))
    assert torch.equal(made.run(), made.run(load(folder, made.float_model).model))
    assert all(torch.equal(before[key], value) for key, value in other.state_dict().items())


@pytest.mark.parametrize("name", ["dat", "functional", "shared", "attention", "convolutions"])
def test_simulated_layers_come_back_as_they_were(make: Any, name: str, tmp_path: Path):
    made = make(name, simulated=True)
    loaded = load(made.save(tmp_path / "out"), made.float_model if name not in NAMED else None)
    assert torch.equal(made.run(), made.run(loaded.model))
    rows = describe(tmp_path / "out")["layers"]
    assert [row["state"] for row in rows].count("simulated") == (len(rows) + 1) // 2


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_width(make: Any, bits: int, tmp_path: Path):
    made = make("dat", lambda site, number: {"weight_bits": bits, "act_bits": 9 - bits})
    loaded = load(made.save(tmp_path / "out"))
    assert torch.equal(made.run(), made.run(loaded.model))
    row = next(row for row in describe(tmp_path / "out")["layers"] if row["op"] == "linear")
    assert (row["weight_bits"], row["act_bits"]) == (bits, 9 - bits)
    assert row["codes"] == math.prod(row["shape"]) * bits // 8


def test_one_grid_a_tensor_one_grid_a_product_and_split_linears(make: Any, tmp_path: Path):
    def widths(site: Any, number: int) -> dict[str, Any]:
        split = 3 if site.name.endswith("qkv") else 1
        return {"weight_bits": 4, "act_bits": 4, "per_channel": False, "per_head": False,
                "split": split}  # fmt: skip

    for simulated in (False, True):
        made = make("dat", widths, simulated=simulated)
        folder = made.save(tmp_path / str(simulated))
        assert torch.equal(made.run(), made.run(load(folder).model))
        rows = {row["name"]: row for row in describe(folder)["layers"]}
        assert rows["layers.0.blocks.0.attn.qkv"]["parts"] == 3
        assert rows["layers.0.blocks.0.attn.qkv"]["shape"] == [96, 32]


def test_stretched_and_shifted_input_channels(make: Any, tmp_path: Path):
    made = make("one-linear")
    layer = made.model.net[0]
    assert isinstance(layer, PackedLinear)
    layer.stretch = torch.rand(6) + 0.5
    layer.shift = torch.randn(6)
    round_to_stored(made.model)
    loaded = load(made.save(tmp_path / "out"), made.float_model)
    assert torch.equal(made.run(), made.run(loaded.model))
    assert describe(tmp_path / "out")["bytes"]["input_channels"] == 2 * 6 * 2


def test_batch_norms_that_stay_keep_their_statistics(make: Any, tmp_path: Path):
    made = make("resnet-cifar", fold=False)
    loaded = load(made.save(tmp_path / "out"))
    assert torch.equal(made.run(), made.run(loaded.model))
    ours, theirs = made.model.state_dict(), loaded.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_model_is_already_what_the_file_holds(make: Any, tmp_path: Path):
    made = make("swinir", rounded=False)
    before = made.run()
    round_to_stored(made.model)
    after = made.run()
    assert not torch.equal(before, after), "half precision should show somewhere"
    round_to_stored(made.model)
    assert torch.equal(after, made.run()), "rounding twice is rounding once"
    assert torch.equal(after, made.run(load(made.save(tmp_path / "out")).model))


def test_an_unrounded_model_is_stored_as_if_it_had_been_rounded(make: Any, tmp_path: Path):
    plain, made = make("edsr", rounded=False), make("edsr")
    assert torch.equal(made.run(), made.run(load(plain.save(tmp_path / "out")).model))


def test_packed_layers_never_exist_as_floats(make: Any, tmp_path: Path):
    made = make("functional")
    loaded = load(made.save(tmp_path / "out"), made.float_model)
    assert loaded.model.net.weight.is_meta
    assert loaded.model.net.kernel.is_meta
    assert not loaded.model.net.loose.is_meta
    held = [name for name, p in loaded.model.named_parameters() if not p.is_meta]
    assert held and all(name.endswith("weight_scale") for name in held)


def test_sharing_stays_sharing(make: Any, tmp_path: Path):
    made = make("shared")
    loaded = load(made.save(tmp_path / "out"), made.float_model).model
    assert loaded.net.a is loaded.net.b is loaded.net.blocks[0][0]
    assert loaded.net.out.weight is loaded.net.words.weight
    assert describe(tmp_path / "out")["shared"] == {
        "b": "a", "blocks.0.0": "a", "out.weight": "words.weight"
    }  # fmt: skip


def test_hooks_of_the_given_instance_run(make: Any, tmp_path: Path):
    made = make("one-linear")
    seen: list[int] = []
    made.float_model[0].register_forward_hook(lambda *_: seen.append(1))
    loaded = load(made.save(tmp_path / "out"), made.float_model)
    made.run(loaded.model)
    assert seen == [1]


def test_the_same_model_gives_the_same_bytes(make: Any):
    one, two = (make("dat") for _ in range(2))
    assert encode(one.model, one.source) == encode(two.model, two.source)


def test_saving_leaves_the_model_alone(make: Any, tmp_path: Path):
    made = make("dat", rounded=False)
    before = {key: value.clone() for key, value in made.model.state_dict().items()}
    made.save(tmp_path / "out")
    assert all(torch.equal(before[key], value) for key, value in made.model.state_dict().items())


def test_loading_leaves_the_random_numbers_alone(make: Any, tmp_path: Path):
    folder = make("dat").save(tmp_path / "out")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load(folder)
    assert torch.equal(torch.rand(3), expected)


def test_save_writes_recipe_and_report(make: Any, tmp_path: Path):
    made = make("edsr")
    report = {"drop_db": math.inf, "layers": [{"sqnr_db": float("nan")}], "bits": (2, 3)}
    result = FakeResult(made.model, made.source, made.edits, report)
    save(result, tmp_path / "out", extra={"report.md": b"# Report\n"})
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "model.safetensors", "recipe.yaml", "report.json", "report.md", "manifest.json"
    }  # fmt: skip
    loaded = load(tmp_path / "out")
    assert loaded.report == {"drop_db": None, "layers": [{"sqnr_db": None}], "bits": [2, 3]}
    assert loaded.recipe == "minmax"
    assert torch.equal(made.run(), made.run(loaded.model))


def test_two_files_are_enough_to_run(make: Any, tmp_path: Path):
    made = make("edsr")
    save(FakeResult(made.model, made.source, made.edits, {"a": 1}), tmp_path / "out")
    for name in ("recipe.yaml", "report.json"):
        (tmp_path / "out" / name).unlink()
    loaded = load(tmp_path / "out")
    assert loaded.report is None
    assert torch.equal(made.run(), made.run(loaded.model))
    assert describe(tmp_path / "out")["files"]["report.json"]["state"] == "missing"


def test_packed_bytes_are_the_bytes_on_disk(make: Any, tmp_path: Path):
    made = make("dat")
    save(FakeResult(made.model, made.source, made.edits, {"a": 1}), tmp_path / "out")
    written = sum(
        (tmp_path / "out" / n).stat().st_size for n in ("model.safetensors", "manifest.json")
    )
    assert packed_bytes(made.model, made.source, made.edits, "minmax") == written
    assert describe(tmp_path / "out")["bytes"]["total"] == written


def test_describe_counts_every_byte(make: Any, tmp_path: Path):
    made = make("dat")
    found = describe(made.save(tmp_path / "out"))
    sizes = dict(found["bytes"])
    total = sizes.pop("total")
    assert sum(sizes.values()) == total
    assert {row["name"]: row["bytes"] for row in found["layers"]} == layer_bytes(made.model)
    data = sum(row["bytes"] for row in found["layers"] + found["tensors"])
    assert data == total - sizes["header"] - sizes["manifest"]
    assert found["source"]["arch"] == "dat"
    assert json.dumps(found)


def test_describe_builds_no_model(make: Any, tmp_path: Path):
    found = describe(make("attention").save(tmp_path / "out"))
    assert found["edits"] == [{"edit": "decompose", "names": ["encoder", "attention"]}]
    assert {row["op"] for row in found["layers"]} == {"linear", "matmul"}


def test_a_tiny_index_costs_little(make: Any, tmp_path: Path):
    sizes = describe(make("dat").save(tmp_path / "out"))["bytes"]
    assert sizes["header"] < 2500


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ("", "live module"),
        ("pt2", "exported program"),
        ("pickle", "foreign class"),
        ("spandrel:HAT", "foreign class"),
        ("os:system", "trust_arch"),
        ("future-net", "none of dat"),
    ],
)
def test_what_a_file_cannot_rebuild_it_says(make: Any, tmp_path: Path, arch: str, said: str):
    made = make("edsr")
    made = made._replace(source=replace(made.source, arch=arch))
    folder = made.save(tmp_path / "out")
    with pytest.raises(LoadError, match=said):
        load(folder)
    assert torch.equal(made.run(), made.run(load(folder, made.float_model).model))


def test_a_factory_is_called_only_where_it_is_trusted(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "mynet.py").write_text(
        "from bitcompress.models.edsr import EDSR\n"
        "def build(**config):\n    return EDSR(**config)\n"
        "def awkward(**config):\n"
        "    net = EDSR(**config)\n"
        "    net.total = sum(float(p.detach().sum()) for p in net.parameters())\n"
        "    return net\n"
    )
    monkeypatch.chdir(tmp_path)
    made = make("edsr")
    for factory in ("build", "awkward"):
        source = replace(made.source, arch=f"mynet:{factory}")
        folder = made._replace(source=source).save(tmp_path / factory)
        with pytest.raises(LoadError, match="trust_arch=True"):
            load(folder)
        assert torch.equal(made.run(), made.run(load(folder, trust_arch=True).model))


def test_another_model_is_refused_by_the_key(make: Any, float_model: Any, tmp_path: Path):
    made = make("convolutions")
    folder = made.save(tmp_path / "out")
    with pytest.raises(LoadError, match="folds 'norm', which the model does not have"):
        load(folder, nn.Sequential(nn.Linear(2, 2)))
    wide = float_model("convolutions")
    wide.even = nn.Conv2d(6, 5, (4, 2), padding="same")
    with pytest.raises(LoadError, match=r"'even' is \(5, 6, 4, 2\) in the model"):
        load(folder, wide)
    strided = float_model("convolutions")
    strided.last = nn.Conv2d(4, 2, 1, bias=False, stride=2)
    with pytest.raises(LoadError, match="'last' has another stride"):
        load(folder, strided)
    more = float_model("convolutions")
    more.extra = nn.Linear(3, 3)
    with pytest.raises(LoadError, match=r"the model has 'extra\.weight', the file does not"):
        load(folder, more)
    kind = float_model("convolutions")
    kind.last = nn.Linear(4, 2)
    with pytest.raises(LoadError, match="'last' is a Linear in the model and a Conv2d"):
        load(folder, kind)
    plain = float_model("convolutions")
    plain.norm = nn.Identity()
    with pytest.raises(LoadError, match="folds 'norm', which is no norm"):
        load(folder, plain)
    with pytest.raises(UsageError, match="an nn.Module is needed"):
        load(folder, "edsr")  # type: ignore[arg-type]


def test_a_float_tensor_of_another_shape_is_refused_by_the_key(make: Any, tmp_path: Path):
    made = make("shared")
    folder = made.save(tmp_path / "out")
    other = type(made.float_model)()
    other.blocks[1] = nn.LayerNorm(9)
    other.blocks[1].bias = nn.Parameter(torch.zeros(8))
    with pytest.raises(LoadError, match=r"'blocks\.1\.weight' is \(9,\) in the model and \(8,\)"):
        load(folder, other)


def test_a_model_that_holds_what_no_file_can_is_refused(make: Any, tmp_path: Path):
    made = make("one-linear")
    made.model.net[0].register_buffer("surprise", torch.zeros(3))
    with pytest.raises(UsageError, match=r"0\.surprise .* cannot be stored"):
        made.save(tmp_path / "out")
    made = make("shared")
    with torch.no_grad():
        made.model.net.words.weight[0, 0] = float("nan")
    with pytest.raises(UsageError, match=r"words\.weight holds NaN"):
        made.save(tmp_path / "out")
    made = make("one-linear")
    made.model.net[0].bias = made.model.net[0].bias / 0
    with pytest.raises(UsageError, match=r"0\.bias holds NaN or infinite"):
        made.save(tmp_path / "out")
    made = make("one-linear")
    made.model.net.double()
    with pytest.raises(UsageError, match="convert the model to float32"):
        made.save(tmp_path / "out")
    made = make("one-linear")
    source = replace(made.source, config={"activation": nn.ReLU()})
    with pytest.raises(UsageError, match="configuration of the model cannot be stored"):
        save_model(made.model, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_wholly_float_model_is_a_file_too(float_model: Any, tmp_path: Path):
    model = Rewritten(float_model("attention"))
    round_to_stored(model)
    source = Source("", {}, None, None, 1.0, "", "")
    save_model(model, source, tmp_path / "out")
    x = torch.randn(1, 3, 16)
    loaded = load(tmp_path / "out", float_model("attention"))
    with torch.no_grad():  # torch takes its fused kernel where nothing asks for a gradient
        assert torch.equal(model(x), loaded.model(x))


def test_dat_light_at_two_bits_is_seven_and_a_half_times_smaller(make: Any, tmp_path: Path):
    """The sizes of DAT-light x2; its 553,290 numbers are random, so that none is left out."""

    def widths(site: Any, number: int) -> dict[str, Any]:
        bits = 8 if site.op == "conv2d" else 2
        return {"weight_bits": bits, "act_bits": bits}

    made = make("dat-light", widths, fold=False)
    assert torch.equal(made.run(), made.run(load(made.save(tmp_path / "out")).model))
    sizes = describe(tmp_path / "out")["bytes"]
    assert sizes["total"] * 7.5 <= sum(p.numel() for p in made.float_model.parameters()) * 4
    assert sizes["header"] < 3000
