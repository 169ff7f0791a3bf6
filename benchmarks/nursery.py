"""Runs pytest again and again without importing the large libraries each time: they are imported once, and every run is
a fork of this process. parley itself is imported anew, from the folder of the run.

    python benchmarks/nursery.py        # a line of JSON in: [folder, [words of pytest], seconds]; a line out: exit code
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from importlib import import_module

LARGE = (
    "pytest", "torch", "torch._dynamo", "transformers.models.auto.modeling_auto", "transformers.trainer_utils",
    "transformers.models.llama.modeling_llama", "transformers.tokenization_utils_tokenizers", "peft",
    "safetensors.torch", "hydra.core.hydra_config", "rich.progress", "openai", "openai.types.chat", "lightning_fabric",
)  # fmt: skip
HUNG = 124


def _tests(folder: str, words: list[str]) -> int:
    """Runs in the fork: pytest in `folder`, whose parley is the one below typings/."""
    os.setsid()
    with open(os.devnull, "r+") as nothing:
        for stream in range(3):
            os.dup2(nothing.fileno(), stream)
    os.chdir(folder)
    sys.path[:0] = [f"{folder}/typings", folder]
    import pytest

    return int(pytest.main(words))


def _ended(child: int, seconds: int) -> int:
    """The exit code of `child`, which is killed with its own children when its time is over."""

    def late(*_: object) -> None:
        os.killpg(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    _, status = os.waitpid(child, 0)
    signal.alarm(0)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else HUNG


def main() -> None:
    for name in LARGE:
        with suppress(ImportError):
            import_module(name)
    for line in sys.stdin:
        folder, words, seconds = json.loads(line)
        if (child := os.fork()) == 0:
            code = 3  # pytest's own: an internal error
            try:
                code = _tests(folder, words)
            finally:
                os._exit(code)
        print(_ended(child, seconds), flush=True)


if __name__ == "__main__":
    main()
