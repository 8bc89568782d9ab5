"""What the machine can do at all: native loops of one primitive each, and reading memory.

csrc/include/bitcompress/peak.h says what each loop is. Gop/s are 2 x multiply-accumulates a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

SETS = ("scalar", "avx2", "avx512vnni", "avx512vbmi", "amx")
"""From plainest to best; a level may use its own set and those before it."""
ROUNDS = {"scalar": 500, "amx": 2000}
BUFFERS = {"16 KiB": 16 << 10, "512 KiB": 512 << 10, "8 MiB": 8 << 20, "128 MiB": 128 << 20}
"""How much is read again and again: the first fits into the first cache, the last into none."""
READ_BYTES = 32 << 20
TRIES = 12
WIDEST = {"lookup": 2, "lookup1": 1}
"""Bits of a code that fit into the tables of a loop."""
SMALL = 8
"""Widths of weights and activations that add up to at most this fit sums of 16 bits for a while."""


@dataclass(frozen=True)
class Peaks:
    """Units: compute in Gop/s by (primitive, set); read in GB/s by the size that is read."""

    compute: dict[tuple[str, str], float]
    read: dict[str, float]
    threads: int

    def of(self, level: str, weight_bits: int, act_bits: int) -> tuple[float, str]:
        """The most that products of such codes could reach at a level, and by which loop."""
        sets = SETS[: SETS.index(level) + 1] if level in SETS else SETS
        usable = self._usable(sets, weight_bits, act_bits)
        return max(usable, default=(0.0, "none"))

    def reading(self, size: int) -> tuple[float, str]:
        """The most GB/s for so many bytes, and by which buffer."""
        fitting = [place for place, held in BUFFERS.items() if 4 * held >= size]
        place = (fitting or list(BUFFERS)[-1:])[0]
        return self.read[place], f"read/{place}"

    def _usable(self, sets: Iterable[str], w: int, a: int) -> list[tuple[float, str]]:
        found = []
        for (primitive, name), gops in self.compute.items():
            if name not in sets or primitive == "fma":
                continue
            if primitive == "popcount":
                gops /= w * a  # a product of planes for each pair of bits
            elif max(w, a) > WIDEST.get(primitive, 8) or (
                primitive == "int8fast" and w + a > SMALL
            ):
                continue
            found.append((gops, f"{primitive}/{name}"))
        return found

    def to_json(self) -> dict[str, Any]:
        """What a report holds of it."""
        compute = {f"{primitive}/{name}": gops for (primitive, name), gops in self.compute.items()}
        return {"gops": compute, "read_gb_s": self.read, "threads": self.threads}


def measure_peaks(kernels: ModuleType, threads: int, tries: int = TRIES) -> Peaks:
    """Run every loop of this CPU on so many threads at once; the best of `tries` counts."""
    compute: dict[tuple[str, str], float] = {}
    read: dict[str, float] = {}
    nothing = torch.zeros(0, dtype=torch.uint8)
    loops = kernels.peaks()
    readers = [name for primitive, name in loops if primitive == "read"]
    with ThreadPoolExecutor(threads) as pool:
        for primitive, name in loops:
            if primitive != "read":
                rounds = ROUNDS.get(name, 1000)
                work = _call(kernels, primitive, name, rounds, nothing)
                compute[primitive, name] = 2 * _best(pool, work, threads, tries)
        for place, size in BUFFERS.items():
            # Each thread reads from a buffer that the system has given real pages.
            buffer = torch.ones(size, dtype=torch.uint8)
            rounds = max(1, READ_BYTES // size)
            works = [_call(kernels, "read", name, rounds, buffer) for name in readers]
            read[place] = max(_best(pool, work, threads, max(3, tries // 2)) for work in works)
    return Peaks(compute, read, threads)


def _call(
    kernels: ModuleType, primitive: str, name: str, rounds: int, buffer: Any
) -> Callable[[], float]:
    return lambda: float(kernels.peak(primitive, name, rounds, buffer))


def _best(pool: ThreadPoolExecutor, work: Callable[[], float], threads: int, tries: int) -> float:
    """The most work a nanosecond that all threads did together."""
    rates = []
    for _ in range(tries):
        start = time.perf_counter()
        done = [pool.submit(work) for _ in range(threads)] if threads > 1 else []
        total = sum(part.result() for part in done) if done else work()
        rates.append(total / (time.perf_counter() - start) / 1e9)
    return max(rates)
