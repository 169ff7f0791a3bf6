"""A chat template's trial. A template is foreign code: Jinja's sandbox keeps it from the files, and this from the time
and the memory of a run. It is rendered once in a process of its own, before anything is rendered here."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError, ext, nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..system.files import InputError
from .tiny import TEMPLATE

CPU_S, MEMORY = 3, 1 << 30  # seconds of a processor and bytes that a template may take for the chats of its trial
TURNS = 24  # messages of the longer of these chats: loops in loops in loops show there
CHANCE = {"random": nodes.Filter, "lipsum": nodes.Name}  # what of Jinja is drawn anew each time


def tried(source: str, known: Mapping[str, Any]) -> None:
    """InputError for a template that takes too long, or too much memory, or says another thing each time. `known` are
    its arguments besides the messages."""
    if source != TEMPLATE:  # our own
        _tried(source, json.dumps(known, default=str, sort_keys=True))


@lru_cache
def _tried(source: str, known: str) -> None:
    path = os.pathsep.join(each or os.getcwd() for each in sys.path)
    done = subprocess.run(
        [sys.executable, "-P", "-m", __name__],
        input=json.dumps({"source": source, "known": json.loads(known)}),
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        told = (
            done.stdout or f"takes more than {CPU_S} s, or more than {MEMORY >> 20} MiB, for a chat of {TURNS} messages"
        )
        raise InputError(
            f"the model's chat template {told}: put another one beside the tokenizer as chat_template.jinja"
        )


# --- the process of the trial ----------------------------------------------------------------------------------------


class _Generation(ext.Extension):
    """`{% generation %}`, which marks an assistant's words, is read over."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def fault(source: str, known: Mapping[str, Any]) -> str:
    """What is wrong with a template; "" where nothing is. It runs here: for a process of its own."""
    jinja = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, ext.loopcontrols]
    )
    jinja.filters["tojson"] = lambda value, **options: json.dumps(value, **options)
    jinja.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: form}
    for name, kind in CHANCE.items():
        if any(each.name == name for each in jinja.parse(source).find_all(kind)):  # type: ignore[attr-defined]
            return f"draws at random ({name}), and prompts must be the same each time"
    template = jinja.from_string(source)
    for chat in _chats():
        first, second = (_rendered(template, {**known, **chat}) for _ in range(2))
        if first != second:
            return "renders the same chat differently each time"
    return ""


def _chats() -> Iterator[dict[str, Any]]:
    for system in (True, False):
        roles = [*(["system"] * system), *(["user", "assistant"] * (TURNS // 2))][:-1]
        yield {
            "messages": [{"role": role, "content": f"{at} " * 40} for at, role in enumerate(roles)],
            "add_generation_prompt": True,
        }


def _rendered(template: Any, known: Mapping[str, Any]) -> str:
    try:
        return str(template.render(known))
    except MemoryError:
        raise
    except Exception as error:  # foreign code; who renders in earnest is told why a chat is refused
        return f"{type(error).__name__}: {error}"


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _run() -> int:
    """Reads the template from standard input, and writes what is wrong with it; the exit code says whether."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    try:
        found = fault(**json.load(sys.stdin))
    except TemplateError as error:
        found = f"is no template of Jinja ({error})"
    print(found, end="")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(_run())
