"""The rooms keep their doors: imports point down only, the record is free of torch, and starting up is light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
FILES = sorted(SRC.rglob("*.py"))

# A room may import from rooms of a lower floor, from itself, and (where listed) from neighbours of its own floor.
FLOORS = [
    {"seeds", "files", "ranks", "preempt"},
    {"games"},
    {"data"},
    {"models"},
    {"play", "objectives"},
    {"estimates", "learners", "report", "stages"},
    {"benchmark"},
    {"experiment"},
    {"demonstrations"},
    {"loop", "evaluation"},
    {"config"},
    {"validation", "runs", "forecast"},
    {"tasks", "launch"},
    {"main"},
    {"__main__", "__init__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
NEIGHBOURS = {("report", "estimates"), ("runs", "validation")}
NARROWER = {"objectives": {"data.sample"}, "games": {"seeds", "files"}}  # all that a room may import of the others

HEAVY = {"torch", "transformers", "pytorch_lightning", "peft", "tokenizers", "safetensors", "matplotlib", "numpy", "datasets"}
OPTIONAL = {"vllm", "openai", "wandb", "bitsandbytes", "accelerate", "lm_eval"}
RECORD = (
    "games/", "data/episode", "data/index", "data/store", "data/scorer", "data/sample", "data/replay", "data/credit/", "data/formats/",
)  # fmt: skip
LIGHT = (*RECORD, "play/", "report/", "seeds", "files", "ranks", "preempt", "stages", "estimates", "config", "validation", "main")


def room(file: Path) -> str:
    return file.relative_to(SRC).parts[0].removesuffix(".py")


def imports(file: Path, top_only: bool) -> Iterator[tuple[int, str]]:
    """(level, dotted name) of every import: level 0 is absolute. Names imported from a package count as its members."""
    tree = ast.parse(file.read_text())
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield 0, node.module or ""
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, ".".join(filter(None, [node.module, alias.name]))) for alias in node.names)


def outside(file: Path, top_only: bool) -> set[str]:
    """The libraries that a file imports."""
    return {name.split(".")[0] for level, name in imports(file, top_only) if level == 0}


def inside(file: Path, level: int, name: str) -> str:
    """A relative import as a dotted name below `parley`."""
    package = file.relative_to(SRC).parent.parts
    return ".".join([*package[: len(package) - level + 1], name])


def test_imports_point_down_only():
    up = []
    for file in FILES:
        for level, name in imports(file, top_only=False):
            if level == 0:
                continue
            target = inside(file, level, name)
            here, there = room(file), target.split(".")[0]
            if there not in FLOOR:  # `from . import name` in a module at the top
                continue
            if here != there and FLOOR[here] <= FLOOR[there] and (here, there) not in NEIGHBOURS:
                up.append(f"{file.relative_to(SRC)} imports {target}")
            narrow = NARROWER.get(here)
            if here != there and narrow is not None and not any(target.startswith(allowed) for allowed in narrow):
                up.append(f"{file.relative_to(SRC)} imports {target}, may import only {sorted(narrow)}")
    assert up == []


def test_every_room_has_a_floor_and_imports_inside_the_package_are_relative():
    assert {room(file) for file in FILES} - FLOOR.keys() == set()
    for file in FILES:
        assert not {"parley", "src"} & outside(file, top_only=False), file


def test_games_and_the_record_import_no_torch_anywhere():
    for file in FILES:
        if file.relative_to(SRC).as_posix().startswith(RECORD):
            assert not (HEAVY | OPTIONAL) & outside(file, top_only=False), file


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SRC).as_posix())
def test_libraries_are_imported_where_they_are_used(file):
    path = file.relative_to(SRC).as_posix()
    assert not OPTIONAL & outside(file, top_only=True)
    if path.startswith(LIGHT):
        assert not HEAVY & outside(file, top_only=True)


def test_starting_up_and_the_record_load_nothing_heavy():
    """What really is imported, through whatever doors."""
    record = [file.relative_to(SRC).with_suffix("") for file in FILES if file.relative_to(SRC).as_posix().startswith(RECORD)]
    modules = ["parley.main", *(".".join(["parley", *path.parts]) for path in record)]
    code = f"import sys, importlib; [importlib.import_module(name) for name in {modules}]; print(*{HEAVY | OPTIONAL} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []
