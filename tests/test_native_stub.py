# SPDX-License-Identifier: MIT
"""The type stub of the compiled module against the module itself."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import torchsparse_lite
from torchsparse_lite._native import C

STUB = ast.parse((Path(torchsparse_lite.__file__).parent / "_C.pyi").read_text())
FUNCTIONS = {node.name: node for node in STUB.body if isinstance(node, ast.FunctionDef)}
VALUES = {node.target.id for node in STUB.body if isinstance(node, ast.AnnAssign)}


def test_names_agree():
    assert {*FUNCTIONS, *VALUES} == {name for name in vars(C) if not name.startswith("__")}


def test_arguments_agree():
    """pybind11 writes each signature into the first line of the docstring."""
    for name, node in FUNCTIONS.items():
        signature = getattr(C, name).__doc__.splitlines()[0]
        real = re.findall(r"[(\s](\w+): ", signature)
        assert [argument.arg for argument in node.args.args] == real, name
