"""Being asked to stop: at once, or noted while something is held."""

import os
import signal
import subprocess
import sys

import pytest
from parley.system import preempt


@pytest.mark.parametrize("signum", preempt.SIGNALS)
def test_a_signal_ends_the_process_with_75_unless_something_is_held(signum):
    before = signal.getsignal(signum)
    with preempt.listening() as stop:
        stop.holding = True
        os.kill(os.getpid(), signum)
        assert stop.asked
    assert signal.getsignal(signum) is before
    with pytest.raises(SystemExit) as left, preempt.listening():
        os.kill(os.getpid(), signum)
    assert left.value.code == preempt.CODE == 75 and signal.getsignal(signum) is before


ASKED = """
import os, sys
class Asks:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {signum})
sys.meta_path.insert(0, Asks())
sys.argv = ["parley", "--cfg", "job"]
from parley.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["hydra", "parley.run.config", "parley.conf"])
def test_B13_a_signal_in_the_first_seconds_ends_with_75(module, tmp_path):
    code = ASKED.format(module=module, signum=int(signal.SIGUSR1))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (preempt.CODE, "")
