"""What the exporters of torch print, log and warn of is kept to themselves."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

TRACE = "torch.__trace"
"""A logger of torch that writes each step of an export down, as JSON, where it has a handler."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep to themselves what the exporter prints, logs and warns of."""
    level, trace = logging.root.manager.disable, logging.getLogger(TRACE)
    handlers = trace.handlers
    logging.disable(logging.ERROR)
    trace.handlers = []
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        trace.handlers = handlers
