"""A folder written by the first version that had each format still loads, to the bit.

Each holds a small untrained DAT at 2, 3 and 8 bits with a layer of every kind: packed and
simulated, split, with stretched inputs, with batch norms folded and kept. If this test fails,
files of users fail: raise FORMAT_VERSION, keep reading the old form, and add a new golden folder
beside the old one with `python tests/artifact/test_golden.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bitcompress.artifact import (
    Source,
    describe,
    load,
    round_to_stored,
    save_model,
)
from bitcompress.artifact.encode import READABLE
from bitcompress.calibrate import SEARCHES
from bitcompress.calibrate.equalize import equalize
from bitcompress.calibrate.observe import calibrate
from bitcompress.graph.capture import capture
from bitcompress.graph.fold import fold_batchnorm
from bitcompress.graph.rewrite import Plan, insert, pack_layers
from bitcompress.layers import PackedMatmul
from bitcompress.models import MODELS

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDERS = [GOLDEN / f"packed-format-{version}" for version in READABLE]
each = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.name))
CONFIG = {
    "embed_dim": 32, "depth": [2], "num_heads": [4], "split_size": [4, 8],
    "expansion_factor": 1.0, "upscale": 2, "resi_connection": "3conv",
    "upsampler": "pixelshuffledirect",
}  # fmt: skip


def picture() -> Tensor:
    """An input that no random generator has to remember."""
    ramp = torch.arange(3 * 12 * 12, dtype=torch.float64)
    return (0.5 + 0.5 * torch.sin(ramp * 0.7)).float().view(1, 3, 12, 12)


def fingerprint(model: nn.Module) -> str:
    """The sha256 of all tensors of a model, with their names, types and shapes."""
    hasher = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


@each
def test_the_golden_folder_loads_to_the_bit(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text())
    loaded = load(folder)
    assert fingerprint(loaded.model) == expected["fingerprint"]
    assert loaded.source.config == CONFIG
    assert loaded.recipe == "golden"


@each
def test_it_computes_what_it_computed(folder: Path) -> None:
    expected = load_file(folder / "expected.safetensors")
    with torch.no_grad():
        found = load(folder).model(expected["input"])
    # Integer sums are exact everywhere; exp and the order of float sums may differ by machine, and
    # then a code may flip.
    error = (found - expected["output"]).double().square().mean().sqrt()
    span = expected["output"].max() - expected["output"].min()
    assert float(error) < 0.01 * float(span)


@each
def test_it_holds_every_kind_of_layer(folder: Path) -> None:
    found = describe(folder)
    kinds = Counter((row["op"], row["state"]) for row in found["layers"])
    assert kinds.keys() == {
        (op, state) for op in ("linear", "conv2d", "matmul") for state in ("packed", "simulated")
    }
    assert {row["weight_bits"] for row in found["layers"]} == {2, 3, 8}
    assert sum("parts" in row for row in found["layers"]) == 1
    assert found["bytes"]["input_channels"] > 0
    assert [edit["edit"] for edit in found["edits"]] == ["identity"]
    assert any(row["name"].endswith("running_var") for row in found["tensors"])


def test_products_by_row_are_known_since_format_2() -> None:
    by_row = [
        {m.per_row for m in load(folder).model.modules() if isinstance(m, PackedMatmul)}
        for folder in FOLDERS
    ]
    assert by_row == [{False}, {False, True}]


def write() -> None:
    """Make the golden folder of the newest version."""
    folder = FOLDERS[-1]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = MODELS["dat"].build(**CONFIG).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    x = picture()
    captured = capture(net, x)
    assert captured.recording is not None
    kept = net.layers[0].blocks[1].attn.dwconv[1]
    kept.register_forward_hook(lambda *_: None)  # so that it is not folded
    folded, _ = fold_batchnorm(net, captured.recording)
    kept._forward_hooks.clear()
    plans = []
    for number, site in enumerate(s for s in captured.sites if not s.refusal):
        bits = (2, 3, 8)[number % 3]
        plan = Plan(site, bits, (8, 2, 3)[number % 3])
        if site.name.endswith("blocks.1.attn.qkv"):
            plan = replace(plan, split=3, per_channel=False)
        plans.append(plan)
    model = insert(captured, plans)
    stretched = [p.site.name for p in plans if p.site.name.endswith(("fc1", "proj"))]
    equalize(model, [x], stretched)
    calibrate(model, [x], SEARCHES["minmax"])
    simulated = [
        next(p.site.name for p in plans if p.site.op == op and p.split == 1)
        for op in ("linear", "conv2d", "matmul")
    ]
    pack_layers(model, frozenset(simulated))
    round_to_stored(model)
    source = Source("dat", CONFIG, "sr", 2, 1.0, "", "bitcompress.models.dat:DAT")
    edits = [{"edit": "identity", "names": folded}]
    save_model(model, source, folder, edits=edits, recipe="golden")
    with torch.no_grad():
        save_file({"input": x, "output": model(x)}, folder / "expected.safetensors")
    text = json.dumps({"fingerprint": fingerprint(model)}, indent=1)
    (folder / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    write()
