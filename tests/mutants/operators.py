# SPDX-License-Identifier: GPL-2.0-only
"""Mutants of a module, each with one change in the body of one function. Pure.

Texts, log lines, docstrings and annotations are left unchanged.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from types import CodeType
from typing import NamedTuple

COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.LShift: ast.RShift,
}
CALLS = {"max": "min", "min": "max", "all": "any", "any": "all"}
FOR_PEOPLE = frozenset({"Log", "reason", "milliseconds", "_ago", "evidence"})


class Mutant(NamedTuple):
    """`name` says what was changed where, without line numbers. `code` is that of the changed function."""

    name: str
    function: str  # its qualified name
    code: CodeType


def mutants(source: str, path: str) -> Iterator[Mutant]:
    """All of a module."""
    tree = ast.parse(source)
    for name, qualified in _variants(tree):
        whole = ast.fix_missing_locations(copy.deepcopy(tree))
        yield Mutant(name, qualified, _code_of(compile(whole, path, "exec"), qualified))


def names(source: str) -> list[str]:
    """Their names."""
    return [name for name, _ in _variants(ast.parse(source))]


def _variants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Name and function of each mutant, in which the tree is changed until the next one is asked for."""
    seen: Counter[str] = Counter()
    for prefix, function in list(_functions(tree)):
        if function.name in FOR_PEOPLE:
            continue
        for node in list(_nodes(function)):
            for before, after, undo in _changes(function, node):
                name = f"{prefix}{function.name}: {before} -> {after}"
                seen[name] += 1
                yield name if seen[name] == 1 else f"{name} ({seen[name]})", prefix + function.name
                undo()


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield "", node
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    yield f"{node.name}.", inner


def _nodes(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """The nodes of its body that decide."""
    todo: list[ast.AST] = list(reversed(function.body))
    while todo:
        node = todo.pop()
        if isinstance(node, ast.JoinedStr | ast.Assert | ast.AnnAssign) or _for_people(node):
            continue
        yield node
        todo += reversed(list(ast.iter_child_nodes(node)))


def _for_people(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    name = called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""
    inner = [_for_people(argument) for argument in node.args]
    return name in FOR_PEOPLE or (name == "do" and inner == [True])


Change = tuple[str, str, "Undo"]


class Undo:
    """Sets an attribute, and back when it is called."""

    def __init__(self, node: ast.AST, name: str, value: object) -> None:
        self._node, self._name, self._old = node, name, getattr(node, name)
        setattr(node, name, value)

    def __call__(self) -> None:
        setattr(self._node, self._name, self._old)


def _changes(function: ast.FunctionDef, node: ast.AST) -> Iterator[Change]:
    before = ast.unparse(node) if isinstance(node, ast.expr | ast.stmt) else ""

    def change(name: str, value: object) -> Change:
        undo = Undo(node, name, value)
        return before, ast.unparse(node), undo

    match node:
        case ast.Compare(ops=[op]) if type(op) in COMPARE:
            yield change("ops", [COMPARE[type(op)]()])
        case ast.BinOp(op=op) if type(op) in ARITHMETIC:
            yield change("op", ARITHMETIC[type(op)]())
        case ast.BoolOp(op=ast.And()):
            yield change("op", ast.Or())
        case ast.BoolOp(op=ast.Or()):
            yield change("op", ast.And())
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield before, ast.unparse(operand), _replace(function, node, operand)
        case ast.Constant(value=bool(value)):
            yield change("value", not value)
        case ast.Constant(value=int(value)):
            yield change("value", value + 1)
        case ast.Call(func=ast.Name(id=name)) if name in CALLS:
            yield change("func", ast.Name(CALLS[name], ast.Load()))
        case ast.If() | ast.IfExp():
            undo = Undo(node, "test", ast.UnaryOp(ast.Not(), node.test))
            shown = ast.unparse(node.test)
            yield f"if {ast.unparse(undo._old)}", f"if {shown}", undo
        case ast.Expr(value=ast.Call() as call) if not _for_people(call):
            yield before, "pass", _replace(function, node, ast.Pass())
        case ast.Assign() | ast.AugAssign():
            yield before, "pass", _replace(function, node, ast.Pass())


class _Replacement(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self._old, self._new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self._new if node is self._old else super().visit(node)


def _replace(function: ast.FunctionDef, old: ast.AST, new: ast.AST) -> Undo:
    body = function.body
    undo = Undo(function, "body", [_Replacement(old, new).visit(_shallow(one, old)) for one in body])
    undo._old = body
    return undo


def _shallow(statement: ast.stmt, keep: ast.AST) -> ast.stmt:
    """A copy of a statement in which the node `keep` is itself."""
    return copy.deepcopy(statement, {id(keep): keep})


def _code_of(module: CodeType, qualified: str) -> CodeType:
    code = module
    for name in qualified.split("."):
        code = next(one for one in code.co_consts if isinstance(one, CodeType) and one.co_name == name)
    return code
