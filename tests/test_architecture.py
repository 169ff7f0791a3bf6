"""The rooms keep their doors: imports point down only, the record is free of torch, and starting up is light."""

import ast
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
FILES = sorted(SRC.rglob("*.py"))

# The rooms, from the ground up. A room imports from rooms below it, and from itself.
ROOMS = (
    "system", "games", "data", "credit", "batches", "models", "objectives", "play", "backends", "learners", "report",
    "run", "table", "cli",
)  # fmt: skip
FLOOR = {room: number for number, room in enumerate(ROOMS)}
NARROWER = {  # all that a room may import of the others
    "system": (),
    "games": ("system.seeds", "system.files", "system.bounds", "system.naming", "system.conformance"),
    "data": ("games", "system"),
    "credit": ("data", "games", "system"),
    "batches": ("data", "system"),
    "objectives": ("data.sample", "system.bounds", "system.conformance"),
    "report": ("data", "games", "system"),
}

HEAVY = {
    "torch",
    "transformers",
    "pytorch_lightning",
    "peft",
    "tokenizers",
    "safetensors",
    "matplotlib",
    "numpy",
    "datasets",
}
OPTIONAL = {"vllm", "openai", "wandb", "wandb_workspaces", "bitsandbytes", "accelerate", "lm_eval"}
OPTIONAL |= {"textarena", "clemcore", "greenlet"}  # games of others
RECORD = ("games/", "data/", "credit/")
LIGHT = (
    *RECORD,
    "system/",
    "play/",
    "report/",
    "cli/composing",
    "cli/main",
    "cli/nodes",
    "cli/validation",
    "run/config",
    "run/contents",
    "run/directory",
    "run/errors",
    "run/stages",
)


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


def inner(file: Path) -> Iterator[str]:
    """The modules and names of ours that a file imports, dotted."""
    return (inside(file, level, name) for level, name in imports(file, top_only=False) if level)


ROOMY = [file for file in FILES if file.parent != SRC]  # all but __init__.py and __main__.py


def test_imports_point_down_only():
    up = []
    for file in ROOMY:
        for target in inner(file):
            here, there = room(file), target.split(".")[0]
            if here == there or there == "__version__":
                continue
            allowed = NARROWER.get(here, ROOMS[: FLOOR[here]])
            if not any(f"{target}.".startswith(f"{name}.") for name in allowed):
                up.append(f"{file.relative_to(SRC)} imports {target}, may import only {sorted(allowed)}")
    assert up == []


def test_no_module_imports_itself_through_others():
    names = {".".join(file.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): file for file in ROOMY}
    graph = {
        name: {
            found
            for target in inner(file)
            if (found := next((each for each in (target, target.rpartition(".")[0]) if each in names), None))
        }
        for name, file in names.items()
        if file.name != "__init__.py"
    }
    graph = {name: {other for other in found if other in graph} for name, found in graph.items()}
    while ends := [name for name, found in graph.items() if not found]:
        graph = {name: found.difference(ends) for name, found in graph.items() if name not in ends}
    assert graph == {}, "these modules import each other in a circle"


def test_src_holds_rooms_only_and_imports_inside_the_package_are_relative():
    assert {path.name for path in SRC.glob("*.py")} == {"__init__.py", "__main__.py"}
    assert {path.name for path in SRC.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(ROOMS)
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
    record = [
        file.relative_to(SRC).with_suffix("") for file in FILES if file.relative_to(SRC).as_posix().startswith(RECORD)
    ]
    modules = ["parley.cli.main", *(".".join(["parley", *path.parts]) for path in record)]
    code = (
        f"import sys, importlib; [importlib.import_module(name) for name in {modules}]; print(*{HEAVY | OPTIONAL} & "
        f"set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_breaks_that_have_names_fit_the_code_and_the_tests():
    """Each text that benchmarks/breaks.py takes out stands once in its file; each fault has a test of its number."""
    table = runpy.run_path(str(SRC.parent / "benchmarks/breaks.py"))
    for name, (file, text, _, tests) in {**table["NAMED"], **table["FAULTS"]}.items():
        assert (SRC / file).read_text().count(text) == 1, f"{name}: say in benchmarks/breaks.py what to take out now"
        for path, function in (test.partition("::")[::2] for test in tests):
            assert f"def {function}(" in (SRC.parent / "tests" / path).read_text() or not function, name
            assert name not in table["FAULTS"] or f"_{name.split()[0]}_" in function, name
    numbers = {name.split()[0] for name in table["FAULTS"]}
    assert numbers == {f"A{n}" for n in range(1, 21)} | {f"B{n:02}" for n in range(1, 17)}


def test_no_two_test_files_share_a_name():
    """pytest imports test files by their bare name, and so do test files their helpers."""
    here = Path(__file__).parent
    names = [file.stem for file in here.rglob("*.py") if here / "fixtures" not in file.parents]
    assert sorted(name for name in set(names) if names.count(name) > 1) == ["conftest"]
