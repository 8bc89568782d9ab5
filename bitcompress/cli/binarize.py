"""`bitcompress binarize`: its options; what it does is in binary_job.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bitcompress.cli import options as given

TASKS = click.Choice(["auto", "classify", "sr", "segment", "depth", "diffusion"])


@click.command()
@click.argument("model", type=given.PATH, required=False)
@click.option("--recipe", required=True, metavar="NAME|FILE",
              help="The method: xnor, irnet, bireal, reactnet, bidense, bidiffsr or a file of "
              "your own; see `bitcompress recipe list`.")  # fmt: skip
@click.option("-o", "--output", type=given.PATH, metavar="FOLDER", help="Folder to write.")
@click.option("--data", type=given.PATH, metavar="DIR",
              help="Training data: a folder a class, photographs, labelled pictures.")  # fmt: skip
@click.option("--eval", "score", type=given.PATH, metavar="DIR",
              help="What to score on; a part of DIR is kept for that if not given.")  # fmt: skip
@click.option("--task", type=TASKS, default=None,
              help="What the model is for; told from model and data if not given.")  # fmt: skip
@click.option("--time-arg", metavar="NAME",
              help="The input that holds the timestep; found by name if not given.")  # fmt: skip
@click.option("--time-steps", type=click.IntRange(1), metavar="N",
              help="How many timesteps there are; the model's own if not given.")  # fmt: skip
@click.option("--from-scratch", is_flag=True,
              help="From random weights, without the float model as start or teacher.")  # fmt: skip
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE",
              help="Change a key of the recipe, e.g. train.steps=100; repeatable.")  # fmt: skip
@given.model_options
@click.option("--quick", is_flag=True, help="The recipe's few steps: to see that all is well.")
@click.option("--seed", type=int, help="Seed of batches and training; that of the recipe if not.")
@click.option("--device", default="cpu", show_default=True,
              help="Where to train: cpu, cuda or cuda:N.")  # fmt: skip
@click.option("--tensorboard", "curves", type=given.PATH, metavar="FOLDER",
              help="Write curves of the training for TensorBoard.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what each layer would become, and stop.")
@click.option("--resume", is_flag=True, help="Go on where a run that was broken off stopped.")
@click.option("--overwrite", is_flag=True, help="Replace what FOLDER holds.")
@given.json_option
@given.common_options
def binarize(model: Path | None, **options: Any) -> None:
    """Make MODEL binary: blocks of one bit in its layers' place, trained, packed and reported.

    A binary model is worth nothing before training, so this trains: from the weights of MODEL and
    with MODEL as teacher, or, where the recipe has a network of its own and no MODEL is given, that
    network from scratch. Works under `accelerate launch`, too.
    """
    from bitcompress.cli.binary_job import BinaryJob, run_binarize

    options["overrides"] = _overrides(options)
    options["example"] = given.example(options.pop("inputs"))
    options["arch_set"] = given.values(options["arch_set"], "--arch-set") or None
    progress = given.progress(options["quiet"], options.pop("no_progress"))
    run_binarize(BinaryJob(model=model, **options), progress)


def _overrides(options: dict[str, Any]) -> dict[str, Any]:
    """The keys of the recipe that options stand for; `--set` wins."""
    said = {
        "data.task": options.pop("task"),
        "blocks.time_arg": options.pop("time_arg"),
        "blocks.time_steps": options.pop("time_steps"),
    }
    return {k: v for k, v in said.items() if v is not None} | given.values(
        options.pop("sets"), "--set"
    )
