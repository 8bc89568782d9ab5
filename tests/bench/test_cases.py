"""Tests of the table of cases: names are unique, operators exist, patterns choose."""

from __future__ import annotations

import pytest

from bitcompress.bench.cases import CASES, Case, select
from bitcompress.bench.operators import OPERATORS
from bitcompress.errors import UsageError


def test_names_are_unique_and_every_operator_is_known() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert {case.op for case in CASES} == set(OPERATORS)


def test_a_name_says_what_is_timed() -> None:
    case = Case("conv2d", 2, 4, (8, 9, 6, 12, 3, 6))
    assert case.name == "conv2d-w2a4-8x9x6-12-3x3-g6"
    assert Case("linear", 1, 1, (5, 6, 7)).name == "linear-w1a1-5x6-7"
    assert Case("qk", 8, 8, (1, 2, 3, 4)).name == "qk-w8a8-1x2x3x4"


def test_patterns_choose_by_part_or_by_shell_pattern() -> None:
    assert select([]) == list(CASES)
    parts = select(["w8a8"])
    assert parts and {case.weight_bits for case in parts} == {8}
    assert {case.op for case in select(["linear-*"])} == {"linear"}
    both = select(["qk", "av-*"])
    assert {case.op for case in both} == {"qk", "av"}
    assert both == [case for case in CASES if case in both], "in the order of the table"


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match="--only nothing matches no case"):
        select(["conv2d", "nothing"])
