"""The trial of a chat template. A template is foreign code: Jinja's sandbox keeps it from files, and the trial from
taking a run's time and memory. It is first rendered in a separate process."""

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

CPU_S, MEMORY = 3, 1 << 30  # limits for the chats of the trial: CPU-seconds and bytes
TURNS = 24  # messages of the longer chat, which exposes nested loops
CHANCE = {"random": nodes.Filter, "lipsum": nodes.Name}  # random features of Jinja


def tried(source: str, known: Mapping[str, Any]) -> None:
    """InputError for a template that takes too much time or memory, or is not deterministic. `known` holds its
    arguments besides the messages."""
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
    """Ignores `{% generation %}`, which marks an assistant's text."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def fault(source: str, known: Mapping[str, Any]) -> str:
    """The fault of a template, or "". Renders in this process, so call it in a separate one."""
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
    except Exception as error:  # foreign code; a refused chat is reported when it is really rendered
        return f"{type(error).__name__}: {error}"


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _run() -> int:
    """Reads the template from standard input and writes its fault; the exit code is 0 without one."""
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
