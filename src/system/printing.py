"""Makes text of models, people and files safe to show on a terminal or a page."""

from __future__ import annotations

import re

# Characters that a terminal or a page interprets instead of printing: control characters (escape sequences begin with
# one), lone surrogates, and marks that change the direction of writing.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Replaces everything except text, line breaks and tabs by �."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))
