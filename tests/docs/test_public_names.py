"""What users import: everything from ``esper_es`` itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import esper_es

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("name", esper_es.__all__)
def test_a_public_name_can_be_imported(name: str) -> None:
    assert getattr(esper_es, name) is not None


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_imports_from_no_inner_module(path: Path) -> None:
    imported = [
        module
        for node in ast.walk(ast.parse(path.read_text()))
        for module in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    ]
    assert [module for module in imported if module.startswith("esper_es.")] == []
