# SPDX-License-Identifier: MIT
"""Who may import whom: the package by its syntax trees, the C++ by its include lines."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "torchsparse_lite"
NAME = PACKAGE.name

LAYERS = [
    ("_native", "host_memory"),
    ("ops", "machine"),
    ("kernel_map", "sizes"),
    ("coordinates",),
    ("manager", "features"),
    ("tensor", "points"),
    ("point_grid", "cloud_grid"),
    ("voxelize", "collate", "neighborhoods"),
    ("nn",),
    ("models",),
    ("nas",),
    ("train",),
    ("cli",),
]
RANK = {module: rank for rank, modules in enumerate(LAYERS) for module in modules}
SERVES_ALL = {"channels", "errors", "memory_growth", "timing", "trace", "version", "whole_file"}
AT_THE_SIDE = {
    "data": RANK["nn"] + 0.3,
    "viz": RANK["nn"] + 0.5,  # draws what data reads
    "deploy": RANK["nn"] + 0.5,
    "compat": RANK["nn"] + 0.5,
}

CSRC_RANK = {"core": 0, "third_party": 0, "kernels": 1, "cpu": 2, "cuda": 2, "bind": 3}


def python_files():
    return sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """First part below the package: ``ops/coords.py`` is ``ops``, the package itself is empty."""
    part = path.relative_to(PACKAGE).parts[0]
    return "" if part == "__init__.py" else part.removesuffix(".py")


def imported_names(path: Path):
    """(line, dotted absolute name) of every import, inside functions and TYPE_CHECKING included."""
    package = [NAME, *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module or "").split(".")]
            prefix = ".".join(part for part in base if part)
            yield from ((node.lineno, f"{prefix}.{alias.name}") for alias in node.names)


def own_imports(path: Path):
    """(line, first part below the package) of the imports of the package's own modules."""
    public = PACKAGE / "__init__.py"
    for line, name in imported_names(path):
        parts = name.split(".")
        if parts[0] == NAME and path != public:
            yield line, parts[1] if len(parts) > 1 else ""


def rank_of(module: str) -> float:
    return AT_THE_SIDE[module] if module in AT_THE_SIDE else RANK[module]


def test_contributing_names_the_layers_in_their_order():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    chain, side = re.search(
        r"Python:(.*?);\s+at the\s+side, on.*?:(.*?)```", text, re.DOTALL
    ).groups()
    chain = [name.strip() for name in chain.split("<-")]
    assert chain == sorted(chain, key=RANK.__getitem__)
    side = {name.strip() for name in side.split(",")}
    assert side == set(AT_THE_SIDE)
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders <= side | set(chain)


def test_every_module_has_a_place():
    known = set(RANK) | SERVES_ALL | set(AT_THE_SIDE) | {""}
    unknown = {module_of(path) for path in python_files()} - known
    assert unknown == set(), "new top-level modules need a line in LAYERS"


@pytest.mark.parametrize("path", python_files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_left(path):
    """A module imports only what stands to its left; errors imports nothing of ours."""
    module = module_of(path)
    if module == "":
        return
    wrong = []
    for line, other in own_imports(path):
        if other in SERVES_ALL or other == module or other == "_C":
            continue
        is_known = other in RANK or other in AT_THE_SIDE
        if module in SERVES_ALL or not is_known or rank_of(other) >= rank_of(module):
            wrong.append(f"line {line}: {module} imports {other or NAME}")
    assert wrong == []


def test_only_native_imports_the_compiled_module():
    importers = {
        str(path.relative_to(PACKAGE))
        for path in python_files()
        for _, name in imported_names(path)
        if name.startswith(f"{NAME}._C")
    }
    assert importers == {"_native.py"}


def test_only_the_registry_calls_torch_library():
    """By import or as an attribute of torch."""
    callers = set()
    for path in python_files():
        tree = ast.parse(path.read_text())
        by_import = any(name.startswith("torch.library") for _, name in imported_names(path))
        by_attribute = any(
            isinstance(node, ast.Attribute)
            and node.attr == "library"
            and isinstance(node.value, ast.Name)
            and node.value.id == "torch"
            for node in ast.walk(tree)
        )
        if by_import or by_attribute:
            callers.add(str(path.relative_to(PACKAGE)))
    assert callers == {"ops/registry.py"}


def test_no_import_hides_inside_a_function():
    """A function-level import of our own modules would dodge a cycle."""
    hidden = []
    for path in python_files():
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [NAME if node.level else node.module or ""]
                if any(name.split(".")[0] == NAME for name in names):
                    hidden.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert hidden == []


def test_nothing_above_ops_names_a_device_type():
    """Modules from ``nn`` on never ask whether a tensor is on CUDA."""
    pattern = re.compile(r"\.is_cuda\b|device\.type\s*[!=]=|\bis_available\(")
    found = [
        str(path.relative_to(PACKAGE))
        for path in python_files()
        if module_of(path) in ("nn", "models", "nas") and pattern.search(path.read_text())
    ]
    assert found == []


def sources():
    return sorted(
        path for path in (ROOT / "csrc").rglob("*") if path.suffix in {".h", ".cpp", ".cu", ".cuh"}
    )


def test_there_are_sources():
    assert {path.relative_to(ROOT / "csrc").parts[0] for path in sources()} >= {
        "core",
        "cpu",
        "bind",
    }


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT / "csrc")))
def test_includes_point_inwards(path):
    """core <- kernels <- cpu, cuda <- bind; cpu and cuda do not know each other."""
    folder = path.relative_to(ROOT / "csrc").parts[0]
    wrong = []
    for included in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.MULTILINE):
        target = included.split("/")[0]
        if (path.parent / included).is_file() or target == folder:
            continue
        if target not in CSRC_RANK or CSRC_RANK[target] >= CSRC_RANK[folder]:
            wrong.append(included)
    assert wrong == []


def test_core_needs_only_the_standard_library():
    """No header of torch, Python, pybind11 or OpenMP below ``core``."""
    allowed = re.compile(r"^(c[a-z]+|[a-z_]+)$")
    wrong = []
    for path in (ROOT / "csrc" / "core").glob("*"):
        for name in re.findall(r"#\s*include\s+<([^>]+)>", path.read_text()):
            if not allowed.match(name):
                wrong.append(f"{path.name}: {name}")
    assert wrong == []
