"""One exported model three ways: torch in float32, packed in torch, and the file in ONNX Runtime.

    python examples/ort_speed.py run swinir-light-x2 --checkpoint swinir.pth --packed swinir-w2/ \
        --side 64 --side 256             # swinir-w2/model.onnx -> docs/results/ort/NAME.json
    python examples/ort_speed.py table   # docs/results/ort/*.json as a table for docs/benchmarks.md

All on one thread, in turns, each the best of several runs. Times are processor time of the process,
which on one thread is the time of a quiet machine, also where others use the machine meanwhile; the
best time by the clock is kept beside it. The packed model runs as the program that it becomes when
a size comes again; the float model once with channels first and once with channels last, and the
faster counts. Outputs of the file and of the packed model are compared bit for bit.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bitcompress
from bitcompress.backends.session import ort_session
from bitcompress.measure.report import machine
from bitcompress.models.load import load_model

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "ort"
WARM = 4
"""Runs before any is timed: the program is made and checked in them."""


def best(ways: Mapping[str, tuple[Callable[[], Any], int]]) -> dict[str, dict[str, float]]:
    """The least processor and clock time of each way in ms, taken in turns."""
    made = {name: {"cpu_ms": float("inf"), "ms": float("inf")} for name in ways}
    for run, _ in ways.values():
        for _ in range(WARM if len(ways) > 2 else 1):
            run()
    for turn in range(max(count for _, count in ways.values())):
        for name, (run, count) in ways.items():
            if turn >= count:
                continue
            clock, spent = time.perf_counter(), time.process_time()
            run()
            spent, clock = time.process_time() - spent, time.perf_counter() - clock
            made[name]["cpu_ms"] = min(made[name]["cpu_ms"], spent * 1e3)
            made[name]["ms"] = min(made[name]["ms"], clock * 1e3)
    return made


def row(arguments: argparse.Namespace, side: int) -> dict[str, Any]:
    """One size of pictures."""
    net = load_model(arguments.checkpoint).model.eval()
    packed = bitcompress.load(arguments.packed)
    session = ort_session(arguments.packed / "model.onnx", threads=1)
    span = packed.source.image_range
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * span
    last = x.contiguous(memory_format=torch.channels_last)
    feed = {session.get_inputs()[0].name: x.numpy()}

    def file() -> Tensor:
        return torch.from_numpy(session.run(None, feed)[0])

    with torch.no_grad():
        for _ in range(WARM):
            y = packed.model(x)
        made = best({
            "torch_packed": (lambda: packed.model(x), arguments.repeats),
            "ort": (file, arguments.repeats),
            "torch_fp32": (lambda: net(x), arguments.float_repeats),
        })  # fmt: skip
        same = bool(torch.equal(file(), y))
        net = net.to(memory_format=torch.channels_last)
        turned = best({"fp32": (lambda: net(last), arguments.float_repeats)})["fp32"]
    if turned["cpu_ms"] < made["torch_fp32"]["cpu_ms"]:
        made["torch_fp32"] = turned
    return {"side": side, "same_bits": same, **made}


def run(arguments: argparse.Namespace) -> None:
    """Time a model and keep the figures as a JSON file."""
    torch.set_num_threads(1)
    kept = {
        "model": arguments.name, "machine": machine(), "threads": 1,
        "repeats": arguments.repeats, "float_repeats": arguments.float_repeats,
        "date": time.strftime("%Y-%m-%d"), "rows": [row(arguments, s) for s in arguments.side],
    }  # fmt: skip
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{arguments.name}.json"
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(*table_rows(kept), sep="\n")


def table_rows(kept: Mapping[str, Any]) -> list[str]:
    """The rows of a model in the table."""
    made = []
    for found in kept["rows"]:
        ms = {way: found[way]["cpu_ms"] for way in ("torch_fp32", "torch_packed", "ort")}
        cells = [
            kept["model"], f"{found['side']}x{found['side']}",
            *(f"{value:.1f}" for value in ms.values()),
            f"{ms['torch_packed'] / ms['ort']:.2f}x", f"{ms['torch_fp32'] / ms['ort']:.1f}x",
            "yes" if found["same_bits"] else "no",
        ]  # fmt: skip
        made.append(f"| {' | '.join(cells)} |")
    return made


def table(arguments: argparse.Namespace) -> None:
    """Print the table of all results."""
    print("| model | input | torch float32, ms | packed in torch, ms | ONNX Runtime, ms "
          "| over packed in torch | over torch float32 | same bits |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for path in sorted(RESULTS.glob("*.json")):
        print(*table_rows(json.loads(path.read_text(encoding="utf-8"))), sep="\n")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run")
    one.add_argument("name")
    one.add_argument("--checkpoint", type=Path, required=True)
    one.add_argument("--packed", type=Path, required=True)
    one.add_argument("--side", type=int, action="append", required=True)
    one.add_argument("--repeats", type=int, default=15)
    one.add_argument("--float-repeats", type=int, default=5)
    one.set_defaults(do=run)
    commands.add_parser("table").set_defaults(do=table)
    arguments = parser.parse_args()
    arguments.do(arguments)


if __name__ == "__main__":
    main()
