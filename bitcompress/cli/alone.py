"""One model by itself in a process: `python -m bitcompress.cli.alone` for `bench model`.

Prints a row a line for each size; benchmarks read them, nobody else needs it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bitcompress.bench.growth import alone
from bitcompress.cli.subjects import example_of, opened
from bitcompress.errors import Unavailable


def main(text: str) -> None:
    """Open what the JSON says, and print what each size takes."""
    asked: dict[str, Any] = json.loads(text)
    found = opened(
        Path(asked["folder"]), asked["float"] and Path(asked["float"]), asked["arch"],
        asked["unsafe"], asked["threads"],
    )  # fmt: skip
    model = found.model if asked["which"] == "packed" else found.full
    if model is None:
        raise Unavailable(found.missing)
    source = found.source
    rows = alone(model, asked["sides"], lambda side: example_of(source, side), asked["threads"])
    for row in rows:
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
