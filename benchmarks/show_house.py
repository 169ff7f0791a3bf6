"""The structure of the code of two checkouts, side by side: rooms, imports between them, circles, size, strict types.

    python benchmarks/show_house.py BEFORE [AFTER] [tests=before,after,busy]

BEFORE and AFTER (default: this one) are checkouts. A room is a folder of `src/`, or a module in `src/` itself.
`tests` says which runs of `make test` are made, each in its checkout's own .venv: BEFORE, AFTER, and AFTER beside two
busy loops. Each gives CPU-seconds and whether it passed, about ten to twenty minutes on two idle cores; what is not
named stays in the results as it is, with the revision that it is of. Exits with 1 where AFTER does not pass.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from results import ROOT, record

LONG = 350  # lines


def room(file: Path, src: Path) -> str:
    return file.relative_to(src).parts[0].removesuffix(".py")


def imported(file: Path, src: Path) -> Iterator[str]:
    """The modules and names of the package that a file imports, dotted, without the package's name."""
    package = file.relative_to(src).parent.parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)


def arrows(src: Path) -> set[tuple[str, str]]:
    """The pairs of rooms of which the first imports from the second."""
    rooms = {room(file, src) for file in src.rglob("*.py")} - {"__init__", "__main__"}
    found = {(room(file, src), name.split(".")[0]) for file in src.rglob("*.py") for name in imported(file, src)}
    return {(here, there) for here, there in found if here != there and {here, there} <= rooms}


def circles(src: Path) -> int:
    """How many modules stand in a circle of imports: what is left when all that import nothing else are taken away."""
    files = {
        ".".join(file.relative_to(src).with_suffix("").parts): file
        for file in src.rglob("*.py")
        if file.name != "__init__.py"
    }
    graph = {
        name: {target for each in imported(file, src) for target in (each, each.rpartition(".")[0]) if target in files}
        for name, file in files.items()
    }
    while ends := [name for name, needed in graph.items() if not needed]:
        graph = {name: needed.difference(ends) for name, needed in graph.items() if name not in ends}
    while roots := graph.keys() - {name for needed in graph.values() for name in needed}:
        graph = {name: needed for name, needed in graph.items() if name not in roots}
    return len(graph)


def strict_errors(checkout: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "-p", "parley", "--strict", "--no-error-summary"],
        cwd=checkout, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.count(": error:")


def tested(checkout: Path, busy: int = 0) -> tuple[int, bool]:
    """CPU-seconds of `make test` in a checkout, beside so many busy loops, and whether it passed."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    before = os.times()
    done = subprocess.run(["make", "test"], cwd=checkout, stdout=subprocess.DEVNULL)
    after = os.times()
    for loop in loops:
        loop.kill()
        loop.wait()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return round(spent), done.returncode == 0


def facts(checkout: Path) -> dict[str, int]:
    src = checkout / "src"
    files = sorted(src.rglob("*.py"))
    trees = [ast.parse(file.read_text()) for file in files]
    return {
        "rooms": len({room(file, src) for file in files} - {"__init__", "__main__"}),
        "arrows between rooms": len(arrows(src)),
        "modules in a circle": circles(src),
        "files": len(files),
        "lines": sum(len(file.read_text().splitlines()) for file in files),
        "statements": sum(isinstance(node, ast.stmt) for tree in trees for node in ast.walk(tree)),
        f"files over {LONG} lines": sum(len(file.read_text().splitlines()) > LONG for file in files),
        "errors of mypy --strict": strict_errors(checkout),
    }


def revision(checkout: Path) -> str:
    command = ["git", "-C", checkout, "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def stored() -> dict[str, Any]:
    """What was found of `make test` before."""
    path = ROOT / "docs/results/house.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return dict(found.get("make test", {}))


def main() -> None:
    places = [Path(word).absolute() for word in sys.argv[1:] if "=" not in word]
    chosen = next((word.removeprefix("tests=").split(",") for word in sys.argv if word.startswith("tests=")), [])
    before, after = (*places, Path(__file__).absolute().parents[1])[:2]
    found = {"before": facts(before), "after": facts(after)}
    for name in found["after"]:
        print(f"{name:26}{found['before'][name]:>10,}{found['after'][name]:>10,}")
    suites = stored()
    for name in chosen:
        checkout = before if name == "before" else after
        seconds, passed = tested(checkout, busy=2 if name == "busy" else 0)
        suites[name] = {"revision": revision(checkout), "cpu_seconds": seconds, "passed": passed}
    for name, each in suites.items():
        print(f"make test, {name}: {each['cpu_seconds']:,} CPU-seconds, {'passed' if each['passed'] else 'FAILED'}")
    sys.argv[1:] = ["BEFORE", *(word for word in sys.argv if word.startswith("tests="))]  # no folder of this machine
    record("house", {"revisions": [revision(before), revision(after)], **found, "make test": suites})
    sys.exit(0 if all(each["passed"] for name, each in suites.items() if name != "before") else 1)


if __name__ == "__main__":
    main()
