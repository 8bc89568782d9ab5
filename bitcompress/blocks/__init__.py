"""From a float model to one of binary blocks: which layers, in which form, settled, packed."""

from __future__ import annotations

from bitcompress.blocks.parts import Parts
from bitcompress.blocks.plan import BlockPlan, block_plans
from bitcompress.blocks.policy import BlockPolicy
from bitcompress.blocks.settle import Settled, settle
from bitcompress.blocks.student import (
    PreparedBlocks,
    blocks_of,
    insert_blocks,
    pack_blocks,
    prepare_binary,
    units_of,
)

__all__ = [
    "BlockPlan",
    "BlockPolicy",
    "Parts",
    "PreparedBlocks",
    "Settled",
    "block_plans",
    "blocks_of",
    "insert_blocks",
    "pack_blocks",
    "prepare_binary",
    "settle",
    "units_of",
]
