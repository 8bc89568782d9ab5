"""The house rules that a program can check: who imports whom, what stays light, how long files are.

To amend them, change the tables at the top. Each finding names the file and the line.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bitcompress"

# Rooms (folders, or files by their stem) from the ground up: each may import what stands before it.
ORDER = [
    "errors",
    "memory",
    "native",
    "tiles",
    "quant",
    "packed",
    "layers",
    "graph",
    "program",
    "parity",
    "train",
    "calibrate",
    "blocks",
    "measure",
    "tasks",
    "budget",
    "recipe",
    "feed",
    "plan",
    "artifact",
    "walk",
    "backends",
    "api",
    "walk_binary",
    "api_binary",
    "bench",
    "progress",
    "doctor",
    "cli",
    "__main__",
]
# Rooms that stand beside the order import these rooms and no other; `recipe` is kept as poor.
ONLY = {"data": {"errors"}, "models": {"errors"}, "recipe": {"errors"}}
# The lowest room that may import them.
BESIDE_FROM = {"data": "measure", "models": "measure"}

# Packages that a file may import at its top, beside the standard library.
LIGHT = {"bitcompress", "numpy", "torch", "safetensors", "pydantic", "yaml", "tqdm"}
# Further packages at the top of some files.
LIGHT_IN = {
    "click": ["cli/*"],
    "rich": ["cli/*", "progress.py"],
}
# Rooms that get by with less.
LIGHT_ONLY = {
    "data": {"bitcompress", "numpy", "torch"},
    "models": {"bitcompress", "numpy", "torch", "safetensors"},
}
# Large or optional: imported inside the function that needs them, or not at all.
HEAVY = {
    "accelerate",
    "diffusers",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "PIL",
    "scipy",
    "skimage",
    "spandrel",
    "tensorboard",
    "tensorrt",
}
NEVER = {"torchvision", "einops", "timm"}

LONGEST_FILE = 500


@dataclass(frozen=True)
class Import:
    """One imported module, and whether that happens when the file is imported."""

    path: Path
    line: int
    module: str
    at_top: bool

    @property
    def where(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"

    @property
    def package(self) -> str:
        return self.module.split(".")[0]


def for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports_of(path: Path) -> Iterator[Import]:
    def walk(node: ast.AST, at_top: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(path, child.lineno, alias.name, at_top)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: write the import in full"
                module = child.module or ""
                if module == "bitcompress":  # from bitcompress import errors
                    for alias in child.names:
                        yield Import(path, child.lineno, f"bitcompress.{alias.name}", at_top)
                else:
                    yield Import(path, child.lineno, module, at_top)
            else:
                function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, at_top and not function and not for_types_only(child))

    yield from walk(ast.parse(path.read_text(), str(path)), True)


def python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


IMPORTS = [found for path in python_files(PACKAGE) for found in imports_of(path)]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor(room: str) -> int:
    for number, pattern in enumerate(ORDER):
        if fnmatch(room, pattern):
            return number
    pytest.fail(f"{room} has no place yet: add it to ORDER in {Path(__file__).name}")


def objection(room: str, target: str) -> str:
    """Why `room` may not import `target`; empty where it may."""
    if room in (target, "__init__"):
        return ""
    if room in ONLY:
        return "" if target in ONLY[room] else f"{room} may import {sorted(ONLY[room])} only"
    if target in BESIDE_FROM:
        lowest = BESIDE_FROM[target]
        return "" if floor(room) >= floor(lowest) else f"{target} is for {lowest} and above"
    return "" if floor(target) < floor(room) else f"{target} stands above {room}"


def test_rooms_import_downwards() -> None:
    findings = []
    for found in IMPORTS:
        if found.package != "bitcompress" or found.module in ("bitcompress", "bitcompress._native"):
            continue
        reason = objection(room_of(found.path), found.module.split(".")[1])
        if reason:
            findings.append(f"{found.where}: imports {found.module}, but {reason}")
    assert not findings, "\n".join(findings)


def test_only_one_file_knows_the_native_module() -> None:
    findings = [f.where for f in IMPORTS if f.module.startswith("bitcompress._native")]
    assert not findings, f"ask bitcompress.native instead: {findings}"


def test_tops_of_files_import_light_packages() -> None:
    findings = []
    for found in IMPORTS:
        if not found.at_top or found.package in sys.stdlib_module_names:
            continue
        inside = found.path.relative_to(PACKAGE).as_posix()
        light = LIGHT_ONLY.get(room_of(found.path), LIGHT)
        here = any(fnmatch(inside, pattern) for pattern in LIGHT_IN.get(found.package, []))
        if found.package not in light and not here:
            findings.append(f"{found.where}: {found.package} at the top of the file")
    assert not findings, "\n".join(findings)


def test_some_packages_are_imported_nowhere() -> None:
    findings = [f"{found.where}: {found.package}" for found in IMPORTS if found.package in NEVER]
    assert not findings, "\n".join(findings)


def test_command_line_packages_stay_in_their_files() -> None:
    findings = []
    for found in IMPORTS:
        patterns = LIGHT_IN.get(found.package)
        inside = found.path.relative_to(PACKAGE).as_posix()
        if patterns and not any(fnmatch(inside, pattern) for pattern in patterns):
            findings.append(f"{found.where}: {found.package} belongs to {patterns}")
    assert not findings, "\n".join(findings)


def test_import_bitcompress_is_light() -> None:
    program = "import sys, bitcompress; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert not loaded & (HEAVY | NEVER), f"import bitcompress loads {loaded & (HEAVY | NEVER)}"


SOURCES = [
    path
    for folder in ("bitcompress", "tests", "examples", "csrc")
    for suffix in ("py", "pyi", "cc", "h", "cu", "cuh")
    for path in sorted((ROOT / folder).rglob(f"*.{suffix}"))
]


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in SOURCES}
    findings = [
        f"{path.relative_to(ROOT)}: {n} lines" for path, n in lengths.items() if n > LONGEST_FILE
    ]
    assert not findings, "\n".join(findings)


def test_files_say_what_they_are_for() -> None:
    findings = []
    for path in SOURCES:
        if path.suffix != ".py" or not path.read_text().strip():
            continue
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree):
            findings.append(f"{path.relative_to(ROOT)}: no module docstring")
        future = [
            n for n in tree.body if isinstance(n, ast.ImportFrom) and n.module == "__future__"
        ]
        if not future and len(tree.body) > 1:
            findings.append(f"{path.relative_to(ROOT)}: no `from __future__ import annotations`")
    assert not findings, "\n".join(findings)


def test_the_rules_find_what_they_forbid() -> None:
    assert objection("quant", "packed") and not objection("packed", "quant")
    assert objection("models", "quant") and not objection("models", "errors")
    assert objection("graph", "models") and not objection("api", "models")
    assert objection("recipe", "graph") and not objection("cli", "api")
