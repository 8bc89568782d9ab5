"""Tests that hostile and broken files end in one sentence, run no code and leave nothing behind."""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

Cli = Callable[..., Result]
FEW = ("--bits", "3", "--quick", "--set", "train.quick_steps=2", "--set", "train.batch=1",
       "--set", "train.patch=16", "--set", "calibration.patches=2",
       "--set", "calibration.patch=16", "--threads", "1")  # fmt: skip


class Code:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.witness),)


def one_sentence(done: Result | subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert not line.startswith("error: unexpected")
    return line


def write(path: Path, content: str, good: dict[str, torch.Tensor]) -> None:
    name = "body.0.conv1.weight"
    changed = {
        "inf": {**good, name: torch.full_like(good[name], torch.inf)},
        "shape": {**good, name: torch.zeros(8, 9, 3, 3)},
        "extra": {**good, "another.weight": torch.zeros(2)},
        "text values": {**good, name: "no tensor"},
        "list": [1, 2, 3],
        "integers": {
            key: torch.zeros(value.shape, dtype=torch.long) for key, value in good.items()
        },
    }
    torch.save(changed[content], path)


@pytest.mark.parametrize("content", ["inf", "shape", "extra", "text values", "list", "integers"])
def test_tensors_that_do_not_fit(cli: Cli, checkpoint: Path, tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.pth"
    write(path, content, torch.load(checkpoint, weights_only=True)["params"])
    done = cli("quantize", path, *FEW, "-o", tmp_path / "o")
    assert done.exit_code == 3, done.output
    assert "bad.pth" in one_sentence(done)
    assert [file.name for file in tmp_path.iterdir()] == ["bad.pth"]


@pytest.mark.parametrize(
    "name", ["evil.pt", "evil.pth", "evil.ckpt", "evil.pt2", "evil.safetensors"]
)
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_that_would_run_code(
    cli: Cli, packed: Path, tmp_path: Path, name: str, how: str
) -> None:
    witness, path = tmp_path / "ran", tmp_path / name
    if how == "torch":
        torch.save({"params": Code(witness)}, path)
    else:
        path.write_bytes(pickle.dumps(Code(witness)))
    for words in (
        ["quantize", path, *FEW, "-o", tmp_path / "o"],
        ["inspect", path],
        ["analyze", path],
        ["measure", packed, "--float", path, "--data", tmp_path],
    ):
        done = cli(*words)
        assert done.exit_code == 3, done.output
        assert name in one_sentence(done)
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "content"),
    [("model.onnx", b"\x08\x07\x12\x07pytorch"), ("model.pt", b"PK\x03\x04" + bytes(40)),
     ("model.safetensors", b"\xff" * 64), ("model.pt2", b""), ("model.txt", b"hello")],
)  # fmt: skip
def test_files_of_other_kinds(cli: Cli, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    done = cli("quantize", tmp_path / name, *FEW, "-o", tmp_path / "o")
    assert done.exit_code == 3 and name in one_sentence(done)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def process(*words: object, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    def small_disk() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-m", "bitcompress", *map(str, words)],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=600,
        check=False, preexec_fn=small_disk,  # noqa: PLW1509
    )  # fmt: skip


def test_json_alone_on_stdout_and_progress_on_stderr(checkpoint: Path, tmp_path: Path) -> None:
    done = process("quantize", checkpoint, *FEW, "-o", tmp_path / "o", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["training"]["steps"] == 2
    assert "train (loss " in done.stderr and "2 of 2" in done.stderr
    assert "note: no --data" in done.stderr
    stored = json.loads((tmp_path / "o" / "report.json").read_text())
    assert stored == report


def test_a_disk_that_is_full_while_training(checkpoint: Path, tmp_path: Path) -> None:
    done = process("quantize", checkpoint, *FEW, "-o", tmp_path / "o", limit=1000)
    assert done.returncode == 2, done.stderr
    assert "train.ckpt" in one_sentence(done)
    assert not list(tmp_path.iterdir())


def test_training_that_diverges(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    wild = ["--set", "train.lr_weights=1e30", "--set", "train.quick_steps=9",
            "--set", "train.warmup=0"]  # fmt: skip
    done = cli("quantize", checkpoint, *FEW, *wild, "-o", tmp_path / "o")
    assert done.exit_code == 5, done.output
    assert "lower the learning rates" in one_sentence(done)
    assert not (tmp_path / "o").exists()


TALKATIVE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        print("forward says hello")
        return self.conv(x)

def make():
    print("factory says hello")
    return Net()
"""


def test_what_a_network_prints_stays_out_of_the_json(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "talkative_net.py").write_text(TALKATIVE)
    monkeypatch.chdir(tmp_path)
    state = {f"conv.{k}": v for k, v in torch.nn.Conv2d(3, 3, 3).state_dict().items()}
    torch.save(state, tmp_path / "m.pth")
    words = ("inspect", "m.pth", "--arch", "talkative_net:make", "--input", "x=1x3x9x9")
    done = cli(*words, "--json")
    assert done.exit_code == 0, done.output
    assert [row["name"] for row in json.loads(done.stdout)["layers"]] == ["conv"]
    assert "factory says hello" in done.stderr and "forward says hello" in done.stderr
    assert "factory says hello" in cli(*words).stdout


def test_a_packed_model_is_no_checkpoint(cli: Cli, packed: Path, tmp_path: Path) -> None:
    for path in (packed, packed / "model.safetensors"):
        done = cli("quantize", path, "--bits", "4", "-o", tmp_path / "o")
        assert done.exit_code == 3
        assert "is a packed model already: give the float checkpoint" in one_sentence(done)
    assert not (tmp_path / "o").exists()


def test_places_that_cannot_be_written_are_known_before_the_work(
    cli: Cli, checkpoint: Path, packed: Path, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    plain, out = pictures / "plain.png", tmp_path / "out"
    for words, said in (
        (("quantize", checkpoint, "-o", tmp_path / "file" / "out"), "cannot be made: .*file is a"),
        (("quantize", checkpoint, "-o", "/proc/out"), "/proc/out cannot be written"),
        (("run", packed, plain, "-o", out / "big.png"), "out is no folder; make it first"),
        (("analyze", checkpoint, "-o", out / "table.png"), "out is no folder; make it first"),
        (("analyze", checkpoint, "-o", tmp_path / "table.jpg"), r"table.jpg: .* is a \.png"),
    ):
        done = cli(*words)
        assert done.exit_code == 2
        assert re.search(said, one_sentence(done)), done.stderr
        assert "bounds" not in done.stderr and not out.exists()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [("doctor",), ("doctor", "--json")])
def test_a_full_stdout_ends_in_a_sentence(words: tuple[str, ...], unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "bitcompress", *words]
        env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=env)
    assert done.returncode == 2
    assert one_sentence(done) == "error: stdout cannot be written: No space left on device"


def test_steps_that_are_named_win_over_quick(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    words = [word for word in FEW if word != "train.quick_steps=2"]
    words[words.index("--set")] = "--quick"
    done = cli("quantize", checkpoint, *words, "--set", "train.steps=3", "-o", tmp_path / "o", "-q")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert (report["training"]["steps"], report["quick"]) == (3, True)
