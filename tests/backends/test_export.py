"""A packed model as a file: the same bits as in torch, at any size, from any thread, or refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bitcompress
from bitcompress.backends.metric import check_metric
from bitcompress.backends.runner import FileModel
from bitcompress.backends.session import ort_session, session_of
from bitcompress.data.images import read_image, write_image
from bitcompress.errors import (
    GateError,
    LoadError,
    OutputError,
    ShapeError,
    Unavailable,
    UsageError,
)
from bitcompress.models import MODELS

pytestmark = pytest.mark.ort
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(ort: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed EDSR with its exported file inside."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("packed")
    net = MODELS["edsr"].build(num_feat=8, num_block=1, upscale=2)
    torch.save({"params": net.state_dict()}, place / "net.pth")
    result = bitcompress.quantize(place / "net.pth", bits=2, recipe="minmax")
    bitcompress.save(result, place / "out")
    bitcompress.export(bitcompress.load(place / "out"), place / "out")
    return place / "out"


def test_what_quantize_gave_is_taken_and_other_things_are_refused(ort: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 3, 3)).eval()
    x = picture(1, 3, 12, 12)
    result = bitcompress.quantize(net, (x,), recipe="minmax", data=[x])
    report = bitcompress.export(result, tmp_path / "model.onnx", (x,))
    assert (tmp_path / "model.onnx").stat().st_size == report["file_bytes"]
    with pytest.raises(UsageError, match="a Sequential is no packed model: give what load"):
        bitcompress.export(net, tmp_path / "other.onnx", (x,))  # type: ignore[arg-type]


def picture(*shape: int) -> torch.Tensor:
    """Seeded pixels."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(7))


def test_the_file_computes_what_the_packed_model_computes(folder: Path) -> None:
    model, file = bitcompress.load(folder).model, FileModel(folder / "model.onnx")
    for shape in [(1, 3, 16, 16), (3, 3, 21, 34), (1, 3, 5, 9)]:
        with torch.no_grad():
            assert torch.equal(file(picture(*shape)), model(picture(*shape)))


def test_the_report_lies_beside_and_tells_of_the_gate(folder: Path) -> None:
    report = json.loads((folder / "model.onnx.json").read_text())
    assert report["file_bytes"] == (folder / "model.onnx").stat().st_size
    assert len({tuple(row["input"]) for row in report["whole"]}) == 2
    assert all(row["flipped_codes"] < 1e-4 for row in report["whole"])
    metric = report["metric"]
    assert metric["apart_db"] == abs(metric["packed_db"] - metric["file_db"]) <= 0.01
    assert 5 < metric["packed_db"] < 60
    assert {row["operator"] for row in report["operators"]} == {"BitConv2d", "BitConv2dCodes"}
    assert all(row["unequal"] == 0 for row in report["operators"])
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith("model.onnx")) == [
        "model.onnx", "model.onnx.json",
    ]  # fmt: skip


def test_a_file_with_another_metric_is_refused() -> None:
    check_metric(None)
    check_metric({"packed_db": 30.0, "file_db": 30.009, "apart_db": 0.009})
    for apart in (0.011, float("nan")):
        with pytest.raises(GateError, match=r"metric: 30\.000 dB on a photograph"):
            check_metric({"packed_db": 30.0, "file_db": 30.0, "apart_db": apart})


def test_weights_stay_packed(folder: Path) -> None:
    report = json.loads((folder / "model.onnx.json").read_text())
    index = bitcompress.load(folder)
    stored = sum(
        module.codes.numel() for module in index.model.modules() if hasattr(module, "codes")
    )
    assert (
        stored <= report["initializer_bytes"] <= 1.1 * (folder / "model.safetensors").stat().st_size
    )
    assert report["bytes"]["kept"] and report["bytes"]["packed_bytes"] > stored
    assert report["file_bytes"] - report["initializer_bytes"] <= 200 * report["nodes"] + 1000


def test_threads_agree_and_memory_stays(folder: Path) -> None:
    soak(folder, calls=200)


@pytest.mark.slow
def test_ten_thousand_calls_take_no_memory(folder: Path) -> None:
    soak(folder, calls=10_000)


def soak(folder: Path, calls: int) -> None:
    """Calls from eight threads in two sessions: the same numbers, and no growth after the first."""
    sessions = [ort_session(folder / "model.onnx", threads=n) for n in (1, 2)]
    x = picture(1, 3, 16, 16).numpy()
    truth = sessions[0].run(None, {"input": x})[0]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(calls // 8):
            made = sessions[number % 2].run(None, {"input": x})[0]
            if not np.array_equal(made, truth):
                wrong.append(number)

    def resident() -> int:
        pages = Path("/proc/self/statm")
        return int(pages.read_text().split()[1]) * 4096 if pages.exists() else 0

    def together() -> None:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    together()
    before = resident()
    together()
    assert not wrong
    assert resident() - before < 16 << 20


@pytest.mark.parametrize("at", [0, 10, 100, 1000, -1, -200])
def test_a_changed_byte_is_refused(folder: Path, tmp_path: Path, at: int) -> None:
    data = bytearray((folder / "model.onnx").read_bytes())
    data[at] ^= 0x10
    (tmp_path / "bad.onnx").write_bytes(data)
    with pytest.raises(LoadError, match="changed|cut off"):
        ort_session(tmp_path / "bad.onnx")


@pytest.mark.parametrize("kept", [0, 1, 100, -1, -100])
def test_a_cut_file_is_refused(folder: Path, tmp_path: Path, kept: int) -> None:
    data = (folder / "model.onnx").read_bytes()
    (tmp_path / "bad.onnx").write_bytes(data[:kept])
    with pytest.raises(LoadError, match="changed|cut off"):
        ort_session(tmp_path / "bad.onnx")


def test_changed_bytes_never_crash_what_reads_them_unsealed(folder: Path) -> None:
    data = (folder / "model.onnx").read_bytes()
    generator = np.random.default_rng(0)
    x = {"input": picture(1, 3, 8, 8).numpy()}
    for _ in range(60):
        bad = bytearray(data)
        for at in generator.integers(0, len(bad), 3):
            bad[at] = int(generator.integers(0, 256))
        try:
            session_of(bytes(bad), "the file", 1).run(None, x)
        except Exception as error:
            assert str(error)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"none\.onnx cannot be read"):
        ort_session(tmp_path / "none.onnx")


def test_a_missing_library_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITCOMPRESS_ORT_LIBRARY", "/nowhere/lib.so")
    with pytest.raises(Unavailable, match="is missing: reinstall"):
        ort_session(folder / "model.onnx")


def test_a_library_of_another_version_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = shutil.which("c++") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no compiler to make a library of another version")
    source = tmp_path / "other.c"
    source.write_text("int bitcompress_operator_version(void) { return 99; }")
    command = [compiler, "-x", "c", "-shared", "-fPIC", str(source), "-o", str(tmp_path / "l.so")]
    subprocess.run(command, check=True)
    monkeypatch.setenv("BITCOMPRESS_ORT_LIBRARY", str(tmp_path / "l.so"))
    with pytest.raises(Unavailable, match="has version 99 of the operators"):
        ort_session(folder / "model.onnx")


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(1, 4, 8, 8),
        torch.zeros(3, 8, 8),
        torch.zeros(1, 3, 8, 8, dtype=torch.float64),
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
    ],
)
def test_inputs_that_the_file_does_not_take(folder: Path, x: torch.Tensor) -> None:
    with pytest.raises(ShapeError, match="does not take"):
        FileModel(folder / "model.onnx")(x)


def test_an_empty_batch_is_an_empty_batch(folder: Path) -> None:
    assert FileModel(folder / "model.onnx")(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 16, 16)


def test_the_place_is_asked_for_before_the_work(folder: Path) -> None:
    with pytest.raises(OutputError, match="exists already"):
        bitcompress.export(bitcompress.load(folder), folder)


class Airy(nn.Module):
    """An operator that no file has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shapes: any -> as x."""
        return torch.special.airy_ai(x)  # type: ignore[no-any-return]


class Odd(nn.Module):
    """A network with such an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.act = Airy()
        self.tail = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shapes: (N, 3, H, W) -> as x."""
        return self.tail(self.act(self.body(x)))  # type: ignore[no-any-return]


def test_what_cannot_be_translated_is_named_and_nothing_is_left(ort: Any, tmp_path: Path) -> None:
    x = picture(1, 3, 8, 8)
    packed = bitcompress.quantize(Odd().eval(), (x,), bits=2, recipe="minmax", data=[(x,)]).model
    with pytest.raises(GateError, match=r"translate: .*airy_ai.* of act has no form"):
        bitcompress.export(packed, tmp_path / "odd.onnx", (x,))
    assert not list(tmp_path.iterdir())


class Two(nn.Module):
    """Two outputs, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.mask = nn.Conv2d(8, 4, 1)
        self.score = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Shapes: (N, 3, H, W) -> (N, 4, H, W) and (N, 5)."""
        y = self.body(x).relu()
        return {"mask": self.mask(y), "score": self.score(y.mean((2, 3)))}


def test_outputs_of_a_dict_keep_their_names(ort: Any, tmp_path: Path) -> None:
    x = picture(1, 3, 8, 8)
    packed = bitcompress.quantize(Two().eval(), (x,), bits=2, recipe="minmax", data=[(x,)]).model
    bitcompress.export(packed, tmp_path / "two.onnx", (x,))
    session = ort_session(tmp_path / "two.onnx")
    names = ["mask", "score"]
    made = dict(zip(names, session.run(names, {"input": x.numpy()}), strict=True))
    with torch.no_grad():
        truth = packed(x)
    for name, value in truth.items():
        torch.testing.assert_close(torch.from_numpy(made[name]), value, rtol=1e-5, atol=1e-6)


def test_run_takes_a_file(folder: Path, tmp_path: Path) -> None:
    pixels = (picture(20, 30, 3) * 255).byte().numpy()
    write_image(tmp_path / "in.png", pixels)
    for model in (folder, folder / "model.onnx"):
        command = [sys.executable, "-m", "bitcompress", "run", str(model), str(tmp_path / "in.png")]
        subprocess.run([*command, "-o", str(tmp_path / f"{model.name}.png")], check=True)
    made = [read_image(tmp_path / name) for name in ("out.png", "model.onnx.png")]
    assert np.array_equal(*made)


def test_the_example_program_runs_without_python(folder: Path, tmp_path: Path, ort: Any) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    from bitcompress.backends.session import library

    runtime = next((Path(ort.__file__).parent / "capi").glob("libonnxruntime.so*"))
    program = tmp_path / "enlarge"
    source = ROOT / "examples" / "deploy" / "enlarge.cc"
    command = [compiler, "-std=c++17", "-I", str(ROOT / "csrc" / "host" / "onnxruntime")]
    subprocess.run([*command, str(source), "-o", str(program), "-ldl"], check=True)
    pixels = (picture(12, 17, 3) * 255).byte().numpy()
    (tmp_path / "in.ppm").write_bytes(b"P6\n17 12\n255\n" + pixels.tobytes())
    words = [runtime, library(), folder / "model.onnx", tmp_path / "in.ppm", tmp_path / "out.ppm"]
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = np.frombuffer((tmp_path / "out.ppm").read_bytes()[-34 * 24 * 3 :], np.uint8)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        y = bitcompress.load(folder).model(x)[0].clamp(0, 1).mul(255).round().byte()
    assert np.array_equal(made.reshape(24, 34, 3), y.permute(1, 2, 0).numpy())
    refused = subprocess.run([program, *words[:2], "none.onnx", *words[3:]], capture_output=True)
    assert refused.returncode == 1 and refused.stderr.startswith(b"error: ")


def test_a_fixed_size_is_explained_by_what_was_passed_over() -> None:
    from bitcompress.cli.export import summary

    report: dict[str, Any] = {
        "sizes": {"step": 0, "reason": ""}, "passed_over": "run: another size fails",
        "file_bytes": 1, "nodes": 1, "initializer_bytes": 1, "packed_bytes": 1, "whole": [],
        "operators": [],
    }  # fmt: skip
    said = summary(report, Path("m.onnx"))
    assert "takes the one size of the example (run: another size fails)" in said
