"""Tests of the peaks: which loops count for which codes; that each loop says how much it did."""

from __future__ import annotations

import pytest
import torch

from bitcompress import native
from bitcompress.bench.peaks import Peaks, measure_peaks

kernels = native.kernels()
needs_native = pytest.mark.skipif(kernels is None, reason=f"no kernels: {native.why_not()}")
KNOWN = Peaks(
    compute={
        ("fma", "avx2"): 900.0, ("int8", "scalar"): 10.0, ("int8", "avx2"): 100.0,
        ("int8fast", "avx2"): 150.0, ("lookup", "avx2"): 300.0, ("popcount", "avx2"): 500.0,
        ("int8", "amx"): 5000.0,
    },
    read={"1 KiB": 1.0, "4 KiB": 1.0}, threads=1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("level", "w", "a", "gops", "name"),
    [
        ("avx2", 1, 1, 500.0, "popcount/avx2"),
        ("avx2", 2, 2, 300.0, "lookup/avx2"),
        ("avx2", 1, 2, 300.0, "lookup/avx2"),  # 250 by planes
        ("avx2", 4, 4, 150.0, "int8fast/avx2"),
        ("avx2", 8, 8, 100.0, "int8/avx2"),
        ("scalar", 8, 8, 10.0, "int8/scalar"),
        ("avx512vnni", 8, 8, 100.0, "int8/avx2"),
        ("amx", 1, 1, 5000.0, "int8/amx"),
        ("a level of tomorrow", 8, 8, 5000.0, "int8/amx"),
    ],
)
def test_the_peak_of_codes(level: str, w: int, a: int, gops: float, name: str) -> None:
    assert KNOWN.of(level, w, a) == (gops, name)


def test_reading_is_measured_near_the_size() -> None:
    names = [KNOWN.reading(size)[1] for size in (1, 4 << 10, (4 << 10) + 1, 1 << 40)]
    assert names == ["read/1 KiB", "read/1 KiB", "read/4 KiB", "read/4 KiB"]


@needs_native
def test_each_loop_counts_what_it_did() -> None:
    assert kernels is not None
    buffer = torch.ones(4096, dtype=torch.uint8)
    for primitive, name in kernels.peaks():
        once = kernels.peak(primitive, name, 1, buffer)
        assert once > 0 and kernels.peak(primitive, name, 3, buffer) == pytest.approx(3 * once)
        assert primitive != "read" or once == 4096


@needs_native
def test_unknown_loops_are_refused() -> None:
    assert kernels is not None
    with pytest.raises(ValueError, match="peak"):
        kernels.peak("fma", "neon", 1, torch.ones(8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="peak"):
        kernels.peak("fma", "scalar", -1, torch.ones(8, dtype=torch.uint8))


@needs_native
def test_all_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels is not None
    monkeypatch.setattr("bitcompress.bench.peaks.BUFFERS", {"1 KiB": 1024})
    monkeypatch.setattr("bitcompress.bench.peaks.READ_BYTES", 4096)
    for threads in (1, 2):
        peaks = measure_peaks(kernels, threads, tries=1)
        assert {f"{p}/{s}" for p, s in kernels.peaks() if p != "read"} == set(
            peaks.to_json()["gops"]
        )
        assert set(peaks.read) == {"1 KiB"} and min(peaks.compute.values()) > 0
