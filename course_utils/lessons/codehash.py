"""Keys of records: a hash of a run's configuration and of the code that it uses.

Comments, docstrings and layout do not count, so that prose may change and hours of runs stay valid.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from course_utils.lessons.storage import RecordError, to_json


def _canonical(node: Any) -> Any:
    """A syntax tree as nested lists, without empty fields: the same text on every Python version, unlike `ast.dump`."""
    if isinstance(node, ast.AST):
        fields = ast.iter_fields(node)
        keep = [[name, _canonical(value)] for name, value in fields if name != "kind" and value not in (None, [])]
        return [type(node).__name__, *sorted(keep)]
    if isinstance(node, list):
        return [_canonical(entry) for entry in node]
    return repr(node)


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            is_text = [isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) for line in body]
            # not only the first: a bare string or `...` never does anything
            node.body = [line for line, drop in zip(body, is_text, strict=True) if not drop]  # type: ignore[attr-defined]
    return tree


@cache
def module_hash(name: str) -> str:
    """Hash of what a module, or all modules of a package, does. Comments, docstrings and layout do not count.

    Raises:
        RecordError: no such module, or it has no source.
    """
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise RecordError(f"an experiment names the module {name!r}, which cannot be found")
    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    files = sorted(file for folder in folders for file in folder.rglob("*.py")) or [Path(spec.origin)]
    trees = [_canonical(_without_docstrings(ast.parse(file.read_text(encoding="utf-8")))) for file in files]
    return _digest(trees)


@cache
def function_hash(module: str, function: str) -> str:
    """Hash of a function and of everything at the top level of its module that it uses, directly or not.

    So a lesson's module may gain conditions, presets and experiments without making its older records stale.

    Raises:
        RecordError: the module has no such function at its top level.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise RecordError(f"the module {module!r} of an experiment cannot be found")
    tree = _without_docstrings(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    defined: dict[str, list[ast.AST]] = {}
    for node in tree.body:  # type: ignore[attr-defined]
        for name in _names_bound(node):
            defined.setdefault(name, []).append(node)
    if function not in defined:
        raise RecordError(f"`run` of an experiment must be a function at the top level of {module}; got {function!r}")
    used, to_visit = set[str](), [function]
    while to_visit:
        name = to_visit.pop()
        if name in used or name not in defined:
            continue
        used.add(name)
        for node in defined[name]:
            to_visit += [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]
    return _digest([[name, _canonical(defined[name])] for name in sorted(used)])


def _names_bound(node: ast.AST) -> list[str]:
    """Names that a top-level statement defines; imports define none that count (`code` names what they bring)."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
    return []


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def key(config: Mapping[str, Any], code_hashes: Iterable[str]) -> str:
    """The key of a record: a hash of its configuration and of the hashes of its code."""
    return _digest([to_json(config), sorted(code_hashes)])
