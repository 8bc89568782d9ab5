"""Parameters move: losses, the loop, the ways to tune a quantized student and to train any."""

from __future__ import annotations

from bitcompress.train.config import BatchSource, FitConfig, FitResult, Progress
from bitcompress.train.gpd import GapConfig, learn_with_gap
from bitcompress.train.learn import LearnConfig, learn
from bitcompress.train.loop import fit
from bitcompress.train.stages import Stage
from bitcompress.train.tune import TuneConfig, tune

__all__ = [
    "BatchSource",
    "FitConfig",
    "FitResult",
    "GapConfig",
    "LearnConfig",
    "Progress",
    "Stage",
    "TuneConfig",
    "fit",
    "learn",
    "learn_with_gap",
    "tune",
]
