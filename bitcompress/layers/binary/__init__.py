"""Binary blocks: one-bit layers with all that stands around them, and their packed twins."""

from __future__ import annotations

from bitcompress.layers.binary.activations import PReLU, RPReLU, TaA
from bitcompress.layers.binary.block import BinaryBlock
from bitcompress.layers.binary.branches import BinaryBranches, binary_branches
from bitcompress.layers.binary.build import binary_block, stands
from bitcompress.layers.binary.clock import Clock
from bitcompress.layers.binary.ends import KINDS as ENDS
from bitcompress.layers.binary.ends import EndActivation, end_activation
from bitcompress.layers.binary.packed import PackedBlock
from bitcompress.layers.binary.shortcuts import CFB, Shortcut
from bitcompress.layers.binary.spec import METHODS, BlockSpec, Method
from bitcompress.layers.binary.thresholds import DAB, RSign, TaR

__all__ = [
    "CFB",
    "DAB",
    "ENDS",
    "METHODS",
    "BinaryBlock",
    "BinaryBranches",
    "BlockSpec",
    "Clock",
    "EndActivation",
    "Method",
    "PReLU",
    "PackedBlock",
    "RPReLU",
    "RSign",
    "Shortcut",
    "TaA",
    "TaR",
    "binary_block",
    "binary_branches",
    "end_activation",
    "stands",
]
