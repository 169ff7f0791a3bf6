"""Words: the length of the README, and what the docstrings of the public names say, before and now.

    python benchmarks/show_words.py BEFORE      # a revision, such as dc85ea1^, the last one before the rooms

Public are the names of `parley.__all__` and `parley.games.__all__`, all that the pages of docs/api show, and the public
methods of these classes. At BEFORE, where there was no `__all__`, the same names are looked up in the whole of src/.

A docstring is complete if it says, where there is cause:
    shapes   a parameter, field or return value is annotated as a tensor or an array: a shape such as [B, T], the word
             shape, or a name with a shape suffix (x_BT) whose letters the module's docstring explains
    units    a number's name ends in _s, _ms, _mib or _gib: the unit's word (seconds, milliseconds, MiB, GiB).
             Names that spell out their unit (seconds, tokens, bytes) say it themselves
    errors   the body raises an exception: its name (of an __init__: in the docstring of the class)
Comments at a field's line count as part of its class's docstring. Writes docs/results/words.json; exits with 1 if a
public name lacks something now.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from results import ROOT, record

Definition: TypeAlias = ast.FunctionDef | ast.ClassDef
ARRAY = re.compile(r"\b(Tensor|ndarray|Array)\b")
SHAPE = re.compile(r"\[[A-Z0-9][\w, +·*]*\]|\bshapes?\b")
SUFFIX = re.compile(r"_([A-Z]{1,4})$")
UNITS = {"_s": "seconds", "_ms": "milliseconds", "_mib": "MiB", "_gib": "GiB"}


@dataclass(frozen=True)
class Source:
    """A module of src/ at some revision: its dotted name, its text and its syntax tree."""

    name: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)


@dataclass(frozen=True)
class Named:
    """A public name with its definition and the documentation that counts for it."""

    name: str
    node: Definition
    text: str
    legend: str

    @property
    def documented(self) -> bool:
        return bool(ast.get_docstring(self.node))

    def wanted(self) -> dict[str, bool]:
        """Which of shapes, units and errors there is cause for, and whether the text says each."""
        return {**_shapes(self), **_units(self), **_errors(self)}


def sources(revision: str) -> dict[str, Source]:
    """The modules of src/ at a revision, by dotted name."""
    paths = [
        path for path in _git("ls-tree", "-r", "--name-only", revision, "src").splitlines() if path.endswith(".py")
    ]
    names = {path: path[4:-3].replace("/", ".").removesuffix(".__init__") for path in paths}
    return {name: Source(name, _git("show", f"{revision}:{path}")) for path, name in names.items()}


def public(found: dict[str, Source]) -> set[tuple[str, str]]:
    """(module, name) of everything public; the name "" is all of a module."""
    root = found["__init__"].tree.body
    homes = next(ast.literal_eval(each.value) for each in root if _assigns(each, "_HOMES"))
    shown = {(home, name) for name, home in homes.items()}
    for line in found["games"].tree.body:
        if isinstance(line, ast.ImportFrom) and line.module:
            shown |= {(f"games.{line.module}", each.name) for each in line.names}
    for page in sorted((ROOT / "docs" / "api").glob("*.md")):
        for path in re.findall(r"^::: parley\.(\S+)$", page.read_text(encoding="utf-8"), re.M):
            module, _, name = path.rpartition(".")
            shown.add((path, "") if path in found else (module, name))
    return shown


def _assigns(node: ast.stmt, name: str) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name


def definitions(source: Source, name: str) -> Iterator[Named]:
    """The definition of a name in a module ("": of all public ones), and those of its public methods."""
    lines, legend = source.text.splitlines(), ast.get_docstring(source.tree) or ""
    for node in source.tree.body:
        if not isinstance(node, Definition) or not (node.name == name or (not name and node.name[0] != "_")):
            continue
        yield Named(node.name, node, _documentation(node, lines), legend)
        for each in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(each, ast.FunctionDef) and _shown(each):
                yield Named(f"{node.name}.{each.name}", each, _documentation(each, lines), legend)


def _shown(node: ast.FunctionDef) -> bool:
    """Whether a method is public, and no overload or setter of another."""
    twice = any(re.search(r"overload|\.setter", ast.unparse(each)) for each in node.decorator_list)
    return (node.name[0] != "_" or node.name == "__call__") and not twice


def _documentation(node: Definition, lines: list[str]) -> str:
    """The docstring; of a class also those of its fields and its __init__, and comments at fields."""
    text = [ast.get_docstring(node) or ""]
    for each in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(each, ast.AnnAssign):
            text.append(" ".join(lines[each.lineno - 1 : each.end_lineno]).partition("#")[2])
        elif isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant):
            text.append(str(each.value.value))
        elif isinstance(each, ast.FunctionDef) and each.name == "__init__":
            text.append(ast.get_docstring(each) or "")
    return "\n".join(text)


def _typed(node: Definition) -> dict[str, str]:
    """The annotated parameters, fields and return value of a definition: name -> annotation."""
    if isinstance(node, ast.FunctionDef):
        args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        found = {each.arg: ast.unparse(each.annotation) for each in args if each.annotation}
        return found | ({"return": ast.unparse(node.returns)} if node.returns else {})
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)]
    found = {ast.unparse(each.target): ast.unparse(each.annotation) for each in fields}
    for each in _methods(node, "__init__"):
        found |= {name: kind for name, kind in _typed(each).items() if name != "return"}
    return found


def _methods(node: ast.ClassDef, *names: str) -> list[ast.FunctionDef]:
    return [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name in names]


def _shapes(each: Named) -> dict[str, bool]:
    arrays = [name for name, kind in _typed(each.node).items() if ARRAY.search(kind)]
    if not arrays:
        return {}
    letters = {letter for name in arrays for found in SUFFIX.findall(name) for letter in found}
    explained = bool(letters) and all(re.search(rf"\b{letter}\b", each.legend) for letter in letters)
    return {"shapes": bool(SHAPE.search(each.text)) or explained}


def _units(each: Named) -> dict[str, bool]:
    typed = _typed(each.node)
    names = [name for name, kind in typed.items() if re.search(r"\b(int|float)\b", kind)]
    if isinstance(each.node, ast.FunctionDef) and re.search(r"\b(int|float)\b", typed.get("return", "")):
        names.append(each.node.name)  # a property such as wait_s
    units = {unit for name in names for suffix, unit in UNITS.items() if name.endswith(suffix)}
    said = all(re.search(rf"\b{unit.removesuffix('s')}", each.text, re.I) for unit in units)
    return {"units": said} if units else {}


def _errors(each: Named) -> dict[str, bool]:
    bodies = [each.node] if isinstance(each.node, ast.FunctionDef) else _methods(each.node, "__init__", "__post_init__")
    raised = {name for body in bodies for each in body.body for name in _raised(each)}
    raised -= {"AssertionError", "NotImplementedError"}
    return {"errors": all(name in each.text for name in raised)} if raised else {}


def _raised(node: ast.AST) -> Iterator[str]:
    """The exceptions that a statement raises by name, without those that it handles and those of functions in it."""
    if isinstance(node, ast.Raise) and node.exc is not None:
        named = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        name = ast.unparse(named).rpartition(".")[2]
        yield from [name] if name[:1].isupper() else []
    if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
        handled = " ".join(ast.unparse(each.type) for each in getattr(node, "handlers", []) if each.type)
        tried = getattr(node, "body", []) if isinstance(node, ast.Try) else []
        for child in ast.iter_child_nodes(node):
            yield from (name for name in _raised(child) if child not in tried or name not in handled)


def measured(revision: str, named: list[Named]) -> dict[str, Any]:
    """README's words and the shares, as the results file has them."""
    wants = {each.name: each.wanted() for each in named}
    found: dict[str, Any] = {
        "revision": _git("rev-parse", "--short", revision).strip(),
        "README, words": len(_git("show", f"{revision}:README.md").split()),
        "public names": len(named),
        "with a docstring": sum(each.documented for each in named),
    }
    for part in ("shapes", "units", "errors"):
        cause = [said[part] for said in wants.values() if part in said]
        found[part] = {"names with cause": len(cause), "said": sum(cause)}
    whole = [each for each in named if each.documented and all(wants[each.name].values())]
    found["complete"] = len(whole)
    found["complete, share"] = round(len(whole) / len(named), 3)
    lacking = {each.name: [part for part, said in wants[each.name].items() if not said] for each in named}
    found["lacking"] = {
        each.name: lacking[each.name] if each.documented else ["docstring"] for each in named if each not in whole
    }
    return found


def main() -> None:
    now, before = sources("HEAD"), sources(sys.argv[1])
    chosen = sorted(public(now))
    named = {each.name: each for module, name in chosen for each in definitions(now[module], name)}
    every = [each for source in before.values() for each in definitions(source, "")]
    earlier = {each.name: each for each in reversed(every) if each.name in named}
    found = {"before": measured(sys.argv[1], [*earlier.values()]), "after": measured("HEAD", [*named.values()])}
    for name in found["after"]:
        print(f"{name:18} {found['before'][name]!s:>70} {found['after'][name]!s}"[:400])
    record("words", found)
    sys.exit(bool(found["after"]["lacking"]))


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
