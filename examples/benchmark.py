"""One row of docs/benchmarks.md: quantize a real checkpoint, score it on whole pictures.

    python examples/benchmark.py row --model dat-x2 --recipe default --bits 2 \
        --checkpoint DAT_light_x2.pth --data PHOTOS --set Set5 --set Set14
    python examples/benchmark.py random swinir-light-x2 swinir.pth  # seeded, untrained
    bitcompress bench model swinir-w2/ --float swinir.pth --untrained -o speed/  # model.json
    python examples/benchmark.py table      # docs/results/*.json -> tables of docs/benchmarks.md

Speeds are the model.json and kernels.json of `bitcompress bench`, put into docs/results/speed/.

A row keeps the command's arguments, machine, seed and seconds. Pictures that calibrate are never
scored.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from bitcompress import api
from bitcompress.data.folders import open_pictures
from bitcompress.models import MODELS
from bitcompress.progress import ProgressLine

RESULTS = Path(__file__).parents[1] / "docs" / "results"
SPEED = RESULTS / "speed"
PAGE = RESULTS.parent / "benchmarks.md"
BEGIN, END = "<!-- tables begin -->", "<!-- tables end -->"


def row(arguments: argparse.Namespace) -> None:
    """Quantize, measure, and keep the figures as a JSON file."""
    torch.set_num_threads(arguments.threads)
    started = time.time()
    progress = ProgressLine()
    overrides = dict(pair.split("=", 1) for pair in arguments.set_key)
    result = api.quantize(
        arguments.checkpoint, bits=arguments.bits, recipe=arguments.recipe, data=arguments.data,
        seed=arguments.seed, quick=arguments.quick, progress=progress,
        overrides={key: json.loads(value) for key, value in overrides.items()},
    )  # fmt: skip
    spent = time.time() - started
    scale = result.source.scale or 1
    sets = [_named(open_pictures(path, scale=scale), path) for path in arguments.set]
    api.measure(result, sets, progress=progress)
    if arguments.keep is not None:
        api.save(result, arguments.keep)
    report = result.report
    kept: dict[str, Any] = {
        "model": arguments.model,
        "recipe": arguments.recipe + ("-quick" if arguments.quick else ""),
        "bits": arguments.bits,
        "seed": arguments.seed,
        "threads": arguments.threads,
        "overrides": overrides,
        "quantize_seconds": round(spent, 1),
        "steps": report["training"]["steps"],
        "data": report["data"],
        "size": {k: v for k, v in report["size"].items() if k != "about"},
        "coverage": report["capture"]["coverage"],
        "bits_mean": report["bits"]["weights_mean"],
        "parity_db": report["parity"]["psnr_db"],
        "changed_share": report["parity"]["changed_share"],
        "peak_rss_mb": max(stage["peak_rss_mb"] for stage in report["stages"]),
        "quality": {
            name: {k: v for k, v in figures.items() if isinstance(v, float | int)}
            for name, figures in report["quality"].items()
        },
        "speed": report["speed"],
        "machine": report["machine"],
        "versions": report["versions"],
        "date": time.strftime("%Y-%m-%d"),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{kept['model']}-{kept['recipe']}-w{arguments.bits}.json"
    path.write_text(json.dumps(_finite(kept), indent=1) + "\n", encoding="utf-8")
    print(path.name, {k: v.get("drop_db") for k, v in kept["quality"].items()}, f"{spent:.0f} s")


RANDOM: dict[str, tuple[str, dict[str, Any]]] = {
    "swinir-light-x2": (
        "swinir",
        {"embed_dim": 60, "depths": [6] * 4, "num_heads": [6] * 4, "window_size": 8, "mlp_ratio": 2,
         "upscale": 2, "upsampler": "pixelshuffledirect"},
    ),
    "edsr-baseline-x2": ("edsr", {"num_feat": 64, "num_block": 16, "upscale": 2}),
}  # fmt: skip
"""Networks of which no trained weights are at hand: their time can be measured, no quality."""


def random(arguments: argparse.Namespace) -> None:
    """Write the checkpoint of a network with seeded random weights."""
    name, config = RANDOM[arguments.name]
    torch.manual_seed(0)
    torch.save({"params": MODELS[name].build(**config).state_dict()}, arguments.path)


def _named(pictures: Any, path: Path) -> Any:
    from dataclasses import replace

    return replace(pictures, name=path.parent.name if path.name.lower() == "hr" else path.name)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) != float("inf") else "equal"
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return value


def table(arguments: argparse.Namespace) -> None:
    """Write the tables between the two marks of docs/benchmarks.md."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    lines = []
    for model in sorted({r["model"] for r in rows}):
        mine = sorted(
            (r for r in rows if r["model"] == model), key=lambda r: (-r["bits"], r["recipe"])
        )
        sets = sorted({name for r in mine for name in r["quality"]})
        lines += [f"### {model}", ""]
        head = ["recipe", "W/A bits"]
        for name in sets:
            head += [f"{name} float", f"{name} packed", "drop dB"]
        head += ["bytes", "smaller", "steps", "s", "threads", "peak MB"]
        lines += _table(head, [])
        for r in mine:
            changed = ", ".join(f"{k}={v}" for k, v in r["overrides"].items())
            name = f"{r['recipe']} ({changed})" if changed else r["recipe"]
            cells = [name, f"{r['bits']}/{r['bits']}"]
            for name in sets:
                q = r["quality"].get(name, {})
                cells += [_cell(q.get("float_psnr_y"), 3), _cell(q.get("packed_psnr_y"), 3),
                          _cell(q.get("drop_db"), 3)]  # fmt: skip
            size = r["size"]
            cells += [f"{size['packed_bytes']:,}", f"{size['ratio']:.2f}x",
                      str(r["steps"]), f"{r['quantize_seconds']:.0f}", str(r["threads"]),
                      f"{r['peak_rss_mb']:.0f}"]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    lines += _models() + _kernels()
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n{END}{after}", encoding="utf-8")


def _models() -> list[str]:
    """Whole models, from `bench model`."""
    lines = []
    for report in _reports("model"):
        for r in report["rows"]:
            ways = [r["float_ms"]["torch"], r["float_ms"]["ort"], r["int8_ms"]["ort"]]
            cells = [r["model"], f"{r['weight_bits']}/{r['act_bits']}",
                     "x".join(map(str, r["input"][0])), str(r["threads"]), _cell(r["ms"], 1),
                     *(_cell(ms, 1) for ms in (*ways, r["bf16_ms"]["torch"])),
                     *(_times(ms, r["ms"]) for ms in ways),
                     _cell(r["rss_mb"], 0), _cell(r["psnr_drop_db"], 2) or "n/a",
                     str(r["load"])]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    head = ["model", "W/A", "input", "threads", "packed ms", "torch", "ORT", "ORT int8",
            "torch bf16", "x torch", "x ORT", "x ORT int8", "MB", "lost dB", "load"]  # fmt: skip
    return ["### Whole models", "", *_table(head, lines), ""] if lines else []


def _kernels() -> list[str]:
    """Each operator at its fastest level, from `bench kernels`."""
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    for report in _reports("kernels"):
        for r in report["rows"]:
            key = r["op"], r["weight_bits"], r["act_bits"], r["shape"], r["threads"]
            if r.get("us") and (key not in best or r["us"] < best[key]["us"]):
                best[key] = r
    lines = []
    for r in best.values():
        ratios = [r["ratio"].get(name) for name in ("torch_fp32", "ort_fp32", "ort_int8")]
        cells = [r["op"], f"{r['weight_bits']}/{r['act_bits']}", r["shape"], str(r["threads"]),
                 r["level"], _cell(r["us"], 0),
                 *("n/a" if x is None else f"{x:.2f}x" for x in ratios),
                 _share(r.get("peak_fraction"))]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    head = ["operator", "W/A", "shape", "threads", "level", "us", "x torch", "x ORT", "x ORT int8",
            "of peak"]  # fmt: skip
    return ["### Operators", "", *_table(head, lines), ""] if lines else []


def _reports(kind: str) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(SPEED.glob("*.json"))]
    return [report for report in found if report.get("bench") == kind]


def _table(head: list[str], lines: list[str]) -> list[str]:
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines]


def _share(part: float | None) -> str:
    return "" if part is None else f"{100 * part:.0f} %"


def _times(other: float | None, ours: float) -> str:
    return "n/a" if other is None else f"{other / ours:.2f}x"


def _cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("row")
    one.add_argument("--model", required=True, help="Name in the table.")
    one.add_argument("--checkpoint", required=True, type=Path)
    one.add_argument("--recipe", default="default")
    one.add_argument("--bits", type=int, required=True)
    one.add_argument("--data", type=Path, default=None)
    one.add_argument(
        "--set", type=Path, action="append", default=[], help="Folder to score; repeatable."
    )
    one.add_argument("--set-key", action="append", default=[], metavar="KEY=JSON")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--threads", type=int, default=2)
    one.add_argument("--quick", action="store_true")
    one.add_argument("--keep", type=Path, default=None, help="Folder for the packed model.")
    one.set_defaults(run=row)
    made = commands.add_parser("random")
    made.add_argument("name", choices=RANDOM)
    made.add_argument("path", type=Path)
    made.set_defaults(run=random)
    commands.add_parser("table").set_defaults(run=table)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
