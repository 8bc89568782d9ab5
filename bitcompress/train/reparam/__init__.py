"""Reparameterizations that keep a function exactly: branches of one kernel, columns of one net."""

from __future__ import annotations

from bitcompress.train.reparam.branches import branch, merge
from bitcompress.train.reparam.columns import Columns

__all__ = ["Columns", "branch", "merge"]
