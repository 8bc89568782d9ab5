"""How large a file is beside the packed model that it was made of, and what is allowed."""

from __future__ import annotations

from typing import Any

from bitcompress.artifact import Source
from bitcompress.artifact.encode import encode
from bitcompress.errors import UsageError
from bitcompress.graph.intercept import Rewritten

MOST_SHARE = 1.10
"""Of the bytes of initialisers in those of the packed safetensors."""
MOST_REST = 200
"""Bytes of a file a node, initialisers aside."""
LIVE = Source("", {}, None, None, 1.0, "", "")
"""Of a model that came from no file: its bytes are those of its tensors all the same."""


def sizes_of(
    model: Rewritten, source: Source | None, initializers: int, file: int, nodes: int
) -> dict[str, Any]:
    """The row of a report: shares, limits, and whether they are kept."""
    try:
        stored: int | None = len(encode(model, source or LIVE))
    except UsageError:  # a model that no packed folder holds
        stored = None
    share = None if stored is None else initializers / stored
    rest = (file - initializers) / max(nodes, 1)
    return {
        "packed_bytes": stored, "share": share, "most_share": MOST_SHARE,
        "rest_bytes_a_node": rest, "most_rest": MOST_REST,
        "kept": (share is None or share <= MOST_SHARE) and rest <= MOST_REST,
    }  # fmt: skip
