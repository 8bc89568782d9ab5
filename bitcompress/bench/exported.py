"""The float model in ONNX Runtime: exported, and quantized to int8 by its own static QDQ.

Everything here is foreign, slow and may fail: it works in a folder that the caller throws away, for
a limited time, and a failure is a sentence.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import types
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitcompress.bench import graphs

PACKAGES = ("onnx", "onnxruntime", "onnxscript")


class OutOfTimeError(Exception):
    """The time that was given is over."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Break off what runs inside after so many seconds, where the system and the thread allow it.

    Raises: OutOfTimeError.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(number: int, frame: types.FrameType | None) -> None:
        raise OutOfTimeError(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def spare_memory() -> Iterator[None]:
    """Let what runs inside take three quarters of the free memory; more of it is an error.

    Without a bound the system would end the whole process; without its figures there is no bound.
    """
    try:
        import resource

        figures = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(figures["MemAvailable"].split()[0])
        taken = resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0])
        before = resource.getrlimit(resource.RLIMIT_AS)
    except (ImportError, OSError, KeyError, ValueError):
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (taken + free * 3 // 4, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the warnings of foreign libraries to themselves."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def reason_of(step: str, error: BaseException) -> str:
    """A failure in one line."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{step}: {text[:240]}"


def export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], path: Path) -> None:
    """Write the float model to an ONNX file, for inputs of exactly these sizes."""
    with torch.no_grad():
        program = torch.export.export(model, args, kwargs, strict=False)
        made = torch.onnx.export(program, dynamo=True, verbose=False)
    assert made is not None
    made.save(str(path))


def to_int8(source: Path, batches: Iterable[Sequence[Tensor]], path: Path) -> None:
    """Static QDQ by ONNX Runtime's own tool: activations uint8, weights int8 a channel."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    names = [value.name for value in graphs.session(str(source), 1).get_inputs()]
    feeds = iter([feed(names, batch) for batch in batches])
    reader = types.SimpleNamespace(get_next=lambda: next(feeds, None))
    quantize_static(
        str(source), str(path), reader, quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip


def feed(names: Sequence[str], inputs: Sequence[Tensor]) -> dict[str, Any]:
    """Inputs by the names of a graph, in order."""
    return {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}


def opened(path: Path, inputs: Sequence[Tensor], threads: int) -> Any:
    """A runner of the file."""
    session = graphs.session(str(path), threads)
    names = [value.name for value in session.get_inputs()]
    return graphs.runner(session, feed(names, inputs))


def output_of(run: Any) -> np.ndarray[Any, Any]:
    """The first output of a runner."""
    return np.asarray(run().copy_outputs_to_cpu()[0])


def psnr(made: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> float:
    """PSNR against the largest number of the truth; infinite where they are equal. Units: dB."""
    error = float(np.mean((made.astype(np.float64) - truth) ** 2))
    peak = float(np.abs(truth).max()) or 1.0
    return float("inf") if error == 0 else 10 * float(np.log10(peak * peak / error))
