"""Tests of README.md: what it shows runs as it stands, and what it claims is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from bitcompress import errors, recipe
from bitcompress.cli import main
from bitcompress.data.images import read_image, write_image

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = [
    shlex.split(line.split("#")[0])[1:]
    for line in README.splitlines()
    if line.startswith("    bitcompress ")
]
PAGES = [README, *(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/*.md")))]
# Training and benches that are shown with their real length are cut short here.
FEW = {
    ("quantize", "--bits"): ["--set", "train.steps=2", "--set", "train.batch=1",
                 "--set", "calibration.patches=2"],
    ("bench", "kernels"): ["--repeats", "1", "--only", "encode"],
    ("bench", "model"): ["--repeats", "1", "--side", "16"],
}  # fmt: skip


def group_of(command: click.Command) -> Mapping[str, click.Command]:
    return command.commands if isinstance(command, click.Group) else {}


def test_every_command_is_shown_and_every_shown_command_exists() -> None:
    known = group_of(main)
    for words in SHOWN:
        assert words[0] in known, words
        if inside := group_of(known[words[0]]):
            assert words[1] in inside, words
    assert {words[0] for words in SHOWN} >= set(known)


@pytest.mark.parametrize("page", range(len(PAGES)))
def test_commands_named_in_running_text_exist(page: int) -> None:
    named = set(re.findall(r"`bitcompress ([a-z]+)", PAGES[page]))
    assert named <= set(group_of(main)), named - set(group_of(main))


def test_options_that_are_named_exist() -> None:
    found: set[str] = {"--help", "--version", "-h", "--nproc-per-node"}  # the last is torchrun's

    def collect(command: click.Command) -> None:
        for parameter in command.params:
            found.update(parameter.opts)
        for inner in group_of(command).values():
            collect(inner)

    collect(main)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README))
    assert named <= found, named - found


def test_the_commands_run_in_the_order_shown(
    tiny_sr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pt").write_bytes(tiny_sr.read_bytes())
    noise = np.random.default_rng(0).integers(0, 256, (36, 40, 3), dtype=np.uint8)
    write_image(tmp_path / "photo.png", noise)
    (tmp_path / "DIR").mkdir()
    write_image(tmp_path / "DIR" / "a.png", noise)
    for words in SHOWN:
        if words[0] == "binarize":  # tests/cli/test_binarize.py runs them on data of their kind
            continue
        done = CliRunner().invoke(main, [*words, *FEW.get(tuple(words[:2]), [])])
        assert done.exit_code == 0, (words, done.output)
        assert done.stdout.strip(), words
    assert read_image(tmp_path / "big.png").shape == (72, 80, 3)
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"report.json", "report.md", "report.png", "model.safetensors"} <= written


def test_the_python_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class MyModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.two(self.one(x).relu())
            return y

    import bitcompress

    few = {"train.steps": 2}
    full: Callable[..., Any] = bitcompress.quantize
    monkeypatch.setattr(bitcompress, "quantize", lambda *a, **k: full(*a, **k, overrides=few))
    monkeypatch.chdir(tmp_path)
    batches = [torch.randn(3, 6) for _ in range(2)]
    scope: dict[str, Any] = {"model": MyModel().eval(), "MyModel": MyModel, "batches": batches,
                             "example_inputs": batches[0], "x": torch.randn(5, 6)}  # fmt: skip
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(block, scope)
    with torch.no_grad():
        assert torch.equal(scope["packed"](scope["x"]), scope["result"].model(scope["x"]))
    assert scope["y"].shape == (5, 4)


def test_recipes_and_exit_codes_are_those_of_the_program() -> None:
    tables = re.findall(r"^\| (.+?) \|", README, re.MULTILINE)
    shipped = {name for cell in tables for name in re.findall(r"`([\w-]+)`", cell)}
    assert shipped == set(recipe.names(None))
    codes = {int(cell) for cell in tables if cell.isdigit()}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    raised = {kind.exit_code for kind in kinds if issubclass(kind, errors.BitcompressError)}
    assert codes == raised | {0}


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" in target or (ROOT / target).exists(), target
