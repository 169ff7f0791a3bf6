"""Two of vLLM's own servers as one backend: a run that is killed and resumed, and loses one of them."""

import subprocess
import sys
from pathlib import Path

import pytest
from parley.backends import vllm_engine
from parley.system.files import InputError

try:
    vllm_engine.available()
except InputError as error:
    pytest.skip(str(error), allow_module_level=True)

pytestmark = pytest.mark.vllm


def test_two_servers_one_of_which_is_lost():
    command = [sys.executable, "benchmarks/show_servers.py", "--scenarios", "12", "--no-record"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
