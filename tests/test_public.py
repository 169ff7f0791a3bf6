"""The public interface: every promised name is there, is the same for type checkers, and costs no model library."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import parley
import pytest

ROOT = Path(__file__).parents[1]

# What users may import. A name leaves this list only with a line in CHANGELOG.md.
PROMISED = {
    "parley": """
        Arena Backend Columns Credit Credited Episode EpisodeStore HFBackend InputError LanguagePlayer Learner
        Log NothingKept Objective Player Renderer Sample Sampling Scorer Scores ScriptedPlayer Seating Session
        Snapshot Turn Utterance __version__ both_seatings credited derive fixed load_policy load_snapshot
        load_tokenizer logs play_match rng self_play transcript
    """,
    "parley.games": """
        Facts Game GeneratorMatch Illegal Json Marks Match Message Options Out Reply Request Result Scenario Script Tool
        Turns Unreachable View conformance legal split
    """,
}


@pytest.mark.parametrize("package", PROMISED)
def test_the_promised_names_are_there_and_no_others(package):
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(PROMISED[package].split())
    assert [name for name in module.__all__ if getattr(module, name, None) is None] == []
    assert set(module.__all__) <= set(dir(module))


def test_type_checkers_see_the_same_names_from_the_same_modules():
    tree = ast.parse(Path(parley.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == parley._HOMES


def test_every_public_name_is_in_the_api_reference():
    """As a member of a module that a page shows whole, or by itself."""
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    shown = set(re.findall(r"^::: (\S+)$", pages, re.M))
    homes = {name: f"parley.{home}" for name, home in parley._HOMES.items()}
    assert [name for name, home in homes.items() if not {home, f"{home}.{name}"} & shown] == []


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Arenas'"):
        parley.Arenas  # noqa: B018


def test_importing_them_loads_no_torch():
    code = "import sys, parley, parley.games; dir(parley); parley.derive, parley.Episode, parley.Credit, parley.Arena; "
    code += "print('torch' in sys.modules or 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("package", PROMISED)
def test_every_public_class_and_function_says_what_it_is(package):
    module = importlib.import_module(package)
    public = [getattr(module, name) for name in module.__all__]
    documented = [each for each in public if isinstance(each, type) or hasattr(each, "__code__")]
    assert [each.__name__ for each in documented if not (each.__doc__ or "").strip()] == []
