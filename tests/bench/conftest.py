"""What the tests of the benches share: tiny peaks, so that nothing takes long."""

from __future__ import annotations

import pytest

from bitcompress.bench import peaks


@pytest.fixture(autouse=True)
def _small_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "BUFFERS", {"1 KiB": 1 << 10, "4 KiB": 4 << 10})
    monkeypatch.setattr(peaks, "READ_BYTES", 8 << 10)
    monkeypatch.setattr(peaks, "ROUNDS", dict.fromkeys(peaks.SETS, 2))
