"""Tests of quantize, inspect and analyze as a user types them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import Result

from bitcompress.measure.report import problems
from bitcompress.models import MODELS
from bitcompress.recipe import Recipe

Cli = Callable[..., Result]
FAST = ("--recipe", "minmax", "--set", "calibration.patches=2", "--set", "calibration.patch=32")


def errors(done: Result) -> list[str]:
    """The error lines on stderr, of a run that ended without a traceback."""
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


def test_the_folder_and_its_report(packed: Path) -> None:
    names = {p.name for p in packed.iterdir()}
    assert names == {
        "model.safetensors", "manifest.json", "recipe.yaml", "report.json", "report.md",
        "report.png",
    }  # fmt: skip
    report = json.loads((packed / "report.json").read_text())
    assert problems(report) == []
    needed = sum((packed / n).stat().st_size for n in ("model.safetensors", "manifest.json"))
    assert report["size"]["packed_bytes"] == needed
    assert report["quality"]["packaged-held-out"]["count"] == 4
    assert report["quality"]["packaged-held-out"]["kind"] == "hr"
    assert "come with bitcompress" in report["data"]
    assert (
        report["states"] == {"packed": 6, "simulated": 0, "float": 0} or report["states"]["packed"]
    )
    assert (packed / "report.md").read_text().startswith("# EDSR at 4 bits\n")
    assert (packed / "report.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert Recipe.load(packed / "recipe.yaml").bits == 4
    assert not packed.with_name("out.work").exists()


def test_json_is_all_of_stdout(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    done = cli("quantize", checkpoint, "--bits", "3", *FAST, "-o", tmp_path / "o", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said == json.loads((tmp_path / "o" / "report.json").read_text())
    assert "note: no --data" in done.stderr and "bounds (" in done.stderr


def test_quiet_is_quiet(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    words = ["quantize", checkpoint, "--bits", "8", *FAST, "-o", tmp_path / "o"]
    assert "score" in cli(*words).stderr
    notes = cli(*words, "--overwrite", "--no-progress").stderr.splitlines()
    assert notes and all(line.startswith("note: ") for line in notes)
    done = cli(*words, "--overwrite", "-q")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "smaller" in done.stdout and "report.md" in done.stdout


@pytest.mark.parametrize("bits", ["0", "9", "two", "-1", "2.5", "", "٣"])
def test_impossible_widths(cli: Cli, checkpoint: Path, tmp_path: Path, bits: str) -> None:
    done = cli("quantize", checkpoint, f"--bits={bits}", "-o", tmp_path / "o", "--json")
    assert done.exit_code == 2
    assert errors(done) == [f"error: --bits {bits}: give a number from 2 to 8"]
    assert json.loads(done.stdout)["error"]["exit_code"] == 2
    assert not (tmp_path / "o").exists()


def test_one_bit_points_to_binarize(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    done = cli("quantize", checkpoint, "--bits", "1", *FAST, "-o", tmp_path / "o")
    assert done.exit_code == 2 and "bitcompress binarize" in errors(done)[0]
    assert not (tmp_path / "o").exists()


def test_an_output_is_needed(cli: Cli, checkpoint: Path) -> None:
    done = cli("quantize", checkpoint, "--bits", "4")
    assert done.exit_code == 2 and "--output" in errors(done)[0]


def test_an_output_that_exists(cli: Cli, checkpoint: Path, packed: Path, tmp_path: Path) -> None:
    place = tmp_path / "o"
    shutil.copytree(packed, place)
    before = (place / "manifest.json").read_bytes()
    words = ["quantize", checkpoint, "--bits", "2", *FAST, "-o", place]
    done = cli(*words)
    assert done.exit_code == 2 and "--overwrite" in errors(done)[0]
    assert (place / "manifest.json").read_bytes() == before
    done = cli(*words, "--overwrite")
    assert done.exit_code == 0, done.output
    assert json.loads((place / "report.json").read_text())["bits_asked"] == 2


def test_a_file_in_the_place_of_the_output(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "o").write_text("mine")
    done = cli("quantize", checkpoint, "--bits", "4", *FAST, "-o", tmp_path / "o", "--overwrite")
    assert done.exit_code == 2 and "is a file" in errors(done)[0]
    assert (tmp_path / "o").read_text() == "mine"


def test_a_dry_run_and_inspect_say_the_same_and_write_nothing(
    cli: Cli, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = cli("quantize", checkpoint, "--bits", "4", "--dry-run", "-o", "o", "--json")
    two = cli("inspect", checkpoint, "--bits", "4", "--json")
    assert one.exit_code == two.exit_code == 0 and one.stdout == two.stdout
    rows = {row["name"]: row for row in json.loads(one.stdout)["layers"]}
    assert (
        rows["conv_first"]["state"] == "float"
        and "first convolution" in rows["conv_first"]["reason"]
    )
    assert rows["body.0.conv1"]["weight_bits"] == 4
    assert list(tmp_path.iterdir()) == []
    text = cli("inspect", checkpoint, "--bits", "4").stdout
    assert "edsr(" in text and "first convolution" in text and "% of the multiply" in text


def test_the_ladder_of_a_model(cli: Cli, checkpoint: Path, packed: Path) -> None:
    found = json.loads(cli("inspect", checkpoint, "--bits", "4", "--ladder", "--json").stdout)
    rungs = {rung["tier"]: rung for rung in found["ladder"]}
    assert list(rungs) == ["module", "recorded", "symbolic", "exported"]
    assert all(rung["reached"] and rung["coverage"] == 1.0 for rung in rungs.values())
    assert "ladder" not in json.loads(cli("inspect", checkpoint, "--bits", "4", "--json").stdout)
    text = cli("inspect", checkpoint, "--ladder").stdout
    assert "symbolic" in text and "exported" in text
    refused = cli("inspect", packed, "--ladder")
    assert refused.exit_code == 2 and "packed folder" in errors(refused)[0]


def test_inspect_of_a_packed_folder(cli: Cli, packed: Path, tmp_path: Path) -> None:
    text = cli("inspect", packed).stdout
    total = sum((packed / n).stat().st_size for n in ("model.safetensors", "manifest.json"))
    assert "body.0.conv1" in text and f"total: {total:,} bytes" in text
    found = json.loads(cli("inspect", packed, "--json").stdout)
    assert found["source"]["arch"] == "edsr" and len(found["layers"]) == 6
    assert found["float_layers"] == []
    copy = tmp_path / "copy"
    shutil.copytree(packed, copy)
    for damage in ("[]", "{", '{"layers": [3]}'):
        (copy / "report.json").write_text(damage)
        assert cli("inspect", copy).exit_code == 0


def test_inspect_of_a_folder_that_is_none(cli: Cli, tmp_path: Path) -> None:
    done = cli("inspect", tmp_path)
    assert done.exit_code == 3 and "holds no packed model" in errors(done)[0]


def test_coverage_too_small(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    words = ["quantize", checkpoint, "--bits", "4", "--quick", "--min-coverage", "0.99"]
    done = cli(*words, "-o", tmp_path / "o", "--json")
    assert done.exit_code == 4 and "conv_last" in errors(done)[0]
    assert json.loads(done.stdout)["error"]["type"] == "CaptureError"
    assert not (tmp_path / "o").exists()
    assert cli(*words, "--dry-run").exit_code == 4


@pytest.mark.parametrize("share", ["1.5", "-0.1", "most"])
def test_impossible_coverage(cli: Cli, checkpoint: Path, share: str) -> None:
    done = cli("quantize", checkpoint, "--min-coverage", share, "--json")
    assert done.exit_code == 2 and "min-coverage" in json.loads(done.stdout)["error"]["message"]


def test_a_recipe_with_an_unknown_key(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    data = yaml.safe_load(Recipe.load("minmax").to_yaml()) | {"calibraton": {}}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(data))
    done = cli("quantize", checkpoint, "--recipe", file, "-o", tmp_path / "o")
    assert done.exit_code == 2
    assert "mine.yaml" in errors(done)[0] and "did you mean 'calibration'" in errors(done)[0]
    assert cli("recipe", "validate", file).exit_code == 2


def test_a_selector_that_matches_nothing(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    data: dict[str, Any] = yaml.safe_load(Recipe.load("minmax").to_yaml())
    data["rules"] = [{"match": {"name": "bodies.*"}, "apply": {"keep": "float"}}]
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(data))
    done = cli("quantize", checkpoint, "--recipe", file, "-o", tmp_path / "o")
    assert done.exit_code == 2
    assert "bodies.*" in errors(done)[0] and "nearest name" in errors(done)[0]
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--recipe", "defualt"], "did you mean 'default'"),
        (["--recipe", "nowhere.yaml"], "no such recipe file"),
        (["--set", "train.stepps=1"], "did you mean 'steps'"),
        (["--set", "train.steps"], "give KEY=VALUE"),
        (["--set", "train.steps=[1"], "--set train.steps=[1"),
        (["--set", "calibration.search=best"], "calibration.search"),
        (["--arch", "edrs"], "did you mean 'edsr'"),
        (["--arch", "nowhere.at.all:make"], "nowhere"),
        (["--arch-set", "num_feat"], "give KEY=VALUE"),
        (["--input", "x=1x3xx8"], "NAME=SIZExSIZE"),
        (["--input", "1x3x8x8"], "NAME=SIZExSIZE"),
        (["--input", "x=1x0x8x8"], "NAME=SIZExSIZE"),
        (["--input", "x=1x3x99999x99999"], "too many"),
        (["--target-bytes", "10"], "--target-bytes 10"),
    ],
)
def test_impossible_options(
    cli: Cli, checkpoint: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    done = cli("quantize", checkpoint, "-o", tmp_path / "o", *words)
    assert done.exit_code == 2, done.output
    assert said in errors(done)[0]
    assert not (tmp_path / "o").exists()


def test_every_mistake_of_a_recipe_has_its_line(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    data = yaml.safe_load(Recipe.load("minmax").to_yaml()) | {"one": 1, "two": 2}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    assert len(errors(cli("recipe", "validate", tmp_path / "mine.yaml"))) == 2


def test_models_that_cannot_be_read(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)["params"]
    broken = {
        "missing.pth": None,
        "empty.pth": b"",
        "text.pt": b"these are no weights\n",
        "cut.pth": checkpoint.read_bytes()[:3000],
        "nan.pth": state | {"conv_last.bias": torch.full((3,), torch.nan)},
        "unknown.pth": {"a.weight": torch.zeros(3, 3)},
        "lacking.pth": {k: v for k, v in state.items() if k != "conv_last.bias"},
    }
    for name, content in broken.items():
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        for words in (["quantize", path, "-o", tmp_path / "o"], ["inspect", path]):
            done = cli(*words)
            assert done.exit_code == 3, (name, done.output)
            assert name in errors(done)[0]
    assert not (tmp_path / "o").exists()


def test_a_device_that_is_not_there(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    done = cli("quantize", checkpoint, *FAST, "--device", "cuda", "-o", tmp_path / "o")
    assert done.exit_code == 6 and "cuda" in errors(done)[0]


def test_an_empty_folder_of_data(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    words = ["quantize", checkpoint, *FAST, "-o", tmp_path / "o"]
    for option in ("--data", "--eval"):
        done = cli(*words, option, tmp_path / "data")
        assert done.exit_code == 2 and str(tmp_path / "data") in errors(done)[0]
        done = cli(*words, option, tmp_path / "nowhere")
        assert done.exit_code == 2 and "nowhere" in errors(done)[0]
    assert not (tmp_path / "o").exists()


def test_a_broken_picture_among_good_ones(
    cli: Cli, checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    done = cli("quantize", checkpoint, *FAST, "--data", pictures, "-o", tmp_path / "o", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert "broken.png" in done.stderr and done.stderr.count("left out") == 1
    assert [name for name, _ in report["skipped"]] == ["broken.png"]
    assert report["data"] == "4 pictures of pictures"
    assert report["quality"]["pictures-held-out"]["count"] == 1


def test_pictures_smaller_than_a_patch(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    from PIL import Image

    for i in range(3):
        Image.new("RGB", (9 + i, 6), (80 * i, 10, 200)).save(tmp_path / f"{i}.png")
    done = cli("quantize", checkpoint, *FAST, "--data", tmp_path, "-o", tmp_path / "o")
    if done.exit_code:
        assert done.exit_code == 2 and "smaller" in errors(done)[0]
    else:
        assert (tmp_path / "o" / "manifest.json").exists()


def test_what_calibrates_is_not_scored(
    cli: Cli, checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    shutil.copy(pictures / "plain.png", chosen / "other-name.png")
    words = ["quantize", checkpoint, *FAST, "--data", chosen]
    done = cli(*words, "--eval", pictures, "-o", tmp_path / "o", "--json")
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)["quality"]["pictures"]
    assert figures["count"] == 4
    assert ["plain.png", "used for calibration"] in figures["skipped"]
    done = cli(*words, "--eval", chosen, "-o", tmp_path / "o2")
    assert done.exit_code == 2 and "used for calibration" in errors(done)[0]


def test_small_pictures_alone_give_fidelity(
    cli: Cli, checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    done = cli(
        "quantize", checkpoint, *FAST, "--eval", pictures, "--data-kind", "lr",
        "--data", pictures / "grey.png", "-o", tmp_path / "o", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)["quality"]["pictures"]
    assert figures["kind"] == "lr" and figures["fidelity_psnr_y"] > 20
    assert not {"float_psnr_y", "packed_psnr_y", "drop_db"} & figures.keys()


def test_sets_of_one_name_are_told_apart(
    cli: Cli, checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    for place in ("one", "two"):
        (tmp_path / place / "photos").mkdir(parents=True)
        shutil.copy(pictures / "plain.png", tmp_path / place / "photos")
    evals = [w for p in ("one", "two") for w in ("--eval", tmp_path / p / "photos")]
    done = cli("quantize", checkpoint, *FAST, *evals, "-o", tmp_path / "o", "--json")
    assert list(json.loads(done.stdout)["quality"]) == ["photos", "photos-2"]


def test_target_bytes(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    done = cli(
        "quantize", checkpoint, *FAST, "--target-bytes", "24000", "-o", tmp_path / "o", "--json"
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["size"]["packed_bytes"] <= 24000


NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.one = nn.Conv2d(3, width, 3, padding=1)
        self.two = nn.Linear(width, 3)

    def forward(self, x):
        return self.two(self.one(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

def make(width=4):
    return Net(width)
"""


def test_a_network_of_ones_own(
    cli: Cli, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_network.py").write_text(NETWORK)
    scope: dict[str, Any] = {}
    exec(NETWORK, scope)
    torch.save(scope["make"](6).state_dict(), tmp_path / "own.pt")
    words = ["quantize", "own.pt", *FAST, "--arch", "own_network:make", "--arch-set", "width=6"]
    done = cli(*words, "-o", "o", "--data", pictures)
    assert done.exit_code == 2 and "--input" in errors(done)[0]
    done = cli(*words, "-o", "o", "--input", "x=1x3x16x16")
    assert done.exit_code == 2 and "--data" in errors(done)[0]
    words += ["--input", "x=1x3x16x16", "--data", str(pictures), "-o", "o"]
    assert "two" in cli(*words, "--dry-run").stdout
    done = cli(*words, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert {row["name"]: row["state"] for row in report["layers"]} == {
        "one": "packed",
        "two": "packed",
    }
    done = cli("run", "o", pictures / "plain.png", "-o", "big.png")
    assert done.exit_code == 3 and "--arch" in errors(done)[0]
    done = cli("run", "o", pictures / "plain.png", "-o", "big.png", "--arch", "own_network:make")
    assert done.exit_code == 2 and "does not make pictures" in errors(done)[0]


def test_a_classifier_is_not_scored(cli: Cli, tmp_path: Path) -> None:
    net = MODELS["resnet-cifar"].build(blocks=[1, 1, 1], width=8)
    torch.save(net.state_dict(), tmp_path / "r.pth")
    done = cli("quantize", tmp_path / "r.pth", *FAST, "--bits", "8", "-o", tmp_path / "o")
    assert done.exit_code == 0, done.output
    assert "accuracy is not measured" in done.stderr
    done = cli("measure", tmp_path / "o", "--data", tmp_path)
    assert done.exit_code == 2 and "classifies" in errors(done)[0]


def test_analyze(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    picture = tmp_path / "map.png"
    done = cli("analyze", checkpoint, "--json", "-o", picture)
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert {row["bits"] for row in rows} == {8, 4, 3, 2}
    for name in {row["name"] for row in rows}:
        quality = {row["bits"]: row["sqnr_db"] for row in rows if row["name"] == name}
        assert quality[8] > quality[4] > quality[2]
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_nothing_to_resume_is_said(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    done = cli("quantize", checkpoint, *FAST, "--resume", "-o", tmp_path / "o")
    assert done.exit_code == 0 and "nothing to resume" in done.stderr


def test_only_our_own_state_is_tidied_away(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "o.work").mkdir()
    (tmp_path / "o.work" / "mine.txt").write_text("mine")
    few = ["--set", "train.quick_steps=1"]
    done = cli("quantize", checkpoint, "--bits", "4", "--quick", *few, "-o", tmp_path / "o")
    assert done.exit_code == 0, done.output
    assert [p.name for p in (tmp_path / "o.work").iterdir()] == ["mine.txt"]
