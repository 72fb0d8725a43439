"""What a test says, found by its name: so that documentation may point at the test that shows a statement.

A test is named as its function, with spaces (`test_a_killed_rank_is_named`: "a killed rank is named"), or by the words
of its case in a table of the module. Used by tests/unit/docs.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_LARGE = 40
"""Lines of a module's value from which on it is a table of cases: what one of them says is not said by the others."""


@dataclass(frozen=True)
class Module:
    """A module of tests."""

    text: str
    tree: ast.Module
    named: dict[str, ast.stmt]
    """Its functions, classes and values, by name."""

    @classmethod
    def of(cls, path: Path) -> "Module":
        """Read a module."""
        text = path.read_text()
        tree = ast.parse(text)
        return cls(text, tree, {name: node for node in tree.body for name in _names(node)})

    def source(self, node: ast.stmt | ast.expr) -> str:
        """Return the source of a part, decorators included."""
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
        return "\n".join(self.text.splitlines()[first - 1 : node.end_lineno])


@cache
def _read(path: Path) -> Module:
    return Module.of(path)


def evidence(path: Path, name: str) -> str | None:
    """Return the source of a test, and of what of its module it uses; None: there is no such test.

    Args:
        path: The test's module.
        name: As the documentation names it.
    """
    module = _read(path)
    found = _find(module, name)
    return None if found is None else _with_all_used(module, found[0], without=found[1])


def own_words(path: Path, name: str) -> str | None:
    """Return the source of a test or case alone; see `evidence`."""
    module = _read(path)
    found = _find(module, name)
    return None if found is None else module.source(found[0][0])


def _find(module: Module, name: str) -> tuple[list[ast.stmt | ast.expr], str] | None:
    """Return a test, or a case and the tests that are run with it, and the name of the case's table."""
    function = module.named.get(f"test_{name.replace(' ', '_')}")
    if isinstance(function, _FUNCTIONS):
        return [function], ""
    for table, value in _tables(module):
        for row in _rows(value):
            if any(isinstance(n, ast.Constant) and n.value == name for part in row for n in ast.walk(part)):
                return [*row, *_tests_of(module, table)], table
    return None


def _with_all_used(module: Module, parts: Sequence[ast.stmt | ast.expr], without: str = "") -> str:
    """Return the source of some parts, and of everything that they use but tables of cases."""
    found, left, seen = [], list(parts), {without}
    while left:
        node = left.pop(0)
        found.append(module.source(node))
        for name in sorted({n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - seen):
            used = module.named.get(name)
            seen.add(name)
            if used is None or used in parts:
                continue
            if isinstance(used, _FUNCTIONS) or (used.end_lineno or 0) - used.lineno < _LARGE:
                left.append(used)
    return "\n".join(found)


def _tables(module: Module) -> Iterator[tuple[str, ast.expr]]:
    for name, node in module.named.items():
        value = getattr(node, "value", None)
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(value, (ast.List, ast.Tuple, ast.Dict)):
            yield name, value


def _rows(table: ast.expr) -> list[list[ast.expr]]:
    """Return the parts of each row of a table; of a dict, its keys with their values."""
    if isinstance(table, ast.Dict):
        return [[key, value] for key, value in zip(table.keys, table.values, strict=True) if key is not None]
    return [[row] for row in table.elts] if isinstance(table, (ast.List, ast.Tuple)) else []


def _tests_of(module: Module, table: str) -> list[ast.stmt]:
    """Return the test functions that are run with the rows of a table."""
    return [
        node
        for node in module.tree.body
        if isinstance(node, _FUNCTIONS)
        and any(isinstance(n, ast.Name) and n.id == table for d in node.decorator_list for n in ast.walk(d))
    ]


def _names(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Assign():
            return [target.id for target in node.targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []
