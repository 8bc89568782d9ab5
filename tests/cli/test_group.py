"""Tests of how commands end: exit codes, error lines, JSON, tracebacks, interrupts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from bitcompress import api, errors

Cli = Callable[..., Result]


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*args: Any, **named: Any) -> None:
        raise error

    monkeypatch.setattr(api, "inspect", fail)
    monkeypatch.setattr(api, "quantize", fail)


KINDS = [
    (errors.BitcompressError, 1),
    (errors.UsageError, 2),
    (errors.RecipeError, 2),
    (errors.DataError, 2),
    (errors.OutputError, 2),
    (errors.LoadError, 3),
    (errors.CaptureError, 4),
    (errors.GateError, 5),
    (errors.Unavailable, 6),
    (errors.Interrupted, 130),
]


@pytest.mark.parametrize(("kind", "code"), KINDS)
def test_every_error_has_its_code(
    cli: Cli,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[errors.BitcompressError],
    code: int,
) -> None:
    fail_with(monkeypatch, kind("the thing is wrong: do that"))
    done = cli("inspect", checkpoint)
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr == "error: the thing is wrong: do that\n"
    done = cli("inspect", checkpoint, "--json")
    assert json.loads(done.stdout) == {
        "error": {
            "type": kind.__name__,
            "message": "the thing is wrong: do that",
            "exit_code": code,
        }
    }


def test_what_nobody_foresaw(cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ZeroDivisionError("by zero"))
    done = cli("inspect", checkpoint)
    assert done.exit_code == 1
    assert done.stderr == (
        "error: unexpected ZeroDivisionError: by zero (-v shows where; please report it)\n"
    )


@pytest.mark.parametrize("before", [True, False])
def test_verbose_shows_where(
    cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    fail_with(monkeypatch, ZeroDivisionError("by zero"))
    words = ["-v", "inspect", checkpoint] if before else ["inspect", checkpoint, "-v"]
    done = cli(*words)
    assert done.exit_code == 1 and "Traceback" in done.stderr and "fail_with" not in done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: unexpected ZeroDivisionError")


def test_interrupts_say_how_to_go_on(
    cli: Cli, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    done = cli("quantize", checkpoint, "-q", "-o", tmp_path / "o")
    assert done.exit_code == 130 and "--resume" in done.stderr
    done = cli("inspect", checkpoint)
    assert (done.exit_code, done.stderr) == (130, "error: interrupted\n")


@pytest.mark.parametrize(
    "words",
    [["quantise"], ["inspect"], ["inspect", "a", "b"], ["inspect", "a", "--nothing"], ["--no"]],
)
def test_wrong_words(cli: Cli, words: list[str]) -> None:
    done = cli(*words)
    assert done.exit_code == 2 and "Usage: " in done.stderr and done.stdout == ""


def test_wrong_words_with_json(cli: Cli) -> None:
    done = cli("inspect", "--nothing", "--json")
    assert done.exit_code == 2
    assert "--nothing" in json.loads(done.stdout)["error"]["message"]


def test_binarize_needs_a_recipe(cli: Cli) -> None:
    done = cli("binarize", "model.pt")
    assert done.exit_code == 2 and "--recipe" in done.stderr
