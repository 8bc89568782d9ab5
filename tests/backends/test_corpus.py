"""The files that the fuzzer of ONNX files begins with: one for every operator, each runs."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitcompress.backends.reference import evaluate
from bitcompress.backends.schema import OPERATORS
from bitcompress.backends.session import session_of

pytestmark = pytest.mark.ort
FUZZ = Path(__file__).parents[1] / "fuzz"
CORPUS = runpy.run_path(str(FUZZ / "onnx_corpus.py"))
CASES, FOLDER = CORPUS["cases"](), FUZZ / "onnx"


def test_every_operator_has_a_file() -> None:
    assert {case.operator for case in CASES.values()} == set(OPERATORS)
    assert {path.stem for path in FOLDER.glob("*.onnx")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_the_files_are_what_is_written_today_and_run(ort: Any, name: str) -> None:
    pytest.importorskip("onnx")
    case, data = CASES[name], (FOLDER / f"{name}.onnx").read_bytes()
    assert data == CORPUS["file_of"](case), "write them anew: python tests/fuzz/onnx_corpus.py"
    session = session_of(data, name, 1)
    feed = {value.name: case.inputs[int(value.name[1:])] for value in session.get_inputs()}
    made = session.run(None, feed)[0]
    truth = evaluate(case.operator, case.inputs, case.attributes)
    np.testing.assert_array_equal(made, truth.numpy())
