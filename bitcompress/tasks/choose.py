"""Which task a model and its data are of, told by what they are; never guessed between two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from bitcompress.data.beside import DEPTH_WORDS, LABEL_WORDS, has_maps
from bitcompress.data.depths import STEREO
from bitcompress.data.layout import high_folder, picture_files
from bitcompress.errors import DataError, UsageError
from bitcompress.tasks.base import Request, Task

Opener = Callable[[Request], Task]


def chosen(table: Mapping[str, Opener], request: Request, name: str | None) -> Task:
    """The task of a request: by its name, else by the model, else by the layout of the data.

    Raises: UsageError for a name that is none, or options that the task does not have; DataError
        where nothing tells the task.
    """
    if name is None:
        name = _by_model(request, table) or _by_data(request.data)
    if name not in table:
        raise UsageError(f"there is no task {name!r}; the tasks are {', '.join(sorted(table))}")
    try:
        return table[name](request)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        given = ", ".join(sorted(request.options))
        raise UsageError(
            f"the task {name} does not have all of the options {given}: {error}"
        ) from error


def _by_model(request: Request, table: Mapping[str, Opener]) -> str | None:
    """The task that a model says it is of (`task`), or that its attribute `scale` means."""
    model = request.model
    said = None if model is None else getattr(model, "task", None)
    if isinstance(said, str) and said in table:
        return said
    if model is not None and isinstance(getattr(model, "scale", None), int) or request.scale:
        return "sr"
    return None


def _by_data(path: Path | None) -> str:
    if path is None:
        raise DataError(
            "nothing tells what the model is for: name its task, or give --data with a folder or "
            "zip of labelled pictures"
        )
    if str(path) == STEREO or has_maps(path, DEPTH_WORDS):
        return "depth"
    if has_maps(path, LABEL_WORDS):
        return "segment"
    if path.is_file() and path.suffix.lower() == ".zip":
        return "classify"
    if not path.is_dir():
        raise DataError(f"{path}: no such folder or zip; give --data with what to train on")
    if high_folder(path) is not None:
        return "sr"
    if picture_files(path):
        raise DataError(
            f"{path} holds pictures without labels, and the model does not say that it enlarges "
            "them: give --scale for super-resolution, or a folder for each class"
        )
    if any(picture_files(f) for f in [*path.glob("*/"), *path.glob("*/*/")] if f.is_dir()):
        return "classify"
    raise DataError(f"{path} holds no picture: give a folder with what to train on")
