"""The rules of fusion, in the order in which they are applied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from bitcompress.program.ir import Graph
from bitcompress.program.rules.attention import gather
from bitcompress.program.rules.codes import stay_on_codes
from bitcompress.program.rules.layout import channels_last
from bitcompress.program.rules.rolls import swap_rolls
from bitcompress.program.rules.small import (
    hold_operands,
    pick_at_once,
    small_first,
    spell_group_norms,
)
from bitcompress.program.rules.steps import layers, make_chains, take_heads, take_tails

Rule = Callable[[Graph, dict[Any, Tensor]], None]

RULES: dict[str, Rule] = {
    "small things first": lambda graph, _: small_first(graph),
    "rows of tables at once": lambda graph, _: pick_at_once(graph),
    "group norms are two steps": lambda graph, _: spell_group_norms(graph),
    "pictures with channels last": lambda graph, _: channels_last(graph),
    "rolls next to attention": lambda graph, _: swap_rolls(graph),
    "attention by tables": gather,
    "layers take steps": lambda graph, _: layers(graph),
    "steps behind layers": lambda graph, _: take_tails(graph),
    "steps that are left": lambda graph, _: make_chains(graph),
    "steps behind steps": lambda graph, _: take_tails(graph),
    "steps before layers": lambda graph, _: take_heads(graph),
    "codes between layers": lambda graph, _: stay_on_codes(graph),
    "operands in their places": lambda graph, _: hold_operands(graph),
}
"""Each changes the graph in place and notes what it did; the tensors keep what tables cost."""
