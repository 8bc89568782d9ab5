"""`bitcompress run` of a binary model: what its task makes of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from bitcompress.artifact import LoadedPacked
from bitcompress.data.images import read_image, write_image
from bitcompress.data.layout import picture_files
from bitcompress.errors import DataError, UsageError
from bitcompress.tasks.apply import apply


def is_binary(loaded: LoadedPacked) -> bool:
    """Whether a folder was written by `binarize`, and says what its model is for."""
    report = loaded.report or {}
    return report.get("kind") == "binarize" and isinstance(report.get("task"), str)


def run_task(loaded: LoadedPacked, picture: Path, jobs: Sequence[tuple[Path, Path]]) -> None:
    """Print the classes of a picture or of a folder of them, or write what the model makes of each.

    `jobs` says which picture goes where; it is empty where no place was given.

    Raises: UsageError where a picture comes out and no place for it is given.
    """
    report = loaded.report or {}
    name, config = str(report["task"]), dict(report.get("task_config") or {})
    files = picture_files(picture) if picture.is_dir() else [picture]
    if not files:
        raise DataError(f"{picture} holds no picture")
    places: dict[Path, Path] = dict(jobs)
    for file in files:
        target = places.get(file)
        found = apply(name, config, loaded.model, read_image(file))
        for label, share in found.classes:
            click.echo(f"{file}: {label} {100 * share:.1f} %")
        if found.picture is None:
            continue
        if target is None:
            raise UsageError("give --output, the picture to write")
        write_image(target, found.picture)
        click.echo(f"{target}: {found.picture.shape[1]}x{found.picture.shape[0]}")
