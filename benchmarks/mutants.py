"""Breaks the code on purpose, a little each time, and asks whether a test notices (mutation testing).

    python benchmarks/mutants.py [--named] [--seed 0] [--count 100] [--seconds 600]

A mutant is one small change in one file of src: a comparison flipped, a constant changed, a statement dropped, two
arguments swapped. NAMED are the breaks that once went unnoticed; the others are drawn by the seed, a file as often as
it has places to break. Each is made in a copy of the repository, below build/mutants/, and the tests that import the
file are run there until one fails; a run that hangs counts as noticed. Verdicts stand in build/mutants/verdicts.jsonl,
and a second call goes on where the first one stopped; `--seconds` ends a call in between. Survivors are printed at the
end, and all verdicts that are there go to docs/results/mutants.json. Exits with 1 if a named one survives.
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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from results import record

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / "build" / "mutants"
LIMIT_S = 1200  # wall seconds of the tests of one mutant
SLOWEST = 12  # test files that one mutant is tried on
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


NAMED: dict[str, tuple[str, str, str, tuple[str, ...]]] = {  # name -> file of src, text, what takes its place, tests
    "gradient clipping ignored": (
        "learners/training.py",
        'self.learner.clip or float("inf")',
        'float("inf")',
        ("learners/test_lightning.py::test_the_gradient_of_a_step_is_no_longer_than_the_clip",),
    ),
    "one seed for a whole match": (
        "play/arena.py",
        "seating.seed if seating.draw is None else seating.draw, request.id",
        "seating.seed if seating.draw is None else seating.draw",
        ("play/test_arena.py::test_every_request_has_a_seed_of_its_own_and_the_same_one_each_time",),
    ),
    "kl of offline PO": (
        "objectives/offline_po.py",
        '"kl": k_K.exp() - 1 - k_K',
        '"kl": k_K',
        ("objectives/test_objectives.py::test_the_metrics_of_offline_po_are_what_its_page_says",),
    ),
    "price_cached": (
        "backends/openai.py",
        "Prices(price_prompt, price_completion, price_cached)",
        "Prices(price_prompt, price_completion)",
        ("backends/test_answer.py::test_A2_cached_tokens_are_cheaper_where_they_can_be_so",),
    ),
    "Taboo's rule of short words": (
        "games/taboo/judges.py",
        "len(words) < 4",
        "len(words) < 3",
        ("games/test_taboo_judges.py::test_table",),
    ),
    "short words in Taboo's list": (
        "games/taboo/words.py",
        "len(word) > 2 and",
        "",
        ("games/test_taboo_words.py::test_the_top_words_have_three_letters_at_least",),
    ),
    "a plan cut in the middle": (
        "batches/plan.py",
        "(2 * done + size) * count // (2 * total)",
        "done * count // total",
        ("batches/test_plan.py",),
    ),
    "dealt padding": (
        "batches/plan.py",
        "[(micros[-1], False)]",
        "[(micros[0], True)]",
        ("batches/test_plan.py",),
    ),
    "the random state's restoring": (
        "learners/checkpoint.py",
        'torch.set_rng_state(file.get_tensor(f"{RANDOM}/cpu"))',
        "pass",
        ("learners/test_resume.py::test_random_numbers_go_on_where_the_checkpoint_left_them",),
    ),
    "the kept snapshot is the best on validation": (
        "run/loop.py",
        "row.policies[judge(run.config)[0]].validation[",
        "row.policies[judge(run.config)[0]].sampled[",
        ("run/test_kept.py",),
    ),
}


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


def named() -> list[Mutant]:
    """The breaks that once went unnoticed."""
    found = []
    for name, (file, old, new, tests) in NAMED.items():
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
    return tuple(path.relative_to(tests).as_posix() for (_, far, _), path in ranked if far < 2)[:SLOWEST]


# --- trying ----------------------------------------------------------------------------------------------------------


def tried(mutant: Mutant, folder: Path) -> Verdict:
    """Runs the tests on the mutant in the copy `folder`, file by file, until one fails."""
    path, began = folder / "src" / mutant.file, time.monotonic()
    sound = path.read_text()
    path.write_text(mutant.text)
    try:
        noticed = next((test for test in mutant.tests if _fails(folder, test, mutant.chosen)), None)
    finally:
        path.write_text(sound)
    return Verdict(mutant.id, mutant.file, mutant.what, noticed, len(mutant.tests), round(time.monotonic() - began, 1))


def _fails(folder: Path, test: str, chosen: str) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", chosen, "-p", "no:cacheprovider", f"tests/{test}"]
    env = {**os.environ, "PYTHONPATH": str(folder / "typings"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return True
    if done.returncode == 4:
        raise SystemExit(f"{test}: there is no such test")
    return done.returncode not in (0, 5)  # 5: no test was chosen


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
    parser.add_argument("--named", action="store_true", help="the named breaks alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no further mutant is begun after these")
    asked = parser.parse_args()
    mutants = [*named(), *([] if asked.named else drawn(asked.seed, asked.count))]
    until, folder = time.monotonic() + asked.seconds, copied()
    for mutant in mutants:
        if mutant.id not in verdicts() and time.monotonic() < until:
            found = tried(mutant, folder)
            with open(PLACE / "verdicts.jsonl", "a") as file:
                file.write(json.dumps(asdict(found)) + "\n")
            print(
                f"{found.noticed or 'SURVIVED':<40} {found.seconds:>6.1f} s  {mutant.file}, {mutant.what}", flush=True
            )
    return _told(mutants, asked.seed)


def _told(mutants: list[Mutant], seed: int) -> int:
    known = verdicts()
    found = [known[each.id] for each in mutants if each.id in known]
    survivors = [f"{each.file}, {each.what}" for each in found if each.noticed is None]
    print(f"\n{len(found)} of {len(mutants)} mutants tried, {len(survivors)} survived", *survivors, sep="\n  ")
    figures = {"seed": seed, "mutants": len(mutants), "tried": len(found), "noticed": len(found) - len(survivors)}
    record("mutants", figures | {"survivors": survivors})
    return int(any(known[name].noticed is None for name in NAMED if name in known))


if __name__ == "__main__":
    sys.exit(main())
