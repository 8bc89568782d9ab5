"""EDSR between two convolutions: parameters, formula, the row without a body, loading."""

from __future__ import annotations

import torch
from torch.nn import functional

from bitcompress.models import MODELS
from bitcompress.models.edsr_direct import EDSRDirect


def test_parameters() -> None:
    model = EDSRDirect(64, 4, 2)
    head, tail, conv = 3 * 9 * 64 + 64, 64 * 9 * 12 + 12, 64 * 9 * 64 + 64
    assert sum(p.numel() for p in model.parameters()) == head + tail + 8 * conv
    bare = EDSRDirect(64, 4, 2, body=False)
    assert sum(p.numel() for p in bare.parameters()) == head + tail


def test_the_formula() -> None:
    model = EDSRDirect(8, 2, 3)
    state = model.state_dict()

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    picture = torch.rand(2, 3, 5, 6)
    mean = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
    x = conv("conv_head", picture - mean)
    for block in ("body.0", "body.1"):
        x = x + conv(f"{block}.conv2", conv(f"{block}.conv1", x).relu())
    expected = functional.pixel_shuffle(conv("conv_tail", x), 3) + mean
    assert torch.allclose(model(picture), expected, atol=1e-6)


def test_a_state_dict_tells_its_sizes() -> None:
    for model in (EDSRDirect(8, 2, 2), EDSRDirect(12, 0, 4, body=False)):
        state = model.state_dict()
        found = [name for name, target in MODELS.items() if target.detect(state)]
        assert found == ["edsr-direct"]
        again = MODELS[found[0]].build(**MODELS[found[0]].config(state))
        again.load_state_dict(state)
        x = torch.rand(1, 3, 4, 4)
        assert torch.equal(again(x), model(x)) and again.scale == model.scale
