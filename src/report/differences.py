"""The difference between two configs, as a tree for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text
from rich.tree import Tree

from ..system.printing import printable

UNTOLD = ("resume", "task", "run")  # left out: they say what to do, not with which values


def differences(title: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Tree | None:
    """A tree with a leaf for each value of `after` that differs from `before`; None if none does."""
    tree = Tree(_text(title))
    for key in after:
        if key not in UNTOLD:
            _add(tree, key, before.get(key), after[key])
    return tree if tree.children else None


def _add(tree: Tree, key: str, before: Any, after: Any) -> None:
    """Adds `key`: a branch for a mapping that changed. A node with another `_target_` is shown whole."""
    if before == after:
        return
    if not isinstance(after, Mapping) or not after:
        tree.add(_text(f"{key}: {_short(after)}"))
        return
    known = before if isinstance(before, Mapping) and before.get("_target_") == after.get("_target_") else {}
    name = str(after["_target_"]).rpartition(".")[2] if "_target_" in after and not known else ""
    branch = tree.add(_text(f"{key}: {name}" if name else key))
    for each, value in after.items():
        if each != "_target_":
            _add(branch, str(each), known.get(each), value)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _text(text: str) -> Text:
    return Text(printable(text))


def between(configs: Mapping[str, Mapping[str, Any]]) -> Iterator[Tree]:
    """A tree for each of the named `configs` after the first, with its differences from the first. Seeds are left
    out."""
    seen: list[Mapping[str, Any]] = []
    for name, config in configs.items():
        values = {key: value for key, value in config.items() if key != "seed"}
        if values not in seen:
            seen.append(values)
            if (tree := differences(f"{name}, unlike {next(iter(configs))}", seen[0], values)) is not None:
                yield tree
