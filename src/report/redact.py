"""What must not leave the machine: keys and passwords in configs and command lines."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

_WORDS = "(api|access|private|secret)[_-]?key|auth|authorization|token|secret|password|passwd|credentials?"
_NAME = re.compile(rf"(?:^|[_\-.])(?:{_WORDS})$", re.I)
_VALUE = re.compile(r"^(sk-|hf_|gh[opsu]_|github_pat_|xox[abp]-|AKIA)\w[\w\-]{10,}$|^Bearer\s")
_LOGIN = re.compile(r"(\w+://)[^/\s@]+@")


SHORTEST = 6  # characters of a value that may be a secret


def secret(name: str, value: object = None) -> bool:
    """Whether a key of that name, or a value of that look, is kept out of every record (`max_tokens` is none)."""
    return bool(_NAME.search(name)) or (isinstance(value, str) and bool(_VALUE.match(value)))


ACCOUNTS = ("WANDB_ENTITY", "WANDB_PROJECT", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID")


def from_file(name: str) -> bool:
    """Whether a variable may come from a file `.env`: keys, and names of accounts. Others could decide what is run
    (PATH, PYTHONPATH), or where a key is sent (HF_ENDPOINT, WANDB_BASE_URL)."""
    return secret(name) or name in ACCOUNTS


def public(value: Any) -> Any:
    """A copy of a config as plain dicts and lists without the keys that look like secrets; logins are cut from URLs."""
    if isinstance(value, Mapping):
        return {str(key): public(entry) for key, entry in value.items() if not secret(str(key), entry)}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [public(entry) for entry in value if not secret("", entry)]
    return _LOGIN.sub(r"\1", value) if isinstance(value, str) else value


def login(value: object) -> bool:
    """Whether a text holds an address with a name or a password in it."""
    return isinstance(value, str) and bool(_LOGIN.search(value))


def hidden(text: str, source: str) -> str:
    """`text` without the values that `source`, a config or a command line, takes from the environment."""
    for name in re.findall(r"\$\{oc\.env:\s*['\"]?(\w+)", source):
        if len(value := os.environ.get(name, "")) >= SHORTEST:
            text = text.replace(value, f"${{oc.env:{name}}}")
    return text


def masked(text: str) -> str:
    """`text` without the values of environment variables whose names say that they are secret, and without logins."""
    for name, value in os.environ.items():
        if secret(name) and len(value) >= SHORTEST:
            text = text.replace(value, f"${name}")
    return _LOGIN.sub(r"\1", text)


def command(words: Sequence[str]) -> list[str]:
    """A command line with the values of secret-looking options replaced by `***`."""
    return [_word(word) for word in words]


def _word(word: str) -> str:
    name, equals, value = word.partition("=")
    if equals and secret(name.lstrip("+~-"), value):
        return f"{name}=***"
    return "***" if secret("", word) else _LOGIN.sub(r"\1", word)
