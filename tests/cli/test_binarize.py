"""Tests of `bitcompress binarize`: a tiny checkpoint all the way, and every bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import bitcompress
from bitcompress.cli import main
from bitcompress.data.images import read_image, write_image
from bitcompress.models import MODELS

Cli = Callable[..., Result]
FEW = ("--set", "train.steps=3", "--set", "train.batch=4", "--set", "train.settle_batches=1",
       "--threads", "1", "-q")  # fmt: skip


def classifier(width: int = 16) -> torch.nn.Module:
    """A residual network of 7 layers, fresh weights."""
    torch.manual_seed(0)
    return MODELS["resnet-cifar"].build(blocks=(1, 1, 1), width=width, classes=2)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier as a file."""
    path = tmp_path_factory.mktemp("small") / "small.pth"
    torch.save(classifier().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright and dark pictures, a folder each."""
    folder = tmp_path_factory.mktemp("labelled")
    random = np.random.default_rng(0)
    for label, low in (("bright", 128), ("dark", 0)):
        (folder / label).mkdir()
        for number in range(10):
            pixels = random.integers(low, low + 128, (32, 32, 3)).astype(np.uint8)
            write_image(folder / label / f"{number}.png", pixels)
    return folder


@pytest.fixture(scope="module")
def binary(small: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run."""
    out = tmp_path_factory.mktemp("binary") / "out"
    words = ["binarize", "--recipe", "reactnet", small, "--data", labelled, *FEW, "-o", out]
    done = CliRunner().invoke(main, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return out


def sentence(done: Result, code: int) -> str:
    """The one line of an error, whose exit code is as it should be."""
    assert done.exit_code == code, done.output
    other = ("note: ", "open model and data")
    lines = [line for line in done.stderr.splitlines() if not line.startswith(other)]
    (line,) = lines
    assert line.startswith("error: ") and not line.startswith("error: unexpected")
    return line


def test_a_classifier_goes_all_the_way(binary: Path, labelled: Path, cli: Cli) -> None:
    report = json.loads((binary / "report.json").read_text())
    assert report["kind"] == "binarize" and report["states"]["packed"] >= 6
    for row in report["layers"]:
        assert row["became"] if row["state"] == "packed" else row["reason"], row
    inner = [row for row in report["layers"] if row["state"] == "packed"]
    assert all(row["stored_bytes"] < row["float_bytes"] for row in inner)
    assert all(row["float_ms"] > 0 and row["packed_ms"] > 0 for row in inner)
    assert report["parity"]["flipped_share"] == 0 and report["parity"]["bits"] > 0
    quality = report["quality"]
    assert quality["binary"] == quality["packed"] and "top1" in quality["float"]
    assert report["size"]["paper_params"] < report["size"]["float_params"]
    page = (binary / "report.md").read_text()
    assert "first layer" in page and "| packed" in page
    assert (binary / "report.png").read_bytes().startswith(b"\x89PNG")


def test_the_folder_holds_the_model_that_was_measured(binary: Path) -> None:
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    one, two = bitcompress.load(binary).model, bitcompress.load(binary, classifier()).model
    with torch.no_grad():
        assert torch.equal(one(x), two(x)) and one(x).shape == (3, 2)


def test_run_prints_the_classes(binary: Path, labelled: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("run", binary, labelled / "dark" / "0.png")
    assert done.exit_code == 0, done.output
    assert "dark" in done.stdout and "%" in done.stdout


def test_a_dry_run_says_what_becomes_of_each_layer(small: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli("binarize", "--recipe", "bidense", small, "--dry-run")
    assert done.exit_code == 0, done.output
    assert "first layer" in done.stdout and "layer2.0.conv1" in done.stdout
    rows = json.loads(cli("binarize", "--recipe", "xnor", small, "--dry-run", "--json").stdout)[
        "layers"
    ]
    assert {row["state"] for row in rows} == {"packed", "float"}


def test_super_resolution(checkpoint: Path, tmp_path: Path, cli: Cli) -> None:
    photos, random = tmp_path / "photos", np.random.default_rng(0)
    photos.mkdir()
    for number in range(3):
        write_image(photos / f"{number}.png", random.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    done = cli("binarize", "--recipe", "bidense", checkpoint, "--data", photos, *FEW,
               "--set", "blocks.min_channels=8", "--set", "data.options={patch: 32}",
               "-o", tmp_path / "o", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    quality = json.loads(done.stdout)["quality"]
    assert quality["packed"]["psnr_y"] == pytest.approx(quality["binary"]["psnr_y"], abs=0.01)
    done = cli("run", tmp_path / "o", photos / "0.png", "-o", tmp_path / "big.png")
    assert done.exit_code == 0 and read_image(tmp_path / "big.png").shape == (128, 128, 3)


def test_bad_recipes(small: Path, labelled: Path, tmp_path: Path, cli: Cli) -> None:
    common = [small, "--data", labelled, *FEW, "-o", tmp_path / "o"]
    assert "did you mean 'reactnet'" in sentence(cli("binarize", "--recipe", "reactnt", *common), 2)
    said = sentence(cli("binarize", "--recipe", "default", *common), 2)
    assert "a recipe of `bitcompress quantize`" in said and "reactnet" in said
    said = sentence(cli("binarize", "--recipe", "xnor", *common, "--set", "train.stepz=3"), 2)
    assert "did you mean 'steps'" in said
    assert "no target of its own" in sentence(
        cli("binarize", "--recipe", "xnor", "-o", tmp_path / "o"), 2
    )
    said = sentence(cli("binarize", "--recipe", "xnor", *common, "--set", "blocks.keep=[nose]"), 2)
    assert "'nose' matches none" in said
    assert not list(tmp_path.iterdir())


def test_a_recipe_that_needs_a_timestep(
    small: Path, labelled: Path, tmp_path: Path, cli: Cli
) -> None:
    words = ["--data", labelled, "--task", "classify", *FEW, "-o", tmp_path / "o"]
    said = sentence(cli("binarize", "--recipe", "bidiffsr", small, *words), 2)
    assert "no timestep" in said and "time_arg" in said
    said = sentence(cli("binarize", "--recipe", "bidiffsr", small, *words, "--time-arg", "when"), 2)
    assert "'when'" in said and not list(tmp_path.iterdir())


def test_a_model_with_nothing_to_make_binary(labelled: Path, tmp_path: Path, cli: Cli) -> None:
    torch.save(classifier(width=2).state_dict(), tmp_path / "thin.pth")
    words = [tmp_path / "thin.pth", "--data", labelled, *FEW, "-o", tmp_path / "o"]
    said = sentence(cli("binarize", "--recipe", "reactnet", *words), 4)
    assert "no layer becomes a block" in said and "channels" in said


def test_bad_data(small: Path, labelled: Path, tmp_path: Path, cli: Cli) -> None:
    empty, plain = tmp_path / "empty", tmp_path / "plain"
    empty.mkdir()
    plain.mkdir()
    write_image(plain / "a.png", np.zeros((32, 32, 3), dtype=np.uint8))
    for folder, word in ((empty, "no picture"), (plain, "label"), (tmp_path / "gone", "no such")):
        words = [
            "binarize",
            "--recipe",
            "xnor",
            small,
            "--data",
            folder,
            *FEW,
            "-o",
            tmp_path / "o",
        ]
        assert word in sentence(cli(*words), 2), folder
    assert "--data" in sentence(cli("binarize", "--recipe", "xnor", small, "-o", tmp_path / "o"), 2)
    assert not (tmp_path / "o").exists()


def test_a_loss_that_is_no_number_any_more(
    small: Path, labelled: Path, tmp_path: Path, cli: Cli
) -> None:
    words = ["binarize", "--recipe", "reactnet", small, "--data", labelled, *FEW]
    done = cli(*words, "--set", "train.steps=20", "--set", "train.save_every=1",
               "--set", "train.lr=1e38", "-o", tmp_path / "o")  # fmt: skip
    said = sentence(done, 5)
    assert " at step " in said and "train.lr" in said and "last checkpoint is kept" in said
    assert not (tmp_path / "o").exists()


def test_the_output_folder_is_looked_at_first(binary: Path, small: Path, cli: Cli) -> None:
    done = cli("binarize", "--recipe", "xnor", small, "--data", "nowhere", "-o", binary)
    assert "exists already" in sentence(done, 2)


LONG = ("--set", "train.steps=200", "--set", "train.save_every=2", "--set", "train.batch=4",
        "--set", "train.settle_batches=1", "--threads", "1", "-q")  # fmt: skip


@pytest.mark.slow
def test_broken_off_and_resumed_gives_the_same_file(
    small: Path, labelled: Path, tmp_path: Path, cli: Cli
) -> None:
    words = ["binarize", "--recipe", "reactnet", small, "--data", labelled, *LONG]
    assert cli(*words, "-o", tmp_path / "whole").exit_code == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "bitcompress", *map(str, words), "-o", str(tmp_path / "o")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    state, deadline = tmp_path / "o.work" / "train.ckpt", time.monotonic() + 100
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume" in err
    again = [*words, "-o", tmp_path / "o", "--resume"]
    other = ["binarize", "--recipe", "xnor", *again[3:]]
    assert "another model, recipe, data or seed" in sentence(cli(*other), 3)
    assert cli(*again).exit_code == 0
    files = [tmp_path / name / "model.safetensors" for name in ("whole", "o")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not state.parent.exists()


# Without --multi_gpu, accelerate starts one process on a CPU; where there is no GPU, and
# ACCELERATE_USE_CPU says so, that flag starts as many CPU processes as asked.
LAUNCHERS = {
    "accelerate": (
        "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no",
    ),
    "torchrun": ("torch.distributed.run", "--nproc-per-node", "2", "--standalone"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes(launcher: str, small: Path, labelled: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *LAUNCHERS[launcher],
         "-m", "bitcompress", "binarize", "--recipe", "reactnet", str(small),
         "--data", str(labelled), *FEW, "-o", str(tmp_path / "o")],
        capture_output=True, text=True, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
                          "ACCELERATE_USE_CPU": "true"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["training"]["processes"] == 2
