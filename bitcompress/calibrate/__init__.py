"""Bounds move, weights do not: what is looked at, and the table of bound searches."""

from __future__ import annotations

from bitcompress.calibrate.bounds import minmax, mse, percentile, sign
from bitcompress.calibrate.dobi import dobi
from bitcompress.calibrate.observe import BoundSearch, calibrate, set_weight_bounds

SEARCHES: dict[str, BoundSearch] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "dobi": dobi,
    "sign": sign,
}

__all__ = ["SEARCHES", "BoundSearch", "calibrate", "set_weight_bounds"]
