"""The structs of csrc/include/bitcompress/cuda.h, field by field, for ctypes."""

from __future__ import annotations

import ctypes
from ctypes import c_int32, c_int64, c_void_p
from typing import Any


class Numbers(ctypes.Structure):
    """bc_cuda_numbers."""

    _fields_ = (("data", c_void_p), ("type", c_int32), ("count", c_int64))


class Conv2d(ctypes.Structure):
    """bc_conv2d."""

    _fields_ = tuple(
        (name, c_int64)
        for name in (
            "images", "height", "width", "channels", "filters", "kernel_h", "kernel_w", "groups",
            "stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w",
        )
    )  # fmt: skip


class Layer(ctypes.Structure):
    """bc_cuda_layer."""

    kept: Any
    """Tensors whose memory the record points at."""
    _fields_ = (
        ("conv", Conv2d), ("x_bits", c_int32), ("w_bits", c_int32), ("weight", Numbers),
        *((name, Numbers) for name in ("w_scale", "w_offset", "x_scale", "x_offset")),
        *((name, Numbers) for name in ("stretch", "shift", "bias")),
    )  # fmt: skip


class Run(ctypes.Structure):
    """bc_cuda_run."""

    _fields_ = (
        ("images", c_int64), ("height", c_int64), ("width", c_int64), ("x", Numbers),
        ("x_order", c_int32), ("head", c_void_p), ("head_count", c_int64), ("tail", c_void_p),
        ("tail_count", c_int64), ("out", c_void_p), ("out_type", c_int32), ("out_order", c_int32),
        ("form", c_int32),
    )  # fmt: skip


class Matrices(ctypes.Structure):
    """bc_cuda_matrices."""

    _fields_ = (("numbers", Numbers), ("matrix", c_int64), ("row", c_int64), ("column", c_int64))


class Grid(ctypes.Structure):
    """bc_cuda_grid."""

    _fields_ = (
        ("scale", Numbers), ("offset", Numbers), ("bits", c_int32), ("per_length", c_int32),
        ("shortest", c_int64),
    )  # fmt: skip


class Product(ctypes.Structure):
    """bc_cuda_product."""

    _fields_ = (
        ("batch", c_int64), ("m", c_int64), ("n", c_int64), ("k", c_int64), ("a", Matrices),
        ("b", Matrices), ("a_grid", Grid), ("b_grid", Grid), ("per_row", c_int32),
        ("out", c_void_p), ("out_type", c_int32), ("form", c_int32),
    )  # fmt: skip
