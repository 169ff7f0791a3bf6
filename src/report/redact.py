"""Removes keys and passwords from configs and command lines before they are stored or sent."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

_WORDS = "(api|access|private|secret)[_-]?key|auth|authorization|token|secret|password|passwd|credentials?"
_NAME = re.compile(rf"(?:^|[_\-.])(?:{_WORDS})$", re.I)
_VALUE = re.compile(r"^(sk-|hf_|gh[opsu]_|github_pat_|xox[abp]-|AKIA)\w[\w\-]{10,}$|^Bearer\s")
_LOGIN = re.compile(r"(\w+://)[^/\s@]+@")


SHORTEST = 6  # characters; shorter values are not taken for secrets


def secret(name: str, value: object = None) -> bool:
    """Whether a key's name, or its value's form, marks a secret, to be kept out of every record (`max_tokens` is
    not)."""
    return bool(_NAME.search(name)) or (isinstance(value, str) and bool(_VALUE.match(value)))


ACCOUNTS = ("WANDB_ENTITY", "WANDB_PROJECT", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID")


def from_file(name: str) -> bool:
    """Whether a variable may be read from a file `.env`: keys and account names only. Others could change what is run
    (PATH, PYTHONPATH) or where a key is sent (HF_ENDPOINT, WANDB_BASE_URL)."""
    return secret(name) or name in ACCOUNTS


def public(value: Any) -> Any:
    """Copies a config as plain dicts and lists, without keys that look like secrets and without logins in URLs."""
    if isinstance(value, Mapping):
        return {str(key): public(entry) for key, entry in value.items() if not secret(str(key), entry)}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [public(entry) for entry in value if not secret("", entry)]
    return _LOGIN.sub(r"\1", value) if isinstance(value, str) else value


def login(value: object) -> bool:
    """Whether a text contains a URL with a user name or password."""
    return isinstance(value, str) and bool(_LOGIN.search(value))


def hidden(text: str, source: str) -> str:
    """Masks in `text` the values that `source`, a config or a command line, takes from the environment."""
    for name in re.findall(r"\$\{oc\.env:\s*['\"]?(\w+)", source):
        if len(value := os.environ.get(name, "")) >= SHORTEST:
            text = text.replace(value, f"${{oc.env:{name}}}")
    return text


def masked(text: str) -> str:
    """Masks in `text` the values of environment variables with secret-looking names, and logins in URLs."""
    for name, value in os.environ.items():
        if secret(name) and len(value) >= SHORTEST:
            text = text.replace(value, f"${name}")
    return _LOGIN.sub(r"\1", text)


def command(words: Sequence[str]) -> list[str]:
    """Replaces the values of secret-looking options in a command line by `***`."""
    return [_word(word) for word in words]


def _word(word: str) -> str:
    name, equals, value = word.partition("=")
    if equals and secret(name.lstrip("+~-"), value):
        return f"{name}=***"
    return "***" if secret("", word) else _LOGIN.sub(r"\1", word)
