"""Breaks the code on purpose, a little each time, and asks whether a test notices (mutation testing).

    python benchmarks/mutants.py [--only named faults drawn] [--seed 0] [--count 100] [--seconds 600]

A mutant is one small change in one file of src. Those of `breaks.py` have names: NAMED once went unnoticed, FAULTS take
out what mends a known fault; each is tried on its own tests. The others are drawn by the seed, a file as often as it
has places to break: a comparison flipped, a constant changed, a statement dropped, two arguments swapped. They are
tried on the tests that import the file and on those of its room, until one fails. All of it happens in a copy of the repository, below
build/mutants/; a run that hangs counts as noticed. Verdicts stand in build/mutants/verdicts.jsonl, and a second call
goes on where the first one stopped; `--seconds` ends a call in between. Survivors are printed at the end, and all
verdicts of the chosen kinds go to docs/results/mutants.json, beside those of the other kinds. Exits with 1 if one with
a name survives.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import cache_from_source
from pathlib import Path

from breaks import FAULTS, NAMED, Break
from results import ROOT, record, revision

PLACE = ROOT / "build" / "mutants"
RESULTS = ROOT / "docs" / "results" / "mutants.json"
KINDS = ("named", "faults", "drawn")
LIMIT_S = 1200  # wall seconds of the tests of one mutant
LEFT_OUT = ("cli/tasks/", "report/curves", "backends/vllm", "models/fourbit", "__init__", "__main__", "system/ranks")


@dataclass(frozen=True)
class Mutant:
    """One change of one file: the text of the file after it, and what was changed, in words."""

    id: str
    file: str
    what: str
    text: str
    tests: tuple[str, ...]
    chosen: str = "not slow and not vllm"  # which of these tests


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: noticed by which test file, or survived (None)."""

    id: str
    file: str
    what: str
    noticed: str | None
    tests: int
    seconds: float


# --- what is broken --------------------------------------------------------------------------------------------------

FLIPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.FloorDiv, ast.And: ast.Or,
    ast.Or: ast.And,
}  # fmt: skip


def places(tree: ast.AST) -> Iterator[tuple[str, Callable[[], None]]]:
    """What can be broken in a file: in words, and a function that breaks it in `tree` itself."""
    for node in _working(tree):
        line = f"line {getattr(node, 'lineno', 0)}: "
        if isinstance(node, ast.Compare) and type(node.ops[0]) in FLIPPED:
            yield line + f"flips {ast.unparse(node)}", lambda node=node: _flip(node.ops)  # type: ignore[misc]
        elif isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in FLIPPED:
            yield line + f"other sign in {ast.unparse(node)}", lambda node=node: _sign(node)  # type: ignore[misc]
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            yield line + f"other constant than {node.value}", lambda node=node: _constant(node)  # type: ignore[misc]
        elif isinstance(node, ast.Call) and len(node.args) >= 2 and not isinstance(node.args[0], ast.Starred):
            yield line + f"swaps arguments of {ast.unparse(node)}", lambda node=node: _swap(node)  # type: ignore[misc]
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield line + f"drops not of {ast.unparse(node)}", lambda node=node: _affirm(node)  # type: ignore[misc]
        for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            for at, each in enumerate(body if isinstance(body, list) else ()):
                if isinstance(each, (ast.Expr, ast.AugAssign, ast.Raise)) and not _words(each):
                    yield (
                        f"line {each.lineno}: drops {ast.unparse(each)}",
                        lambda body=body, at=at: body.__setitem__(at, ast.Pass()),  # type: ignore[misc]
                    )


def _working(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that do something: no annotations, no messages, no defaults of dataclasses that only a config sets."""
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        skipped = {"annotation", "returns", "type_comment", "exc", "msg", "decorator_list"}
        for name, value in ast.iter_fields(node):
            if name not in skipped and not isinstance(node, ast.JoinedStr):
                pending += [
                    each for each in (value if isinstance(value, list) else [value]) if isinstance(each, ast.AST)
                ]


def _words(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, (ast.Constant, ast.Yield))


def _flip(ops: list[ast.cmpop]) -> None:
    ops[0] = FLIPPED[type(ops[0])]()  # type: ignore[assignment]


def _sign(node: ast.BinOp | ast.BoolOp | ast.AugAssign) -> None:
    node.op = FLIPPED[type(node.op)]()  # type: ignore[assignment]


def _constant(node: ast.Constant) -> None:
    node.value = not node.value if isinstance(node.value, bool) else node.value + 1  # type: ignore[operator]


def _swap(node: ast.Call) -> None:
    node.args[0], node.args[1] = node.args[1], node.args[0]


def _affirm(node: ast.UnaryOp) -> None:
    inner = copy.copy(node)
    node.op = ast.UAdd() if isinstance(inner.operand, ast.Constant) else ast.Not()
    node.operand = ast.UnaryOp(ast.Not(), inner.operand)


# --- which mutants, and which tests ----------------------------------------------------------------------------------


def named(breaks: Mapping[str, Break]) -> list[Mutant]:
    """The breaks that have names."""
    found = []
    for name, (file, old, new, tests) in breaks.items():
        text = (ROOT / "src" / file).read_text()
        if text.count(old) != 1:
            raise SystemExit(f"{name}: {file} no longer has this text once: {old}")
        found.append(Mutant(name, file, name, text.replace(old, new), tests, "not vllm"))
    return found


def drawn(seed: int, count: int) -> list[Mutant]:
    """`count` breaks of the seed, each in a place of its own."""
    every = [
        (path, number)
        for path in sorted((ROOT / "src").rglob("*.py"))
        if not any(part in path.as_posix() for part in LEFT_OUT)
        for number, _ in enumerate(places(ast.parse(path.read_text())))
    ]
    return [_made(path, number) for path, number in random.Random(seed).sample(every, count)]


def _made(path: Path, number: int) -> Mutant:
    tree = ast.parse(path.read_text())
    what, breaks = list(places(tree))[number]
    breaks()
    file = path.relative_to(ROOT / "src").as_posix()
    what = " ".join(what.split())[:160]
    return Mutant(f"{file} {number} {what}", file, what, ast.unparse(ast.fix_missing_locations(tree)), covering(file))


def covering(file: str) -> tuple[str, ...]:
    """The tests of a file of src: those that are named like it first, then those that import it, then its room's."""
    module = "parley." + file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    above, _, name = module.rpartition(".")
    parts, tests = file.removesuffix(".py").split("/"), ROOT / "tests"

    def rank(path: Path) -> tuple[int, int, int]:
        text = path.read_text()
        imports = re.search(rf"(from {re.escape(module)} import|import {re.escape(module)}\b)", text) is not None
        imports |= re.search(rf"from {re.escape(above)} import .*\b{re.escape(name)}\b", text) is not None
        like = sum(part in path.stem for part in parts[1:]) if path.parent.name == parts[0] else 0
        return -like, 0 if imports else 1 if path.parent.name == parts[0] else 2, len(text)

    ranked = sorted((rank(path), path) for path in tests.rglob("test_*.py"))
    return tuple(path.relative_to(tests).as_posix() for (_, far, _), path in ranked if far < 2)


# --- trying ----------------------------------------------------------------------------------------------------------


class Nursery:
    """Runs the tests of a copy in forks of one process (nursery.py)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        env = {**os.environ, "PYTHONPATH": str(folder / "typings"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, str(Path(__file__).with_name("nursery.py"))]
        self._process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tried(self, mutant: Mutant) -> Verdict:
        """Runs the mutant's tests, file by file, until one fails."""
        path, began = self.folder / "src" / mutant.file, time.monotonic()
        sound = path.read_text()
        path.write_text(mutant.text)
        try:
            noticed = next((test for test in mutant.tests if self._fails(test, mutant.chosen)), None)
        finally:
            path.write_text(sound)
            Path(cache_from_source(path)).unlink(missing_ok=True)  # it tells files by their second and size
        took = round(time.monotonic() - began, 1)
        return Verdict(mutant.id, mutant.file, mutant.what, noticed, len(mutant.tests), took)

    def _fails(self, test: str, chosen: str) -> bool:
        assert self._process.stdin is not None and self._process.stdout is not None
        words = ["-x", "-q", "-m", chosen, "-p", "no:cacheprovider", f"tests/{test}"]
        print(json.dumps([str(self.folder), words, LIMIT_S]), file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        if code == 4:
            raise SystemExit(f"{test}: there is no such test")
        return code not in (0, 5)  # 5: no test was chosen


def copied() -> Path:
    """A fresh copy of what is in the working tree."""
    folder = PLACE / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    skipped = shutil.ignore_patterns(
        ".git", ".venv*", "build", "outputs", "multirun", "*.egg-info", "__pycache__", ".*_cache"
    )
    shutil.copytree(ROOT, folder, symlinks=True, ignore=skipped)
    return folder


def verdicts() -> dict[str, Verdict]:
    """What earlier calls found."""
    path = PLACE / "verdicts.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {found.id: found for found in (Verdict(**json.loads(line)) for line in lines)}


def main() -> int:
    parser = argparse.ArgumentParser(description="mutation testing", allow_abbrev=False)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no further mutant is begun after these")
    asked = parser.parse_args()
    made: dict[str, Callable[[], list[Mutant]]] = {
        "named": lambda: named(NAMED), "faults": lambda: named(FAULTS), "drawn": lambda: drawn(asked.seed, asked.count),
    }  # fmt: skip
    mutants = {kind: made[kind]() for kind in asked.only}
    until, nursery = time.monotonic() + asked.seconds, Nursery(copied())
    for mutant in (each for kind in mutants.values() for each in kind):
        if mutant.id not in verdicts() and time.monotonic() < until:
            found = nursery.tried(mutant)
            with open(PLACE / "verdicts.jsonl", "a") as file:
                file.write(json.dumps(asdict(found)) + "\n")
            print(
                f"{found.noticed or 'SURVIVED':<40} {found.seconds:>6.1f} s  {mutant.file}, {mutant.what}", flush=True
            )
    return _told(mutants, asked.seed)


def _told(mutants: Mapping[str, Sequence[Mutant]], seed: int) -> int:
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    figures = {kind: stored[kind] for kind in KINDS if kind in stored}
    known = verdicts()
    for kind, each in mutants.items():
        found = [known[mutant.id] for mutant in each if mutant.id in known]
        survivors = [f"{verdict.file}, {verdict.what}" for verdict in found if verdict.noticed is None]
        print(f"\n{kind}: {len(found)} of {len(each)} tried, {len(survivors)} survived", *survivors, sep="\n  ")
        counts = {"mutants": len(each), "tried": len(found), "noticed": len(found) - len(survivors)}
        own = {"seed": seed} if kind == "drawn" else {}
        figures[kind] = {"revision": revision(), **own, **counts, "survivors": survivors}
    record("mutants", figures)
    return int(any(figures[kind]["survivors"] for kind in mutants if kind != "drawn"))


if __name__ == "__main__":
    sys.exit(main())
