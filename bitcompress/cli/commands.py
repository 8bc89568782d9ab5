"""The commands and their options: parse, and hand over. What they do is in the files beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bitcompress.cli import options as given
from bitcompress.cli.bench import bench
from bitcompress.cli.binarize import binarize
from bitcompress.cli.group import Commands
from bitcompress.errors import UsageError

PATH = given.PATH


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bitcompress")
@click.option("-v", "--verbose", is_flag=True, expose_value=False,
              help="Show where an error came from.")  # fmt: skip
def main() -> None:
    """Make a trained torch model really small and run it packed, with an honest report.

    Exit codes: 0 done, 1 unexpected, 2 usage, recipe or data, 3 model not readable, 4 coverage,
    5 a gate failed, 6 something optional is missing, 130 interrupted (resumable).
    """


def _open(
    path: Path, arch: str | None, arch_set: tuple[str, ...], unsafe_pickle: bool
) -> tuple[Any, Any]:
    from bitcompress.api import open_source
    from bitcompress.models.load import load_model

    config = given.values(arch_set, "--arch-set") or None
    return open_source(load_model(path, arch=arch, config=config, unsafe_pickle=unsafe_pickle))


def _passed(example: dict[str, Any] | None, source: Any) -> Any:
    """Inputs as the model takes them: an exported program knows the order, not the names."""
    return tuple(example.values()) if example and source.arch == "pt2" else example


@main.command()
@click.argument("model", type=PATH)
@click.option("-o", "--output", type=PATH, metavar="FOLDER", help="Folder to write.")
@given.recipe_options
@given.model_options
@click.option("--data", type=PATH, metavar="DIR", help="Pictures to calibrate and tune on.")
@click.option("--eval", "evals", multiple=True, type=PATH, metavar="DIR",
              help="Pictures to score, never those of --data; repeatable.")  # fmt: skip
@click.option("--data-kind", type=given.KINDS, default="auto", show_default=True,
              help="What DIR holds: large pictures, small ones, or pairs.")  # fmt: skip
@click.option("--quick", is_flag=True, help="At most about 5 minutes on two cores.")
@click.option("--target-bytes", type=click.IntRange(1), metavar="N",
              help="A width for each layer, so that the file has at most N bytes.")  # fmt: skip
@click.option("--min-coverage", type=click.FloatRange(0, 1), default=0.0, metavar="SHARE",
              help="Fail (exit 4) if a smaller share of the work would run on codes.")  # fmt: skip
@click.option("--seed", type=int, help="Seed of patches and training; that of the recipe if not.")
@click.option(
    "--device", default="cpu", show_default=True, help="Where to train: cpu, cuda or cuda:N."
)
@click.option("--dry-run", is_flag=True, help="Say what each layer would become, and stop.")
@click.option("--resume", is_flag=True, help="Go on where a run that was broken off stopped.")
@click.option("--overwrite", is_flag=True, help="Replace what FOLDER holds.")
@given.json_option
@given.common_options
def quantize(**options: Any) -> None:
    """Quantize MODEL, pack it, and write it with a report to FOLDER.

    Without --quick a run of DAT-light takes up to 60 minutes on two cores at 2 bits, less at more
    bits. Without --data a small packaged set of pictures is used, and a note says so.
    """
    from bitcompress.cli.quantize import Job, run_quantize

    options["bits"] = given.bits(options["bits"])
    options["overrides"] = given.values(options.pop("sets"), "--set")
    example = given.example(options.pop("inputs"))
    net, source = _open(
        options.pop("model"), options.pop("arch"), options.pop("arch_set"),
        options.pop("unsafe_pickle"),
    )  # fmt: skip
    options["example"] = _passed(example, source)
    progress = given.progress(options["quiet"], options.pop("no_progress"))
    run_quantize(net, source, Job(**options), progress)


@main.command()
@click.argument("model", type=PATH)
@given.recipe_options
@given.model_options
@click.option("--ladder", is_flag=True,
              help="Also try symbolic tracing and torch.export, and say how far each sees the "
                   "model; takes a minute or two on a large one.")  # fmt: skip
@given.json_option
@click.option("-v", "--verbose", is_flag=True, expose_value=False,
              help="Show where an error came from.")  # fmt: skip
def inspect(model: Path, **options: Any) -> None:
    """What MODEL holds (a float file or a packed folder) and what would become of it.

    Writes nothing. For each layer: its widths, its share of the work, and why it would stay float.
    """
    from bitcompress.cli.quantize import run_inspect, run_inspect_packed

    if model.is_dir():
        if options["ladder"]:
            raise UsageError(f"{model} is a packed folder: --ladder looks at float models")
        run_inspect_packed(model, options["as_json"])
        return
    bits, sets = given.bits(options["bits"]), given.values(options["sets"], "--set")
    example = given.example(options["inputs"])
    net, source = _open(model, options["arch"], options["arch_set"], options["unsafe_pickle"])
    example = _passed(example, source)
    run_inspect(
        net, source, example, bits, options["recipe"], sets, options["as_json"],
        ladder=options["ladder"],
    )  # fmt: skip


@main.command()
@click.argument("folder", type=PATH)
@click.option("--to", "backend", type=click.Choice(["onnx", "tensorrt"]), required=True,
              help="onnx: a file for ONNX Runtime; tensorrt: plugin and engine too.")  # fmt: skip
@click.option("-o", "--output", type=PATH, metavar="FILE",
              help="File to write; model.onnx in FOLDER if not given.")  # fmt: skip
@click.option("--portable", is_flag=True,
              help="Standard operators only: needs no library, small but not faster.")  # fmt: skip
@click.option("--nudge", is_flag=True,
              help="Of --portable: whole zero points where they are near, no Add beside; says "
                   "what that costs.")  # fmt: skip
@click.option("--input", "inputs", multiple=True, metavar="NAME=1x3x64x64",
              help="Shape of an input of an unknown network, in order; repeatable.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace the file.")
@given.packed_options
@given.json_option
@given.common_options
def export(backend: str, **options: Any) -> None:
    """Write the packed model in FOLDER as a file for another runtime, checked against it."""
    from bitcompress.cli.export import run_export

    example = given.example(options.pop("inputs"))
    given.progress(options["quiet"], options.pop("no_progress"))
    run_export(backend, example=example, **options)


@main.command()
@click.argument("folder", type=PATH)
@click.argument("picture", type=PATH)
@click.option("-o", "--output", type=PATH, metavar="PICTURE|DIR",
              help="Picture to write; a folder if PICTURE is one. Classifiers print.")  # fmt: skip
@click.option("--tile", type=click.IntRange(16), default=384, show_default=True,
              help="Side of a tile in pixels.")  # fmt: skip
@click.option("--overlap", type=click.IntRange(0), default=48, show_default=True,
              help="Pixels of a tile beside each cut that are not kept.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), default=384 * 384, show_default=True,
              help="Pictures of more pixels are run in tiles.")  # fmt: skip
@given.packed_options
@given.common_options
def run(**options: Any) -> None:
    """PICTURE, or every picture of a folder, through the packed model in FOLDER.

    Super-resolution enlarges it, segmentation and depth paint what they see, a classifier prints
    the likeliest classes. FOLDER may be an exported .onnx file that enlarges.
    """
    from bitcompress.cli.pictures import run_pictures

    progress = given.progress(options["quiet"], options.pop("no_progress"))
    run_pictures(progress=progress, **options)


@main.command()
@click.argument("folder", type=PATH)
@click.option("--data", "sets", multiple=True, required=True, type=PATH, metavar="DIR",
              help="Pictures to score; repeatable.")  # fmt: skip
@click.option("--data-kind", type=given.KINDS, default="auto", show_default=True,
              help="What DIR holds: large pictures, small ones, or pairs.")  # fmt: skip
@given.packed_options
@given.json_option
@given.common_options
def measure(**options: Any) -> None:
    """Quality, size and speed of the packed model in FOLDER.

    With --float the float model is measured beside it, in the same run.
    """
    from bitcompress.cli.pictures import run_measure

    progress = given.progress(options["quiet"], options.pop("no_progress"))
    run_measure(progress=progress, **options)


@main.command()
@click.argument("model", type=PATH)
@click.option("-o", "--output", type=PATH, metavar="PICTURE", help="The table as a .png, too.")
@click.option("--data", type=PATH, metavar="DIR", help="Pictures to look at.")
@given.model_options
@given.json_option
@given.common_options
def analyze(model: Path, **options: Any) -> None:
    """How much each layer of MODEL suffers at 8, 4, 3 and 2 bits."""
    from bitcompress.cli.quantize import run_analyze

    example = given.example(options.pop("inputs"))
    net, source = _open(
        model, options.pop("arch"), options.pop("arch_set"), options.pop("unsafe_pickle")
    )
    progress = given.progress(options.pop("quiet"), options.pop("no_progress"))
    run_analyze(net, source, _passed(example, source), progress=progress, **options)


main.add_command(bench)


@main.group()
def recipe() -> None:
    """List, show and check recipes."""


@recipe.command("list")
def recipe_list() -> None:
    """The recipes that ship."""
    from bitcompress.recipe import BinaryRecipe, load_any, names

    for name in names(None):
        loaded = load_any(name)
        mark = "binarize: " if isinstance(loaded, BinaryRecipe) else ""
        click.echo(f"{name:<16}{mark}{loaded.metadata.description}")


@recipe.command("show")
@click.argument("name")
def recipe_show(name: str) -> None:
    """A recipe, shipped or a file, with every key filled in."""
    from bitcompress.recipe import load_any

    click.echo(load_any(name).to_yaml(), nl=False)


@recipe.command("validate")
@click.argument("file")
def recipe_validate(file: str) -> None:
    """Check a recipe file."""
    from bitcompress.recipe import load_any

    click.echo(f"{file}: a valid recipe, {load_any(file).metadata.name}")


@main.command()
@given.json_option
def doctor(as_json: bool) -> None:
    """What is installed, what this machine can do, and what is missing for what."""
    from bitcompress.cli import shown
    from bitcompress.doctor import examine

    found = examine()
    if as_json:
        shown.as_json(found)
    else:
        shown.health(found)


main.add_command(binarize)
