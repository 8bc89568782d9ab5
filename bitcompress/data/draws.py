"""Which samples a step trains on: pure functions of the seed and the step, as all batches are.

A run that is resumed at any step therefore draws what an unbroken run draws, and nothing of the
sampler has to be stored in a checkpoint.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bitcompress.errors import DataError, UsageError

Indices = NDArray[np.int64]


def drawn(seed: int, step: int, count: int, size: int) -> Indices:
    """The samples of a step: epoch after epoch, each a new order of all `size` samples.

    Shapes: (count,), numbers below `size`. Batches run on over the end of an epoch.
    Raises: DataError if there is no sample, UsageError if none is asked for.
    """
    if size < 1:
        raise DataError("there is no sample to draw from: give data with pictures in it")
    if count < 1 or step < 0:
        raise UsageError(f"a batch of {count} samples at step {step} cannot be drawn: give 1")
    places = step * count + np.arange(count, dtype=np.int64)
    epochs, within = np.divmod(places, size)
    picked = np.empty(count, dtype=np.int64)
    for epoch in np.unique(epochs):
        of_epoch = epochs == epoch
        picked[of_epoch] = _order(seed, int(epoch), size)[within[of_epoch]]
    return picked


@lru_cache(maxsize=8)
def _order(seed: int, epoch: int, size: int) -> Indices:
    return np.random.default_rng((seed, epoch, size)).permutation(size).astype(np.int64)


def random_of(seed: int, step: int) -> np.random.Generator:
    """The random numbers of one step, independent of those that choose the samples."""
    return np.random.default_rng((seed, 1 << 32, step))


def share_of(count: int, process: int, processes: int) -> tuple[Indices, float]:
    """The places in a batch that belong to one process, and the weight of their mean loss.

    Gradients are averaged over processes; the weights (that sum to `processes`) make each sample
    count the same where the shares are uneven.
    Raises: DataError if the batch has fewer samples than there are processes.
    """
    places = np.arange(process, count, processes, dtype=np.int64)
    if not len(places):
        raise DataError(
            f"a batch of {count} is less than the {processes} processes: give a batch with at "
            "least one sample a process"
        )
    return places, len(places) * processes / count
