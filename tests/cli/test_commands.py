"""Tests of what the commands promise: help, recipes, doctor, and whole processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from bitcompress import api
from bitcompress.cli import main
from bitcompress.recipe import names

Cli = Callable[..., Result]
GOLDEN = Path(__file__).parents[1] / "golden" / "help.txt"
COMMANDS = (
    "quantize", "inspect", "run", "measure", "analyze", "bench", "recipe", "doctor", "binarize",
)  # fmt: skip
SUB_COMMANDS = [
    [],
    *([c] for c in COMMANDS),
    *(["recipe", c] for c in ("list", "show", "validate")),
    *(["bench", c] for c in ("kernels", "model")),
]


def all_help() -> str:
    parts = []
    for words in SUB_COMMANDS:
        done = CliRunner().invoke(main, [*words, "--help"], prog_name="bitcompress",
                                  terminal_width=100)  # fmt: skip
        assert done.exit_code == 0
        parts.append(f"$ bitcompress {' '.join([*words, '--help'])}\n{done.stdout}")
    return "\n".join(parts)


def test_help_is_as_agreed() -> None:
    """To change help on purpose: python tests/cli/test_commands.py"""
    written = GOLDEN.read_text(encoding="utf-8")
    assert all_help().split() == written.split()


def test_help_is_quick() -> None:
    program = (
        "import sys; from bitcompress.cli import main\n"
        "try: main(['quantize', '--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_version(cli: Cli) -> None:
    from importlib.metadata import version

    assert version("bitcompress") in cli("--version").stdout


def test_recipes(cli: Cli, tmp_path: Path) -> None:
    listed = cli("recipe", "list").stdout
    assert [line.split()[0] for line in listed.splitlines()] == names(None)
    shown = cli("recipe", "show", "default")
    (tmp_path / "mine.yaml").write_text(shown.stdout)
    assert "a valid recipe" in cli("recipe", "validate", tmp_path / "mine.yaml").stdout
    done = cli("recipe", "show", "defualt")
    assert done.exit_code == 2 and "did you mean 'default'" in done.stderr


def test_doctor(cli: Cli) -> None:
    found = json.loads(cli("doctor", "--json").stdout)
    assert found["versions"]["torch"] == torch.__version__
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert found["native"]["ok"] or found["native"]["reason"]
    assert all("pip install" in entry["install"] for entry in found["optional"].values())
    text = cli("doctor").stdout
    assert "native kernels: " in text and "matplotlib: " in text


def run(*words: object, **named: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "bitcompress", *map(str, words)],
        capture_output=True, text=True, env=environment, timeout=120, **named,  # type: ignore[call-overload]
    )  # fmt: skip


TRAINED = ("--bits", "3", "--set", "train.steps=300", "--set", "train.save_every=5",
           "--set", "train.batch=2", "--set", "train.patch=16", "--set", "calibration.patches=2",
           "--set", "calibration.patch=16", "--threads", "1", "-q")  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a run that nothing stopped."""
    output = tmp_path_factory.mktemp("unbroken") / "o"
    words = ["quantize", str(checkpoint), *TRAINED, "-o", str(output)]
    assert CliRunner().invoke(main, words).exit_code == 0
    return (output / "model.safetensors").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_broken_off_and_resumed_gives_the_same_file(
    cli: Cli, checkpoint: Path, unbroken: bytes, tmp_path: Path, number: signal.Signals
) -> None:
    words = ["quantize", str(checkpoint), *TRAINED, "-o", str(tmp_path / "o")]
    process = subprocess.Popen(
        [sys.executable, "-m", "bitcompress", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    state, deadline = tmp_path / "o.work" / "train.ckpt", time.monotonic() + 100
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert out == ""
    if number == signal.SIGINT:
        assert process.returncode == 130, err
        assert err.startswith("error: interrupted after step ") and "--resume" in err
    else:
        assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "o").exists() and state.exists()
    done = cli(*words, "--resume", "--set", "train.lr_bounds=0.1")
    assert done.exit_code == 3 and "another model, recipe, data or seed" in done.stderr
    done = cli(*words, "--resume")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "o" / "model.safetensors").read_bytes() == unbroken
    assert not state.parent.exists()


def test_a_full_disk_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    program = (
        "import resource, signal, sys; from bitcompress.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "sys.modules['matplotlib'] = None  # would write a cache of its own\n"
        "main(sys.argv[1:])"
    )
    words = ["--recipe", "minmax", "--threads", "1", "-q", "-o", str(tmp_path / "o")]
    done = subprocess.run(
        [sys.executable, "-c", program, "quantize", str(checkpoint), *words],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr
    assert not (tmp_path / "o").exists() or list((tmp_path / "o").iterdir()) == []


def test_a_reader_that_leaves(packed: Path) -> None:
    words = f"{sys.executable} -m bitcompress recipe show default | head -n 1"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True)
    assert done.stdout.startswith("schema_version") and done.stderr == ""


def test_the_file_of_one_process_runs_in_another(packed: Path, pictures: Path) -> None:
    done = run("run", packed, pictures / "plain.png", "-o", pictures / "big.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert api.load(packed).source.scale == 2


if __name__ == "__main__":
    GOLDEN.write_text(all_help(), encoding="utf-8")
