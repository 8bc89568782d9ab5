"""Speed and counts of binary networks with random weights: rows of docs/benchmarks.md.

    python examples/binary_speed.py edsr-64 --threads 1
    python examples/binary_speed.py bidiffsr --threads 1
    python examples/binary_table.py table

Nothing is trained, so nothing is said about quality. Float is the faster of channels first and
channels last; float and packed take turns in one process, after the program of the packed model has
been proved. Counts are those of papers (float + binary / 32 and / 64), from the blocks themselves.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import binary_table
import torch
from torch import Tensor, nn

from bitcompress import walk_binary
from bitcompress.artifact import Source, packed_bytes
from bitcompress.blocks import insert_blocks, pack_blocks
from bitcompress.measure.accounting import account
from bitcompress.measure.clock import Contender, take_turns
from bitcompress.measure.cost import float_bytes
from bitcompress.models.targets import builder_of
from bitcompress.recipe import BinaryRecipe


@dataclass(frozen=True)
class Case:
    """A network, its recipe and the size that it is timed at."""

    label: str
    arch: str
    recipe: str
    side: int
    config: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)


EDSR = {"num_feat": 64, "num_block": 16, "upscale": 2}
CASES = {
    "edsr-64": Case("EDSR 16 blocks x2, reactnet", "edsr", "reactnet", 64, EDSR),
    "edsr-128": Case("EDSR 16 blocks x2, reactnet", "edsr", "reactnet", 128, EDSR),
    "edsr-bidense-128": Case("EDSR 16 blocks x2, bidense", "edsr", "bidense", 128, EDSR),
    "edsr-direct-128": Case("edsr-direct 4 blocks x2, bidense", "edsr-direct", "bidense", 128),
    "bidiffsr": Case("BI-DiffSR, paper size, one step", "bidiffsr", "bidiffsr", 256),
    "bidiffsr-tiny": Case("BI-DiffSR tiny, one step", "bidiffsr-tiny", "bidiffsr", 256),
}


def inputs_of(net: nn.Module, side: int) -> tuple[Tensor, ...]:
    """A picture, or a noisy one with its condition and timestep."""
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    return (x, x.clone(), torch.tensor([700])) if hasattr(net, "time_steps") else (x,)


def run(name: str, arguments: argparse.Namespace) -> None:
    """Pack, time and count one case, and keep the figures."""
    torch.set_num_threads(arguments.threads)
    case, started = CASES[name], time.time()
    recipe = BinaryRecipe.load(case.recipe).set({"train.start": "scratch"} | case.overrides)
    torch.manual_seed(arguments.seed)
    build = builder_of(case.arch)
    assert build is not None
    net = build(**case.config).eval()
    inputs = inputs_of(net, case.side)
    planned = walk_binary.plan(net, inputs, recipe)
    model = insert_blocks(planned)
    pack_blocks(model)
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    turned = [x.to(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs]
    with torch.no_grad():
        for _ in range(4):
            model(*inputs)
        times = take_turns(
            [
                Contender("first", partial(net, *inputs)),
                Contender("last", partial(last, *turned)),
                Contender("packed", partial(model, *inputs)),
            ],
            repeats=arguments.repeats, seconds=120.0,
        )  # fmt: skip
    best = {who: 1000 * taken.best for who, taken in times.items()}
    counts = account(model, *inputs)
    whole = account(net, *inputs)
    source = Source(case.arch, case.config, None, None, 1.0, "", "")
    stored = packed_bytes(model, source, planned.edits, recipe.metadata.name)
    real = float_bytes(net)
    full = min(best["first"], best["last"])
    binary_table.keep(arguments, {
        "row": f"speed-{name}-t{arguments.threads}", "table": "speed", "label": case.label,
        "speed": {
            "input": [list(x.shape) for x in inputs], "threads": arguments.threads,
            "float_ms": full, "first_ms": best["first"], "last_ms": best["last"],
            "packed_ms": best["packed"], "ratio": full / best["packed"],
        },
        "size": {
            "float_bytes": real, "packed_bytes": stored, "ratio": real / stored,
            "paper_params": counts.parameters, "paper_ops": counts.ops,
            "float_params": whole.parameters, "float_ops": whole.ops,
        },
        "seconds": round(time.time() - started, 1),
    }, "binary_speed.py")  # fmt: skip
    print(
        f"{name}: {full:.1f} ms float, {best['packed']:.1f} ms packed: {full / best['packed']:.2f}x"
    )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name", choices=CASES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--results", type=Path, default=binary_table.RESULTS)
    arguments = parser.parse_args()
    arguments.device = "cpu"
    run(arguments.name, arguments)


if __name__ == "__main__":
    main()
