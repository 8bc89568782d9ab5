"""A short run of the fuzzer of packed folders; `make fuzz` runs it for longer."""

from __future__ import annotations

import runpy
from pathlib import Path

FUZZER = Path(__file__).parents[1] / "fuzz" / "fuzz_reader.py"


def test_changed_folders_give_a_sentence_or_a_model() -> None:
    run = runpy.run_path(str(FUZZER))["run"]
    counts = run(seed=1, rounds=60, seconds=0)
    assert sum(counts.values()) == 60
    assert counts["LoadError"] > 10
    assert counts["loaded"] > 3
