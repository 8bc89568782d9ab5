"""What files are: every kind of wrong file is named, with the remedy."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bitcompress.errors import LoadError
from bitcompress.models import checkpoint
from bitcompress.models.load import read_state_dict

Write = Callable[[object], Path]

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}

# ir_version 8, producer "pytorch": the first bytes of a serialized ONNX model
ONNX = b"\x08\x08\x12\x07pytorch:\x10"

BYTES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("m.pt", b"", "is empty.*get it again"),
    "text": ("m.pt", b"hello\nworld\n", "is a text file.*get the file again"),
    "web page": ("m.pth", "<html>Größe</html>".encode(), "text file.*error page"),
    "long text cut in a letter": ("m.pt", b"x" + "ö".encode() * 4000, "is a text file"),
    "LFS pointer": ("m.pth", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "ONNX by content": ("m.pt", ONNX, "is an ONNX file.*give the PyTorch checkpoint"),
    "ONNX by name": ("m.onnx", b"\x00\x01\x02\x03", "is an ONNX file"),
    "random": ("m.pt", bytes(range(1, 200)), "is no checkpoint"),
    "GGUF": ("m.gguf", b"GGUF\x03\x00\x00\x00\x00\xff", "is no checkpoint"),
    "short binary": ("m.pt", b"\x01", "is no checkpoint"),
    "zip start alone": ("m.pt", b"PK\x03\x04 and nothing", "cut-off zip"),
    "pickle start alone": ("m.pt", b"\x80\x02\xff\xff", "damaged or cut off"),
    "safetensors cut off": ("m.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "damaged"),
    "safetensors of nothing": ("m.safetensors", b"zzzz", "damaged safetensors"),
}


@pytest.mark.parametrize("case", BYTES)
def test_bytes_that_are_no_checkpoint(case: str, tmp_path: Path) -> None:
    name, content, expected = BYTES[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(LoadError, match=expected) as caught:
        read_state_dict(path)
    assert str(path) in str(caught.value)


def test_what_is_not_there_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="does not exist.*check the path"):
        read_state_dict(tmp_path / "none.pt")
    with pytest.raises(LoadError, match="is a folder: give the checkpoint file"):
        read_state_dict(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(write: Write) -> None:
    path = write(WEIGHTS)
    path.chmod(0)
    with pytest.raises(LoadError, match="check its rights"):
        read_state_dict(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_every_truncation_is_refused(tmp_path: Path, share: float, zipped: bool) -> None:
    path = tmp_path / "m.pth"
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(LoadError, match="cut.off"):
        read_state_dict(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_old_and_new_torch_load(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "m.th"
    torch.save({"state_dict": WEIGHTS}, path, _use_new_zipfile_serialization=zipped)
    found = read_state_dict(path)
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[key], value) for key, value in WEIGHTS.items())


@pytest.mark.parametrize("name", ["m.safetensors", "m.ckpt"])
def test_safetensors_load_by_content(tmp_path: Path, name: str) -> None:
    save_file({f"module.{k}": v for k, v in WEIGHTS.items()}, tmp_path / name)
    found = read_state_dict(tmp_path / name)
    assert all(torch.equal(found[key], value) for key, value in WEIGHTS.items())


def test_a_torchscript_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"m/{name}", b"x")
    with pytest.raises(LoadError, match=r"TorchScript.*state_dict\(\).*torch.export"):
        read_state_dict(path)


def test_another_zip_file_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", a=np.ones(2))
    with pytest.raises(LoadError, match="zip file without a torch checkpoint"):
        read_state_dict(tmp_path / "m.npz")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"epoch": 3, "lr": 0.1}, "holds no tensors, but 'epoch', 'lr'"),
        ({}, "holds no tensors, but nothing"),
        ({"state_dict": {}}, "holds no tensors"),
        ([torch.ones(2)], "holds a list, not a dict"),
        (torch.ones(2), "holds a Tensor, not a dict"),
        ({"a": torch.tensor([1.0, torch.nan])}, "'a' holds NaN"),
        ({"fine": torch.ones(2), "b": torch.tensor([torch.inf])}, "'b' holds an infinite value"),
        ({"a": torch.ones(1 << 20).expand(64, 1 << 20)}, "claims .* bytes of tensors"),
        ({"a": torch.eye(3).to_sparse()}, "'a' is .*sparse.*give the float checkpoint"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "'a' is .*complex"),
        ({"a": torch.ones(2, device="meta")}, "'a' was saved on the meta device.*save the weights"),
    ],
)
def test_contents_that_are_no_weights(content: object, expected: str, write: Write) -> None:
    if isinstance(content, dict) and "claims" in expected:
        content = {"a": torch.ones(1).expand(1 << 24, 1 << 10)}
    with pytest.raises(LoadError, match=expected):
        read_state_dict(write(content))


def test_what_is_no_tensor_is_left_out(write: Write) -> None:
    found = read_state_dict(write({**WEIGHTS, "epoch": 3, "names": ["a"]}))
    assert found.keys() == WEIGHTS.keys()


def test_a_prefix_goes_only_where_every_key_has_it() -> None:
    some = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert checkpoint.strip_prefixes(some) == some
    assert list(checkpoint.strip_prefixes({"netG.module.a": torch.ones(1)})) == ["a"]


@pytest.mark.parametrize("entry", ["no json", "[1]", '{"arch": 3}', '{"config": [1]}'])
def test_a_wrong_description_is_refused(entry: str) -> None:
    with pytest.raises(LoadError, match="__config__"):
        checkpoint.stored_config(Path("m.safetensors"), {checkpoint.CONFIG_KEY: entry})


def test_a_description_is_read() -> None:
    entry = checkpoint.description("dat", {"split_size": [8, 16]})
    assert checkpoint.stored_config(Path("m"), entry) == ("dat", {"split_size": [8, 16]})
    assert checkpoint.stored_config(Path("m"), {}) == (None, {})


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "m").write_bytes(content)
    assert checkpoint.digest(tmp_path / "m") == hashlib.sha256(content).hexdigest()
