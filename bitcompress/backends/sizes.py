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
FIXED = 1024
"""Bytes that any file has, however small its model: names, sizes, the digest, short constants. They
are taken off both before the limits are asked."""
LIVE = Source("", {}, None, None, 1.0, "", "")
"""Of a model that came from no file: its bytes are those of its tensors all the same."""


def sizes_of(
    model: Rewritten, source: Source | None, initializers: int, file: int, nodes: int
) -> dict[str, Any]:
    """The row of a report: shares, limits, and whether they are kept; `said` tells where not."""
    try:
        stored: int | None = len(encode(model, source or LIVE))
    except UsageError:  # a model that no packed folder holds
        stored = None
    share = None if stored is None else initializers / stored
    rest = (file - initializers) / max(nodes, 1)
    wide = stored is not None and initializers - FIXED > MOST_SHARE * stored
    long = file - initializers - FIXED > MOST_REST * nodes
    said = _said(share if wide else None, rest if long else None)
    return {
        "packed_bytes": stored, "share": share, "most_share": MOST_SHARE,
        "rest_bytes_a_node": rest, "most_rest": MOST_REST, "fixed_bytes": FIXED,
        "kept": not said, "said": said,
    }  # fmt: skip


def _said(share: float | None, rest: float | None) -> str:
    """Which limit a file exceeds, in a sentence; empty where none."""
    parts = []
    if share is not None:
        parts.append(
            f"its initialisers are {share:.2f} of the packed model's bytes, where {MOST_SHARE:.2f} "
            "are aimed at"
        )
    if rest is not None:
        parts.append(f"the rest is {rest:.0f} bytes a node, where {MOST_REST} are aimed at")
    return f"larger than it should be: {' and '.join(parts)}" if parts else ""
