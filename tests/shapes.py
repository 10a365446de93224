"""Shapes are checked as the code runs, wherever they are written; `check` has to come before the
first import of flexlora.

jaxtyping's own import hook decorates all functions of a module, most of which write no shape: the
tests of training, seams, evaluation and contracts took half as long again with it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

_DECORATOR = "__import__('jaxtyping').jaxtyped(typechecker=__import__('beartype').beartype)"


def check(package: str) -> None:
    """Check the arguments and results of this package's functions, and the fields of its
    dataclasses, where any of them has a shape."""
    sys.meta_path.insert(0, _Finder(package))


def decorated(source: str) -> tuple[ast.Module, int]:
    """A module whose functions and classes that write a shape are checked; and how many are."""
    tree = ast.parse(source)
    decorate = _Decorate(_types_of(tree))
    decorate.visit(tree)
    return ast.fix_missing_locations(tree), decorate.count


class _Decorate(ast.NodeVisitor):
    def __init__(self, types: set[str]) -> None:
        self.types = types
        self.count = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        written = [*_annotations(node.args), node.returns]
        if self._any_shape(written):
            # The last: what other decorators make of it may have lost the annotations.
            node.decorator_list.append(self._decorator(node))
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        fields = [line.annotation for line in node.body if isinstance(line, ast.AnnAssign)]
        if self._any_shape(fields):
            # The first: of a dataclass the fields are looked at, once it is one.
            node.decorator_list.insert(0, self._decorator(node))
        self.generic_visit(node)

    def _any_shape(self, annotations: Iterable[ast.expr | None]) -> bool:
        parts = (part for x in annotations if x is not None for part in ast.walk(x))
        return any(isinstance(part, ast.Name) and part.id in self.types for part in parts)

    def _decorator(self, node: ast.stmt) -> ast.expr:
        self.count += 1
        made = ast.parse(_DECORATOR, mode="eval").body
        return ast.copy_location(made, node)


def _types_of(tree: ast.Module) -> set[str]:
    """What the module calls those types of jaxtyping that it imports."""
    return {
        name.asname or name.name
        for line in ast.walk(tree)
        if isinstance(line, ast.ImportFrom) and line.module == "jaxtyping"
        for name in line.names
    }


def _annotations(given: ast.arguments) -> list[ast.expr | None]:
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    rest = [x for x in (given.vararg, given.kwarg) if x is not None]
    return [x.annotation for x in (*named, *rest)]


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        """Not through __pycache__, which holds the module as it is."""
        path = self.get_filename(fullname)
        tree, _ = decorated(self.get_data(path).decode())
        return compile(tree, path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{self.package}."):
            return None
        spec: Any = PathFinder.find_spec(fullname, path, target)
        if spec is None or not isinstance(spec.loader, SourceFileLoader):
            return None
        if "from jaxtyping import" not in spec.loader.get_data(spec.origin).decode():
            return None
        spec.loader = _Loader(fullname, spec.origin)
        return spec
