"""Being asked to stop: at once, or noted while something is held."""

import os
import signal

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
