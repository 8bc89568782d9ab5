"""Which task it is: by name, by the model, by the data; and the sentence where nothing tells."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from bitcompress.errors import DataError, UsageError
from bitcompress.models.edsr_direct import EDSRDirect
from bitcompress.tasks import TASKS, Request, task_of


def test_the_model_or_the_data_tell(classes_folder: Path, photos: Path) -> None:
    assert task_of(Request(data=classes_folder)).name == "classify"
    options = {"patch": 8}
    assert task_of(Request(data=photos, scale=2, options=options)).name == "sr"
    model = EDSRDirect(8, 1, 2)
    assert task_of(Request(data=photos, scale=2, model=model, options=options)).name == "sr"
    (photos / "HR").mkdir()
    with pytest.raises(DataError, match="needs a scale"):  # of HR pictures, but which scale?
        task_of(Request(data=photos))


def test_names_are_obeyed(classes_folder: Path) -> None:
    with pytest.raises(DataError, match="holds no pictures with maps"):
        task_of(Request(data=classes_folder), "segment")
    with pytest.raises(UsageError, match=f"no task 'sing'; the tasks are {sorted(TASKS)[0]}"):
        task_of(Request(data=classes_folder), "sing")


def test_what_tells_nothing_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing tells what the model is for"):
        task_of(Request(model=nn.ReLU()))
    with pytest.raises(DataError, match="pictures without labels"):
        task_of(Request(data=photos))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no picture: give a folder"):
        task_of(Request(data=tmp_path / "empty"))
    with pytest.raises(DataError, match="no such folder or zip"):
        task_of(Request(data=tmp_path / "nothing"))
