"""A folder of a binary model, as the first version with such models wrote it, still loads.

It holds a small untrained EDSR of BI-DiffSR's blocks: single ones, several in the place of one
layer, and a call that a block took over. `python tests/artifact/test_golden_binary.py` writes it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from bitcompress.artifact import Source, describe, load, save_model
from bitcompress.blocks import (
    BlockPolicy,
    Parts,
    insert_blocks,
    pack_blocks,
    prepare_binary,
    settle,
)
from bitcompress.layers.binary import PackedBlock
from bitcompress.models import MODELS

GOLDEN = Path(__file__).parents[1] / "golden" / "packed-binary-2"
CONFIG = {"num_feat": 8, "num_block": 1, "upscale": 2}
SOURCE = Source("edsr", CONFIG, "sr", 2, 1.0, "", "bitcompress.models.edsr:EDSR")
FINGERPRINT = "9a46cdbcf9a1bba6ccd8e56045129db7dde106781842f7deb0c4ac4d3fb883f7"


def picture() -> Tensor:
    """An input that no random generator has to remember."""
    ramp = torch.arange(3 * 8 * 8, dtype=torch.float64)
    return (0.5 + 0.5 * torch.sin(ramp * 0.7)).float().view(1, 3, 8, 8)


def fingerprint(model: nn.Module) -> str:
    """The sha256 of all tensors of a model, with their names, types and shapes."""
    hasher = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


def write() -> None:
    """Make the folder."""
    torch.manual_seed(0)
    net = MODELS["edsr"].build(**CONFIG).eval()
    plan = prepare_binary(net, picture(), BlockPolicy("bidiffsr", min_channels=1))
    student = insert_blocks(plan)
    settle(student, [picture()])
    pack_blocks(student)
    save_model(student, SOURCE, GOLDEN, edits=plan.edits, overwrite=True)
    print(fingerprint(student))


def test_the_folder_loads_to_the_bit() -> None:
    model = load(GOLDEN).model
    assert fingerprint(model) == FINGERPRINT
    assert sum(isinstance(m, PackedBlock) for m in model.modules()) == 3 + 4
    assert [m.form for m in model.modules() if isinstance(m, Parts)] == ["wide"]
    with torch.no_grad():
        y = model(picture())
    assert y.shape == (1, 3, 16, 16) and bool(torch.isfinite(y).all())


def test_it_is_described_without_being_built() -> None:
    told = describe(GOLDEN)
    rows = {row["name"]: row for row in told["layers"]}
    assert rows["body.0.conv1"]["op"] == "block" and rows["upsample.0"]["parts"] == 4
    assert rows["body.0.conv1"]["codes"] == 8 * 8 * 9 // 8


if __name__ == "__main__":
    write()
