"""Options that commands share, and what their text means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bitcompress.errors import RecipeError, UsageError

Command = Callable[..., Any]
PATH = click.Path(path_type=Path)
KINDS = click.Choice(["auto", "hr", "lr", "pairs"])
MAX_NUMBERS = 1 << 28
"""An --input beyond this many numbers is a slip of the finger."""


def _all(*options: Command) -> Command:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


model_options = _all(
    click.option("--arch", metavar="PKG.MOD:FACTORY",
                 help="Builds your own network; MODEL holds its state dict."),
    click.option("--arch-set", multiple=True, metavar="KEY=VALUE",
                 help="An argument of the network's factory; repeatable."),
    click.option("--input", "inputs", multiple=True, metavar="NAME=1x3x64x64",
                 help="Shape of an input of an unknown network, in order; repeatable."),
    click.option("--unsafe-pickle", is_flag=True,
                 help="Read a whole pickled model. A pickle can run any code when it is loaded: "
                 "only for files that you trust as you trust a program."),
)  # fmt: skip
"""What the model is."""

recipe_options = _all(
    click.option("--bits", metavar="N", help="2 to 8 bits for weights and activations."),
    click.option("--recipe", default="default", metavar="NAME|FILE", show_default=True,
                 help="The method; see `bitcompress recipe list`."),
    click.option("--set", "sets", multiple=True, metavar="KEY=VALUE",
                 help="Change a key of the recipe, e.g. train.steps=100; repeatable."),
)  # fmt: skip
"""What becomes of it."""

packed_options = _all(
    click.option("--float", "float_file", type=PATH, metavar="MODEL",
                 help="The float file that FOLDER was made from."),
    click.option("--arch", metavar="PKG.MOD:FACTORY", help="Builds your own network."),
    click.option("--unsafe-pickle", is_flag=True, help="Read a whole pickled MODEL; see quantize."),
)  # fmt: skip
"""What a packed model of a network that is not known needs beside its folder."""

json_option = click.option("--json", "as_json", is_flag=True, help="Figures as JSON on stdout.")


def _set_threads(ctx: click.Context, option: click.Parameter, value: int | None) -> None:
    if value is not None:
        import torch

        torch.set_num_threads(value)


progress_options = _all(
    click.option("--no-progress", is_flag=True, help="No progress on stderr."),
    click.option("-q", "--quiet", is_flag=True, help="No progress and no notes on stderr."),
    click.option("-v", "--verbose", is_flag=True, expose_value=False,
                 help="Show where an error came from."),
)  # fmt: skip
"""How much is said on stderr."""

common_options = _all(
    click.option("--threads", type=click.IntRange(1), expose_value=False, callback=_set_threads,
                 help="Threads of torch and of the packed operators."),
    progress_options,
)  # fmt: skip
"""What every command that takes a while has."""


def bits(text: str | None) -> int | None:
    """The width that --bits means; 1 is let through, so that the answer to it is the API's own."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 8:
        raise UsageError(f"--bits {text}: give a number from 2 to 8")
    return int(text)


def values(pairs: tuple[str, ...], option: str) -> dict[str, Any]:
    """KEY=VALUE pairs, values read as YAML."""
    import yaml

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"{option} {pair}: give KEY=VALUE")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RecipeError(f"{option} {pair}: {error}") from error
    return found


def example(inputs: tuple[str, ...]) -> dict[str, Any] | None:
    """Seeded inputs of the shapes given, by name; None where none are."""
    if not inputs:
        return None
    import torch

    generator, found = torch.Generator().manual_seed(0), {}
    for pair in inputs:
        name, equals, shape = pair.partition("=")
        sizes = [int(s) if s.isascii() and s.isdigit() else 0 for s in shape.split("x")]
        if not equals or not name or min(sizes) < 1:
            raise UsageError(f"--input {pair}: give NAME=SIZExSIZE..., e.g. x=1x3x64x64")
        if _product(sizes) > MAX_NUMBERS:
            raise UsageError(f"--input {pair}: these are too many numbers")
        found[name] = torch.rand(*sizes, generator=generator)
    return found


def _product(sizes: list[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def progress(quiet: bool, no_progress: bool) -> Any:
    """The progress of a command on stderr, closed with the command; None where it is unwanted."""
    if quiet or no_progress:
        return None
    from bitcompress.progress import ProgressLine

    line = ProgressLine()
    click.get_current_context().call_on_close(line.close)
    return line
