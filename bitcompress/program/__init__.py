"""A whole packed run as a list of native steps: recorded once a size, fused, checked, replayed.

The user's forward stays what it is. When a packed model has seen the same sizes twice, its run is
written down (record.py), rules find what can be one native call (rules/), and from then on the list
is run instead (execute.py), after it has given the same bits as the forward on the same input.
"""

from __future__ import annotations

from bitcompress.graph.intercept import Rewritten
from bitcompress.program.cache import Programs


def use_programs(model: Rewritten) -> None:
    """Let a packed model run from programs where it can."""
    model.programs = Programs(model)
