"""The CUDA kernels compiled for the CPU: the library that tests call in place of a device's."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from bitcompress.packed import cuda

ROOT = Path(__file__).resolve().parents[2]


def twin_library(folder: Path) -> ctypes.CDLL:
    """Compile the twin into a folder and open it; skips where there is no compiler."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler to build the twin of the CUDA kernels with")
    place = folder / "libtwin.so"
    sources = [str(path) for path in sorted((ROOT / "csrc/cuda").glob("*.cu"))]
    flags = ["-std=c++17", "-O0", "-fPIC", "-shared", "-ffp-contract=off", "-w"]
    include = ["-I", str(ROOT / "csrc/include")]
    subprocess.run(
        [compiler, *flags, *include, "-x", "c++", *sources, "-o", str(place)], check=True
    )
    found, reason = cuda.open_library(place)
    assert found is not None, reason
    return found
