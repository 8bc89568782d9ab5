"""Tests of the tables of binary models: seeds together, orders by the rule, the rest stays."""

from __future__ import annotations

from typing import Any

from bitcompress.measure.binary_tables import BEGIN, END, write_tables


def line(name: str, seed: int, value: float, **more: Any) -> dict[str, Any]:
    """The JSON of a row."""
    return {
        "row": name, "table": "sr", "label": name, "metric": "psnr_y", "higher_is_better": True,
        "seed": seed, "packed": {"psnr_y": value, "bicubic_psnr_y": 33.68}, "steps": 10,
        "seconds": 60.0, "device": "cpu", "machine": {"threads": 2}, **more,
    }  # fmt: skip


def test_seeds_are_put_together_and_orders_follow_the_rule() -> None:
    rows = [line("a", seed, 36.0 + 0.1 * seed) for seed in range(3)]
    rows += [line("b", seed, 35.0 + 0.11 * seed) for seed in range(3)]
    rows += [line("c", seed, 36.1 + 0.1 * (1 - seed)) for seed in range(3)]
    page = write_tables("# Benchmarks\n", rows, ["a", "b", "c"])
    assert "| bicubic | 33.68 |" in page
    assert "| a | 36.10 ± 0.06 | 0, 1, 2 |" in page
    assert "- `a` and `b`: 0.99 ± 0.01 over 3 seeds: the first is ahead" in page
    assert "- `a` and `c`: 0.0000 ± 0.1155 over 3 seeds: undecided" in page


def test_a_single_seed_decides_nothing() -> None:
    page = write_tables("", [line("a", 0, 36.0), line("b", 0, 30.0)], ["a", "b"])
    assert "orders are not decided" in page and "ahead" not in page


def test_the_rest_of_the_page_stays() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    made = write_tables(page, [line("a", 0, 36.0)], ["a"])
    assert made.startswith("before\n") and made.endswith(f"{END}\nafter\n") and "old" not in made
    assert write_tables(made, [line("a", 0, 36.0)], ["a"]) == made
