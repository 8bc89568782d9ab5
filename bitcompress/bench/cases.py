"""What `bench kernels` times: one line a case. To add one, add a line.

Sizes of a case, by the family of its operator:
    conv2d*     height, width, channels, filters, kernel, groups
    linear*     rows, K, N
    qk, av      batch, M, K, N: the two products of attention
    attention   batch, tokens, depth
    window_attention*  height, width, channels, heads, window
    *_codes of one operand, encode   rows, channels
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from bitcompress.errors import UsageError


@dataclass(frozen=True)
class Case:
    """One operator at one size. `of` says where the size comes from."""

    op: str
    weight_bits: int
    act_bits: int
    sizes: tuple[int, ...]
    of: str = ""

    @property
    def shape(self) -> str:
        """The sizes in short: 64x64x60-60-3x3 is a 3x3 convolution of 60 channels to 60."""
        s = self.sizes
        if self.op.startswith("conv2d"):
            grouped = f"-g{s[5]}" if s[5] > 1 else ""
            return f"{s[0]}x{s[1]}x{s[2]}-{s[3]}-{s[4]}x{s[4]}{grouped}"
        if self.op.startswith("linear"):
            return f"{s[0]}x{s[1]}-{s[2]}"
        return "x".join(map(str, s))

    @property
    def name(self) -> str:
        """What --only is matched with."""
        return f"{self.op}-w{self.weight_bits}a{self.act_bits}-{self.shape}"


def _conv(op: str, w: int, a: int, *places: tuple[int, int, int, int], of: str = "") -> list[Case]:
    """3x3 convolutions of (height, width, channels, filters)."""
    return [Case(op, w, a, (*place, 3, 1), of) for place in places]


C64, C128, C256 = (64, 64, 64, 64), (64, 64, 128, 128), (28, 28, 256, 256)
C60 = (128, 128, 60, 60)
TOKENS = 16384
SWINIR, DAT, RLFN = "SwinIR-light, 128x128", "DAT-light, 64x64", "RLFN, 64x64"
LINEARS = ((TOKENS, 60, 60), (TOKENS, 60, 120), (TOKENS, 60, 180), (TOKENS, 120, 60))
PRODUCTS = (
    ("qk", (1536, 64, 10, 64), SWINIR), ("av", (1536, 64, 64, 10), SWINIR),
    ("qk", (48, 256, 10, 256), DAT), ("av", (48, 256, 256, 10), DAT),
    ("qk", (512, 64, 32, 64), "Swin, 32 a head"), ("av", (512, 64, 64, 32), "Swin, 32 a head"),
)  # fmt: skip

CASES: tuple[Case, ...] = (
    *_conv("conv2d_codes", 1, 1, C64, C128, C256, of="bits to bits"),
    *_conv("conv2d", 1, 1, C64, C128, C256, of="EDSR body"),
    *_conv("conv2d_codes", 2, 2, C60, C64, C128, C256, of="codes to codes"),
    *_conv("conv2d", 2, 2, C60, C64, C128, C256, of="SwinIR-light, EDSR"),
    *_conv("conv2d_codes", 4, 4, C60, C64, C128, of="codes to codes"),
    *_conv("conv2d_codes", 8, 8, C60, C64, C128, of="codes to codes"),
    *_conv("conv2d", 4, 4, C60, C64, C128),
    *_conv("conv2d", 8, 8, C60, C64, C128),
    Case("conv2d", 2, 2, (64, 64, 52, 52, 3, 1), RLFN),
    Case("conv2d", 2, 2, (64, 64, 52, 52, 1, 1), RLFN),
    Case("conv2d", 2, 2, (64, 64, 60, 60, 3, 60), DAT),
    Case("conv2d", 8, 8, (64, 64, 60, 12, 3, 1), DAT),
    Case("conv2d_sums", 2, 2, (*C64, 3, 1), "codes to integers"),
    Case("conv2d_sums", 8, 8, (*C64, 3, 1), "codes to integers"),
    Case("conv2d_prelu", 1, 1, (*C64, 3, 1), "float in and out"),
    Case("conv2d_residual", 2, 2, (*C64, 3, 1), "EDSR"),
    Case("conv2d_shuffle", 8, 8, (64, 64, 64, 256, 3, 1), "EDSR"),
    *(Case("linear_codes", 2, 2, sizes, SWINIR) for sizes in LINEARS),
    Case("linear_codes", 4, 4, (TOKENS, 60, 180), SWINIR),
    Case("linear_codes", 8, 8, (TOKENS, 60, 180), SWINIR),
    *(Case("linear", 2, 2, sizes, SWINIR) for sizes in LINEARS),
    Case("linear", 4, 4, (TOKENS, 60, 180), SWINIR),
    Case("linear", 8, 8, (TOKENS, 60, 180), SWINIR),
    Case("linear", 1, 1, (4096, 256, 256)),
    Case("linear", 2, 2, (4096, 256, 256)),
    Case("linear", 2, 2, (4096, 60, 180), DAT),
    Case("linear_sums", 2, 2, (4096, 256, 256), "codes to integers"),
    *(Case(op, 2, 2, sizes, of) for op, sizes, of in PRODUCTS),
    Case("qk", 8, 8, PRODUCTS[0][1], SWINIR),
    Case("av", 8, 8, PRODUCTS[1][1], SWINIR),
    Case("attention", 2, 2, (1536, 64, 10), SWINIR),
    Case("attention", 8, 8, (1536, 64, 10), SWINIR),
    Case("attention", 2, 2, (48, 256, 10), DAT),
    *(
        Case(op, bits, bits, (128, 128, 60, 6, 8), SWINIR)
        for op in ("window_attention", "window_attention_codes")
        for bits in (2, 8)
    ),
    Case("encode", 2, 2, (TOKENS, 60), SWINIR),
    Case("layernorm_codes", 2, 2, (TOKENS, 60), SWINIR),
    Case("gelu_codes", 2, 2, (TOKENS, 120), SWINIR),
    Case("softmax_codes", 2, 2, (98304, 64), SWINIR),
)


def select(patterns: Sequence[str], cases: Iterable[Case] = CASES) -> list[Case]:
    """The cases whose name holds, or as a shell pattern matches, one of the patterns; all for none.

    Raises: UsageError for a pattern that matches nothing.
    """
    cases = list(cases)
    if not patterns:
        return cases
    chosen: set[Case] = set()
    for pattern in patterns:
        wanted = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
        found = [case for case in cases if fnmatch(case.name, wanted)]
        if not found:
            ops = ", ".join(dict.fromkeys(case.op for case in cases))
            raise UsageError(
                f"--only {pattern} matches no case; names are like {cases[0].name}, "
                f"operators are {ops}"
            )
        chosen.update(found)
    return [case for case in cases if case in chosen]
