"""The rows of the binary tables in docs/benchmarks.md: train, measure, keep, and render.

    python examples/binary_table.py finetune --shared ../shared     # the float ResNet-20, tuned
    python examples/binary_table.py row cifar-reactnet --shared ../shared --seed 0 --threads 2
    python examples/binary_table.py rows                            # the names of all rows
    python examples/binary_table.py table                           # JSON files -> the page

A row keeps its command, seed, machine, versions and seconds as docs/results/binary/NAME-seedN.json.
Float networks that others start from lie in build/binary/ after their own row has run.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from binary_rows import ROWS, SETUPS, Setup
from torch import nn

from bitcompress import api_binary
from bitcompress.artifact.store import jsonable
from bitcompress.data.depths import STEREO
from bitcompress.measure.binary_tables import write_tables
from bitcompress.measure.report import machine, versions
from bitcompress.models.load import load_model
from bitcompress.models.targets import builder_of
from bitcompress.progress import ProgressLine
from bitcompress.tasks import Request, Task, task_of
from bitcompress.train import FitConfig, LearnConfig, learn

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "binary"
FOLDERS = ("--shared", "--work", "--keep", "--results")
PAGE = ROOT / "docs" / "benchmarks.md"


def request_of(setup: Setup, shared: Path, net: nn.Module) -> Request:
    """What the task of a table is opened with."""
    data = Path(setup.data) if setup.data == STEREO else shared / setup.data
    return Request(
        data=data, held=shared / setup.held if setup.held else None,
        scale=setup.scale, image_range=float(getattr(net, "image_range", 1.0)), model=net,
        options=setup.options,
    )  # fmt: skip


def float_net(name: str, arguments: argparse.Namespace) -> nn.Module:
    """The float network of a row: that of its own run, its checkpoint, or a fresh one.

    Raises: SystemExit where another row has to run first.
    """
    row = ROWS[name]
    setup = SETUPS[row.setup]
    if row.start:
        kept = kept_float(row.start, arguments)
        if not kept.exists():
            sys.exit(f"{name} starts from {row.start}: run `row {row.start}` first")
        net = float_net(row.start, arguments)
        net.load_state_dict(torch.load(kept, weights_only=True))
        return net
    if setup.checkpoint:
        return load_model(arguments.shared / setup.checkpoint).model
    torch.manual_seed(arguments.seed)
    build = builder_of(setup.target)
    assert build is not None, setup.target
    return build(**setup.config | row.config).eval()


def kept_float(name: str, arguments: argparse.Namespace) -> Path:
    """Where the weights of a float row lie. One from a checkpoint is the same for all seeds."""
    seed = 0 if SETUPS[ROWS[name].setup].checkpoint else arguments.seed
    return Path(arguments.work) / f"{name}-seed{seed}.pt"


def train_float(net: nn.Module, task: Task, fit: dict[str, Any], seed: int) -> int:
    """Train a float network on a task; gives the steps."""
    steps, batch = fit["steps"], fit["batch"]
    last = fit.get("channels_last", False)
    fitted = FitConfig(
        steps=steps, seed=seed, optimizer=fit.get("optimizer", "adam"), warmup=20,
        precision=fit.get("precision", "fp32"),
    )  # fmt: skip
    config = LearnConfig(fitted, lr=fit["lr"], channels_last=last)
    if last:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    learn(
        net, lambda inputs: task.loss(net, inputs), task.batches(batch, seed), config,
        progress=ProgressLine(),
    )  # fmt: skip
    return steps


def row(arguments: argparse.Namespace) -> None:
    """Train and measure one row, and keep its figures."""
    torch.set_num_threads(arguments.threads)
    started = time.time()
    name = arguments.name
    if name not in ROWS:
        sys.exit(f"no row {name!r}; the rows are {', '.join(ROWS)}")
    chosen, setup = ROWS[name], SETUPS[ROWS[name].setup]
    net = float_net(name, arguments)
    task = task_of(request_of(setup, arguments.shared, net), setup.task)
    if not chosen.recipe:
        fit = setup.float_fit | ({"steps": arguments.steps} if arguments.steps else {})
        steps = train_float(net, task, fit, arguments.seed) if chosen.learns else 0
        for place in {Path(arguments.work), arguments.keep or Path(arguments.work)}:
            place.mkdir(parents=True, exist_ok=True)
            torch.save(net.state_dict(), place / kept_float(name, arguments).name)
        found: dict[str, Any] = {"steps": steps, "packed": task.evaluate(net)}
    else:
        overrides = setup.overrides | chosen.overrides
        if arguments.steps:
            overrides["train.steps"] = arguments.steps
        if not chosen.start:
            overrides["train.start"] = "scratch"
        result = api_binary.binarize(
            net, recipe=chosen.recipe, data=task, seed=arguments.seed, overrides=overrides,
            progress=ProgressLine(), workdir=Path(arguments.work) / f"{name}-{arguments.seed}",
            resume=True, device=arguments.device,
        )  # fmt: skip
        report = result.report
        found = {
            "steps": report["training"]["steps"], "overrides": overrides,
            **{who: report["quality"][who] for who in ("float", "binary", "packed")},
            "size": {k: v for k, v in report["size"].items() if k != "about"},
            "coverage": report["coverage"], "speed": report["speed"],
            "flipped_share": report["parity"]["flipped_share"],
        }  # fmt: skip
        if arguments.keep is not None:
            api_binary.save(result, arguments.keep, True)
    keep(arguments, {
        "row": name, "table": chosen.setup, "label": chosen.label, "metric": task.metric,
        "higher_is_better": task.higher_is_better, **found,
        "seconds": round(time.time() - started, 1),
    })  # fmt: skip


def without_folders(words: Sequence[str]) -> list[str]:
    """The words of a command without the folders of one machine, which have defaults."""
    kept, names = [], iter(words)
    for word in names:
        if word in FOLDERS:
            next(names, None)
        elif not word.startswith(tuple(f"{name}=" for name in FOLDERS)):
            kept.append(word)
    return kept


def keep(
    arguments: argparse.Namespace, found: dict[str, Any], script: str = "binary_table.py"
) -> None:
    """Write the figures of a row with what it takes to run it again."""
    arguments.results.mkdir(parents=True, exist_ok=True)
    words = without_folders(sys.argv[1:])
    whole = {
        **found, "seed": arguments.seed, "device": arguments.device,
        "command": f"python examples/{script} {shlex.join(words)}",
        "machine": machine(), "versions": versions(), "load": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    path = arguments.results / f"{found['row']}-seed{arguments.seed}.json"
    path.write_text(json.dumps(jsonable(whole), indent=1) + "\n", encoding="utf-8")
    print(path.name, found.get("packed"), f"{found['seconds']:.0f} s")


def table(arguments: argparse.Namespace) -> None:
    """Write the binary tables of docs/benchmarks.md."""
    files = sorted(RESULTS.glob("*.json"))
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(write_tables(page, rows, list(ROWS)), encoding="utf-8")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for command in ("row", "finetune"):
        one = commands.add_parser(command)
        if command == "row":
            one.add_argument("name", metavar="NAME")
        else:
            one.set_defaults(name="cifar-tuned")
        one.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
        one.add_argument("--work", type=Path, default=ROOT / "build" / "binary")
        one.add_argument("--results", type=Path, default=RESULTS)
        one.add_argument("--seed", type=int, default=0)
        one.add_argument("--steps", type=int, default=0, help="Other than the table's own.")
        one.add_argument("--threads", type=int, default=2)
        one.add_argument("--device", default="cpu")
        one.add_argument("--keep", type=Path, default=None, help="Folder for the packed model.")
        one.set_defaults(run=row)
    commands.add_parser("rows").set_defaults(run=lambda _: print("\n".join(ROWS)))
    commands.add_parser("table").set_defaults(run=table)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
