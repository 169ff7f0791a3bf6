"""HTML pages from templates with autoescape. Each is one file that needs no network, server or other files."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from ..system.printing import printable


def render(template: str, **values: Any) -> Markup:
    """Fills a template of this folder with `values`. Text is escaped; only Markup is inserted as HTML."""
    return Markup(_environment().get_template(template).render(**values))


def asset(name: str) -> Markup:
    """A style sheet or script of this folder, to be placed inside the page."""
    return Markup(_source(name))


def allowed(script: str) -> str:
    """The digest of `script` for a page's content security policy, which runs this script only: a second barrier if a
    model's text ever got past the escaping."""
    return "sha256-" + base64.b64encode(hashlib.sha256(_source(script).encode()).digest()).decode()


def _source(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(asset=asset, allowed=allowed)
    return made


def _shown(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
