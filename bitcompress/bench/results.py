"""The files of a bench in their folder: figures as JSON, Markdown for people, a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bitcompress.artifact.store import jsonable
from bitcompress.data.images import write_whole
from bitcompress.errors import OutputError, Unavailable


def make_folder(folder: Path) -> None:
    """Make the folder before the long work. Raises: OutputError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made a folder: {error.strerror}") from error


def write_results(
    folder: Path,
    stem: str,
    report: Mapping[str, Any],
    markdown: str,
    pictures: Mapping[str, Callable[[], bytes]],
) -> list[str]:
    """Write stem.json, stem.md and the pictures, each whole or not at all.

    Returns: notes on pictures that could not be drawn. Raises: OutputError.
    """
    make_folder(folder)
    text = json.dumps(jsonable(report), indent=1, allow_nan=False) + "\n"
    write_whole(folder / f"{stem}.json", text.encode())
    write_whole(folder / f"{stem}.md", markdown.encode())
    notes = []
    for name, draw in pictures.items():
        try:
            write_whole(folder / name, draw())
        except Unavailable as missing:
            notes.append(str(missing))
    return notes
