"""Shape rules: which form suits a layer, and that its parts are the layer's own weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bitcompress.blocks.forms import Form, form_of, is_same
from bitcompress.blocks.made import PIECES, pixel_weights
from bitcompress.blocks.parts import WIRINGS, Parts, channel_index, spread
from bitcompress.errors import NotPackable, ShapeError
from bitcompress.graph.absorb import Behind, Surroundings
from bitcompress.graph.intercept import Call

ALONE = Surroundings()
ENLARGED = replace(ALONE, enlarged=Behind((Call("", "interpolate", 0),), "interpolate"))
JOINED = replace(ALONE, joined=(8, 8))

FORMS: dict[str, tuple[nn.Module, Surroundings, Form | str]] = {
    "same": (nn.Conv2d(8, 8, 3, padding=1), ALONE, Form()),
    "fusion": (nn.Conv2d(16, 8, 1), JOINED, Form("fusion", 2)),
    "fusion of 3 x 3": (nn.Conv2d(16, 8, 3, padding=1), JOINED, Form("fusion", 2)),
    "uneven join": (nn.Conv2d(12, 8, 1), replace(ALONE, joined=(8, 4)), "8 and 4 channels"),
    "join of three": (nn.Conv2d(24, 8, 1), replace(ALONE, joined=(8, 8, 8)), Form()),
    "strided join": (nn.Conv2d(16, 8, 3, 2, 1), JOINED, "no CP-Down of 16 to 8"),
    "down to 2C": (nn.Conv2d(8, 16, 3, 2, 1), ALONE, Form("down", 2)),
    "down to C": (nn.Conv2d(8, 8, 3, 2, 1), ALONE, Form("down", 4)),
    "down to 4C": (nn.Conv2d(8, 32, 5, 2, 2), ALONE, Form("down", 1)),
    "down to 3C": (nn.Conv2d(8, 24, 3, 2, 1), ALONE, "no CP-Down of 8 to 24"),
    "down of 2 x 2": (nn.Conv2d(8, 16, 2, 2), ALONE, "do not halve"),
    "down without border": (nn.Conv2d(8, 16, 3, 2), ALONE, "do not halve"),
    "up to C/2": (nn.Conv2d(8, 4, 3, padding=1), ENLARGED, Form("up", 2)),
    "up to C": (nn.Conv2d(8, 8, 3, padding=1), ENLARGED, Form("up", 4)),
    "up to C/4": (nn.Conv2d(8, 2, 3, padding=1), ENLARGED, Form("up", 1)),
    "up to 2C": (nn.Conv2d(8, 16, 3, padding=1), ENLARGED, "no CP-Up of 8 to 16"),
    "transposed": (nn.ConvTranspose2d(8, 4, 4, 2, 1), ALONE, Form("up", 2)),
    "transposed 2 x 2": (nn.ConvTranspose2d(8, 8, 2, 2), ALONE, Form("up", 4)),
    "transposed by more": (nn.ConvTranspose2d(8, 8, 3, 2), ALONE, "does not double"),
    "transposed by 4": (nn.ConvTranspose2d(8, 8, 4, 4), ALONE, Form()),
}


@pytest.mark.parametrize("name", FORMS)
def test_each_layer_has_its_form_or_a_reason(name: str) -> None:
    layer, around, wanted = FORMS[name]
    found = form_of(layer, around, reshape=True)  # type: ignore[arg-type]
    if isinstance(wanted, str):
        assert found.kind == "block" and wanted in found.refused
    else:
        assert found == wanted
    assert form_of(layer, around, reshape=False) == Form()  # type: ignore[arg-type]


def test_linears_of_q_k_and_v_split() -> None:
    assert form_of(nn.Linear(8, 24), ALONE, reshape=False, parts=3) == Form("split", 3)


def test_what_keeps_its_size() -> None:
    assert is_same(nn.Conv2d(3, 4, 3, padding="same"))
    assert is_same(nn.Conv2d(3, 4, (1, 5), padding=(0, 4), dilation=2))
    for odd in (
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(3, 4, 2, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(3, 4, 3, padding=1, stride=2),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
    ):
        assert not is_same(odd)


# ---- Parts are the layer ------------------------------------------------------------------------


def whole(layer: nn.Module, form: Form) -> Parts:
    pieces = PIECES[form.kind](layer, form.parts)  # type: ignore[arg-type]
    return Parts(form.kind, pieces, type(layer).__name__, layer.weight.shape)  # type: ignore[arg-type]


EXACT: dict[str, tuple[nn.Module, Form, Callable[[Tensor], Tensor]]] = {
    "split": (nn.Linear(8, 24), Form("split", 3), lambda x: x.flatten(2).mT),
    "wide": (nn.Conv2d(8, 24, 3, padding=1), Form("wide", 3), lambda x: x),
    "narrow": (nn.Conv2d(8, 2, 3, padding=2, dilation=2), Form("narrow", 4), lambda x: x),
    "fusion": (nn.Conv2d(8, 4, 1), Form("fusion", 2), lambda x: x),
    "fusion 3 x 3": (nn.Conv2d(8, 4, 3, padding=1, bias=False), Form("fusion", 2), lambda x: x),
    "transposed 2": (nn.ConvTranspose2d(8, 8, 2, 2), Form("up", 4), lambda x: x),
    "transposed 3": (nn.ConvTranspose2d(8, 4, 3, 2, 1, 1), Form("up", 2), lambda x: x),
    "transposed 4": (nn.ConvTranspose2d(8, 2, 4, 2, 1, bias=False), Form("up", 1), lambda x: x),
    "transposed 6": (nn.ConvTranspose2d(8, 4, 6, 2, 2), Form("up", 2), lambda x: x),
}


@pytest.mark.parametrize("name", EXACT)
def test_float_parts_together_are_the_layer(name: str) -> None:
    layer, form, given = EXACT[name]
    torch.manual_seed(0)
    x = given(torch.randn(2, 8, 5, 6))
    with torch.no_grad():
        assert torch.allclose(whole(layer, form)(x), layer(x), atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_an_enlargement_and_its_convolution_are_one_at_the_small_size(kernel: int) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(8, 4, kernel, padding=kernel // 2), torch.randn(2, 8, 5, 6)
    with torch.no_grad():
        wanted = layer(F.interpolate(x, scale_factor=2.0))
        assert torch.allclose(whole(layer, Form("up", 2))(x), wanted, atol=1e-5)


def test_kernels_that_see_too_far_are_refused() -> None:
    with pytest.raises(NotPackable, match="kernel of 7 sees more than 3"):
        pixel_weights(nn.Conv2d(8, 8, 7, padding=3))
    with pytest.raises(NotPackable, match="kernel of 8 sees more than 3"):
        pixel_weights(nn.ConvTranspose2d(8, 8, 8, 2, 3))


def test_wirings_of_the_paper_by_hand() -> None:
    same = [nn.Identity(), nn.Identity()]
    x = torch.arange(8.0).view(1, 8, 1, 1).expand(1, 8, 2, 2).clone()
    fused = Parts("fusion", same, "Conv2d", (4, 8, 1, 1))(x)
    # Odd ones of the first half and even ones of the second, then the others.
    assert fused[0, :, 0, 0].tolist() == [1 + 0, 3 + 2, 4 + 5, 6 + 7]
    down = Parts("down", same, "Conv2d", (16, 8, 3, 3))(x)
    assert down.shape == (1, 16, 1, 1) and down[0, ::4, 0, 0].tolist() == [4, 6, 8, 10]
    up = Parts("up", same, "Conv2d", (4, 8, 3, 3))(x)
    assert up.shape == (1, 4, 4, 4) and up[0, 1, :2, :2].flatten().tolist() == [4, 5, 6, 7]
    odd = Parts("down", same, "Conv2d", (16, 8, 3, 3))(torch.rand(1, 8, 3, 5))
    assert odd.shape == (1, 16, 2, 3)


@pytest.mark.parametrize("how", sorted({wiring.spread for wiring in WIRINGS.values()}))
def test_channels_are_shared_out_as_the_weights_are(how: str) -> None:
    x = torch.randn(2, 8, 3, 3)
    parts = 2
    for each, index in zip(
        spread(x, how, parts),
        channel_index(8, how, parts),
        strict=True,  # type: ignore[arg-type]
    ):
        assert torch.equal(each, x[:, index])
    if how != "all":
        with pytest.raises(ShapeError, match="cannot be shared out"):
            channel_index(7, how, parts)  # type: ignore[arg-type]
