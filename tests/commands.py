"""`parley` in a process of its own, forked from one that has imported torch and transformers already (a zygote), so
that a command starts in milliseconds instead of seconds. All else is as with `python -m parley`, except that the
commands of a test session share a hash seed; `fresh` starts a new interpreter."""

from __future__ import annotations

import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any


class Begun:
    """A command at work, in a session of its own. Its output goes to files, so that it never waits for a reader."""

    def __init__(self, words: tuple[str, ...], folder: Path, env: dict[str, str]) -> None:
        self._out, self._err = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115 - read at its end
        self.returncode: int | None = None
        asked = {"words": words, "folder": str(folder), "env": {**os.environ, **env}}
        reply, theirs = os.pipe()
        with tempfile.TemporaryFile("w+") as request:
            json.dump(asked, request)
            request.seek(0)
            files = [request.fileno(), self._out.fileno(), self._err.fileno(), theirs]
            socket.send_fds(_zygote()[0], [b"."], files)
        os.close(theirs)
        self._reply = open(reply, buffering=1)  # noqa: SIM115 - closed at its end
        self.pid = int(self._reply.readline())

    def poll(self) -> int | None:
        """The exit code, negative for a signal, as of Popen; None while it is at work."""
        return self.wait(0)

    def wait(self, seconds: float | None = None) -> int | None:
        """Waits for its end, or for `seconds`."""
        if self.returncode is None and select.select([self._reply], [], [], seconds)[0]:
            self.returncode = int(self._reply.readline())
            self._reply.close()
        return self.returncode

    def kill(self) -> None:
        """Kills it and the processes that it has started."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def kill_when(self, moment: Callable[[], bool]) -> None:
        """Kills it at that moment, which must come before its end."""
        while not moment():
            assert self.poll() is None, "it ended before the moment: " + "".join(self.communicate())
            time.sleep(0.01)
        self.kill()

    def communicate(self) -> tuple[str, str]:
        """Waits for its end; what it wrote to stdout and to stderr."""
        self.wait()
        self._out.seek(0), self._err.seek(0)
        return self._out.read(), self._err.read()


def begin(*words: str, folder: Path, **env: str) -> Begun:
    """Begins `parley words…` in `folder`."""
    return Begun(words, folder, env)


def parley(*words: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs `parley words…` in `folder`, as subprocess.run does with its output captured."""
    begun = begin(*words, folder=folder, **env)
    out, err = begun.communicate()
    assert begun.returncode is not None
    return subprocess.CompletedProcess(list(words), begun.returncode, out, err)


def fresh(*words: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """The same in a new interpreter, with a hash seed of its own."""
    command = [sys.executable, "-m", "parley", *words]
    return subprocess.run(command, cwd=folder, env={**os.environ, **env}, capture_output=True, text=True, check=False)


def output(*words: str, folder: Path, **env: str) -> str:
    """What `parley words…` wrote to stdout; AssertionError with all that it wrote if it failed."""
    ended = parley(*words, folder=folder, **env)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@cache
def _zygote() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """The way to the one zygote of this process, which ends when this process does, and the zygote."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    theirs.close()
    return ours, process


def end() -> None:
    """Ends the zygote, if one was begun, and waits for it, so that the time of its commands counts as ours."""
    if _zygote.cache_info().currsize:
        way, process = _zygote()
        way.close()
        process.wait()


# --- the zygote ------------------------------------------------------------------------------------------------------


def serve(asked: socket.socket) -> dict[str, Any]:
    """Forks a process for each request, in which it returns the request. Ends the zygote when nobody can ask."""
    waiting: set[int] = set()  # one process for each command, which waits for its end
    while (message := socket.recv_fds(asked, 1, 4))[0]:
        waiting -= {pid for pid in waiting if os.waitpid(pid, os.WNOHANG)[0]}
        waiting.add(pid := os.fork())
        if pid == 0:
            asked.close()
            request, out, err, reply = message[1]
            if (pid := os.fork()) == 0:
                os.close(reply)
                os.setsid()
                os.dup2(out, 1), os.dup2(err, 2)
                with open(request) as stream:
                    return dict(json.load(stream))
            with open(reply, "w") as told:
                print(pid, file=told, flush=True)
                print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=told)
            os._exit(0)
        for each in message[1]:
            os.close(each)
    for pid in waiting:
        os.waitpid(pid, 0)
    sys.exit()


def become(words: list[str], folder: str, env: dict[str, str]) -> None:
    """Goes on as `python -m parley words…`."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:1] = [folder, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv[1:] = words
    runpy.run_module("parley", run_name="__main__", alter_sys=True)


def preload() -> None:
    """Imports what nearly every command needs. Nothing here starts a thread or opens a file."""
    import lightning_fabric  # noqa: F401
    import parley.cli.main
    import parley.run.build  # noqa: F401
    import transformers.conversion_mapping
    import transformers.generation  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401


if __name__ == "__main__":
    preload()
    become(**serve(socket.socket(fileno=int(sys.argv[1]))))
