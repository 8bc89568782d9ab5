"""TensorRT: the ONNX file that its parser binds to our plugins, and an engine where it is present.

The plugins (csrc/host/tensorrt) know operators by the table of schema.py: `plugin_table` writes it
for their compiler. docs/tensorrt.md says how the library is built and what of it was run where.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bitcompress.backends import export as onnx_file
from bitcompress.backends.schema import DOMAIN, OPERATORS, VERSION, Attribute
from bitcompress.errors import GateError

LIBRARY = "libbitcompress_tensorrt.so"
ENGINE = "model.engine"
BUILD = "make tensorrt-plugins"
WITHOUT = dict.fromkeys(
    ("BitWindows", "BitWindowsCodes", "BitConv2dCodes", "BitLinearCodes"),
    "codes between layers and windows by table are for ONNX Runtime: --to tensorrt writes a "
    "file without them",
)
"""Operators of files that have no plugin, and why: such a file runs in ONNX Runtime alone."""


def export_engine(
    packed: Any,
    path: str | Path,
    example: Any = None,
    *,
    overwrite: bool = False,
    progress: onnx_file.Progress | None = None,
) -> dict[str, Any]:
    """Write the ONNX file as `export` does, and an engine where TensorRT can be imported.

    Returns: the report of the ONNX file, with `tensorrt`: the plugins or how to build them, the
        command that builds an engine, the engine or why there is none.
    Raises: what `export` raises; GateError where TensorRT is there and refuses the file.
    """
    report = onnx_file.export(
        packed, path, example, whole=False, overwrite=overwrite, progress=progress
    )
    place = Path(path) if Path(path).suffix == ".onnx" else Path(path) / onnx_file.NAME
    report["tensorrt"] = told(place)
    lacking = [row["operator"] for row in report["operators"] if row["operator"] in WITHOUT]
    if lacking:
        report["tensorrt"]["reason"] = f"{lacking[0]} has no plugin: {WITHOUT[lacking[0]]}"
    elif report["tensorrt"]["plugins"] is not None:
        report["tensorrt"] |= _engine(place, report["tensorrt"]["plugins"])
    return report


def told(model: Path) -> dict[str, Any]:
    """What a user needs beside the file. The command was never run by this project's tests."""
    library = plugin_library()
    named = LIBRARY if library is None else str(library)
    return {
        "plugins": None if library is None else str(library),
        "build": "" if library is not None else BUILD,
        "command": f"trtexec --onnx={model} --staticPlugins={named} --saveEngine={ENGINE}",
        "engine": None,
        "reason": "" if library is not None else f"{LIBRARY} is not built: {BUILD}",
    }


def plugin_library() -> Path | None:
    """The plugins: BITCOMPRESS_TENSORRT_PLUGINS, or in the package; None where not built."""
    wish = os.environ.get("BITCOMPRESS_TENSORRT_PLUGINS", "")
    beside = Path(__file__).resolve().parents[1] / LIBRARY
    for place in (Path(wish) if wish else None, beside):
        if place is not None and place.is_file():
            return place
    return None


def _engine(model: Path, library: str) -> dict[str, Any]:
    """Build an engine where TensorRT is installed. Raises: GateError where it refuses."""
    try:
        import tensorrt
    except ImportError as error:
        return {"reason": f"TensorRT cannot be imported here ({error}): build with the command"}
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    tensorrt.get_plugin_registry().load_library(library)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(model.read_bytes()):
        said = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise GateError(f"TensorRT does not take {model}: {said[:300]}")
    config = builder.create_builder_config()
    config.add_optimization_profile(_profile(builder, network))
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise GateError(f"TensorRT builds no engine of {model}: see its log above")
    engine = model.with_name(ENGINE)
    engine.write_bytes(bytes(built))
    return {"engine": str(engine)}


def _profile(builder: Any, network: Any) -> Any:
    """Free sizes run from the least that the file allows to 1024 pixels, tuned for 256."""
    profile = builder.create_optimization_profile()
    for number in range(network.num_inputs):
        value = network.get_input(number)
        free = [axis for axis, size in enumerate(value.shape) if size < 0]
        if free:
            sizes = [tuple(1 if axis == 0 else side for axis in free) for side in (64, 256, 1024)]
            shapes = [_filled(value.shape, free, chosen) for chosen in sizes]
            profile.set_shape(value.name, *shapes)
    return profile


def _filled(shape: Any, free: list[int], chosen: tuple[int, ...]) -> tuple[int, ...]:
    sizes = dict(zip(free, chosen, strict=True))
    return tuple(sizes.get(axis, int(size)) for axis, size in enumerate(shape))


KINDS = {"int": "whole", "ints": "wholes", "float": "real"}
"""Of attributes, by their names in csrc/host/tensorrt/operator.h."""


def plugin_table() -> str:
    """csrc/host/tensorrt/operators.inc, which a test compares with this: all that have a plugin."""
    return "".join(_lines())


def _lines() -> Iterator[str]:
    yield "// Written by `python -m bitcompress.backends.tensorrt`; a test compares it with that.\n"
    yield f'constexpr char kDomain[] = "{DOMAIN}";\nconstexpr char kVersion[] = "{VERSION}";\n'
    plugins = [operator for name, operator in OPERATORS.items() if name not in WITHOUT]
    for operator in plugins:
        yield f"\nconstexpr Port k{operator.name}Ports[] = {{\n"
        for port in operator.inputs:
            kind = "real" if port.kind == "number" else port.kind  # codes have no plugin
            yield f'    {{"{port.name}", Kind::{kind}, {_truth(port.count == "one")}}},\n'
        yield "};\n"
        if operator.attributes:
            yield f"constexpr Field k{operator.name}Fields[] = {{\n"
            for a in operator.attributes:
                needed = _truth(a.default is None)
                yield f'    {{"{a.name}", FieldKind::{KINDS[a.kind]}, {needed}, {_number(a)}}},\n'
            yield "};\n"
    yield "\nconstexpr Schema kSchemas[] = {\n"
    for operator in plugins:
        name, count = operator.name, len(operator.attributes)
        fields = f"k{name}Fields" if count else "nullptr"
        yield f'    {{"{name}", k{name}Ports, {len(operator.inputs)}, {fields}, {count}}},\n'
    yield "};\n"


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _number(attribute: Attribute) -> float | int:
    """The default: of a list, that of each of its numbers."""
    default = attribute.default
    if isinstance(default, tuple):
        return default[0] if default else 0
    return 0 if default is None else default


if __name__ == "__main__":
    print(plugin_table(), end="")
