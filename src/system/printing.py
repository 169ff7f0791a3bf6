"""Text of models, people and files, as a terminal or a page may show it."""

from __future__ import annotations

import re

# What a terminal or a page would obey instead of print: control characters (escape sequences begin with one), lone
# surrogates, and the marks that turn the direction of writing around.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """`text` with everything that is not text, line breaks or tabs replaced by �."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))
