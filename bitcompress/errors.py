"""Every error that bitcompress raises on purpose, each with the exit code that the CLI gives it.

An error names the thing that is wrong and what to do about it. 0 is success, 1 is a failure nobody
foresaw, 130 an interrupted run that can be resumed; the classes below hold the rest.
"""

from __future__ import annotations

from typing import ClassVar


class BitcompressError(Exception):
    """The parent of all errors of this package."""

    exit_code: ClassVar[int] = 1


class UsageError(BitcompressError):
    """An argument has an impossible value."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe has an unknown key, an impossible value or a selector that matches nothing."""


class DataError(UsageError):
    """A picture or folder of pictures cannot be used."""


class ShapeError(UsageError):
    """A tensor has another shape than the operation needs."""


class OutputError(UsageError):
    """The output place exists already, is of the wrong kind, or cannot be written."""


class LoadError(BitcompressError):
    """A model file cannot be read as what it claims to be."""

    exit_code = 3


class CaptureError(BitcompressError):
    """A model cannot be captured, or less of it than was asked for."""

    exit_code = 4


class GateError(BitcompressError):
    """A result misses a bound that the user or the exactness law sets."""

    exit_code = 5


class Unavailable(BitcompressError):
    """An optional package or device is not there; the message holds the line that installs it."""

    exit_code = 6


class NotPackable(BitcompressError):
    """A layer cannot be stored and run in bits; the message is the reason for the report."""


class NothingPacked(UserWarning):
    """A model went through and no layer of it is packed; the message says why."""


class Interrupted(BitcompressError):
    """A run was stopped from outside; its state is kept and it can be resumed."""

    exit_code = 130
