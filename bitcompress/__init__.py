"""bitcompress: a trained torch model in, a really small, really packed low-bit one out.

result = bitcompress.quantize(model, example_inputs, bits=2, data=batches)
bitcompress.save(result, "out/")
model = bitcompress.load("out/", model=float_instance).model
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitcompress.api import Inspection as Inspection
    from bitcompress.api import Result as Result
    from bitcompress.api import analyze as analyze
    from bitcompress.api import inspect as inspect
    from bitcompress.api import load as load
    from bitcompress.api import quantize as quantize
    from bitcompress.api import save as save
    from bitcompress.api_binary import BinaryResult as BinaryResult
    from bitcompress.api_binary import binarize as binarize
    from bitcompress.backends.export import export as export
    from bitcompress.backends.session import ort_session as ort_session
    from bitcompress.errors import BitcompressError as BitcompressError
    from bitcompress.models.load import load_model as load_model
    from bitcompress.recipe import BinaryRecipe as BinaryRecipe
    from bitcompress.recipe import Recipe as Recipe

__version__ = "0.1.0"

_HOMES = {
    "Inspection": "bitcompress.api",
    "Result": "bitcompress.api",
    "analyze": "bitcompress.api",
    "inspect": "bitcompress.api",
    "load": "bitcompress.api",
    "quantize": "bitcompress.api",
    "save": "bitcompress.api",
    "BinaryResult": "bitcompress.api_binary",
    "binarize": "bitcompress.api_binary",
    "BinaryRecipe": "bitcompress.recipe",
    "export": "bitcompress.backends.export",
    "ort_session": "bitcompress.backends.session",
    "BitcompressError": "bitcompress.errors",
    "load_model": "bitcompress.models.load",
    "Recipe": "bitcompress.recipe",
}

__all__ = [*sorted(_HOMES), "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that `import bitcompress` stays light."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'bitcompress' has no attribute {name!r}")
