"""Constrained decoding for the transformers backend: the allowed next tokens under a JSON schema (llguidance).

llguidance is an extra (`pip install 'parley-lm[guide]'`). Without it, or with a tokenizer that it cannot read
(word-level tokens have no bytes), schemas are not enforced: replies are sampled freely, with one warning. Callers check
replies in any case.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..games.base import Json
from ..models.renderer import Renderer

_LOG = logging.getLogger(__name__)
_WHITE: Any = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
"""JSON with a blank after each separator, like `json.dumps`: unrestricted white space could go on forever."""


class Guide:
    """The state of one reply under a schema."""

    def __init__(self, matcher: Any, vocab: int) -> None:
        self._matcher, self._vocab = matcher, vocab

    def banned(self) -> Tensor:
        """Tokens that must not come next, bool [V]. Once the reply is complete, all except the terminators."""
        bits = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        allowed_V = (bits[:, None] >> torch.arange(8, dtype=torch.uint8) & 1).bool().flatten()[: self._vocab]
        return ~torch.nn.functional.pad(allowed_V, (0, self._vocab - len(allowed_V)))

    def take(self, token: int) -> None:
        """Advances by `token`, which must not be banned."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)


class Guides:
    """Makes guides for the replies of one model; reads its tokenizer at the first schema."""

    def __init__(self, renderer: Renderer, vocab: int) -> None:
        self._renderer, self._vocab = renderer, vocab
        self._grammar = lru_cache(maxsize=256)(self._compiled)
        self._tokenizer: Any = None
        self._why = ""

    def guide(self, schema: Mapping[str, Json]) -> Guide | None:
        """A guide for a new reply; None if replies cannot be constrained. ValueError for a schema that llguidance
        cannot compile."""
        if self._tokenizer is None and not self._why and (why := self._read()):
            self._why = why
            _LOG.warning("replies are not held to their JSON schemas, only parsed: %s", why)
        if self._why:
            return None
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, self._grammar(json.dumps(schema)))
        if matcher.is_error():
            raise ValueError(f"the JSON schema cannot be enforced: {matcher.get_error()}")
        return Guide(matcher, self._vocab)

    def _compiled(self, schema: str) -> str:
        from llguidance import LLMatcher

        return str(LLMatcher.grammar_from_json_schema(schema, defaults=_WHITE))

    def _read(self) -> str:
        """Reads the tokenizer; returns the reason if that is impossible, else ""."""
        try:
            from llguidance import LLTokenizer
        except ImportError:
            return "llguidance is not installed (pip install 'parley-lm[guide]')"
        tokenizer = self._renderer.tokenizer.backend_tokenizer
        kind = type(tokenizer.model).__name__
        if kind == "WordLevel":
            return f"a tokenizer of kind {kind} has no tokens for parts of JSON"
        try:
            self._tokenizer = LLTokenizer(
                tokenizer.to_str(), n_vocab=self._vocab, eos_token=sorted(self._renderer.stop_ids)
            )
        except ValueError as error:
            return f"llguidance cannot read this tokenizer ({error})"
        return ""


def banned(guides: list[Guide | None], never_V: Tensor | None, like: Tensor) -> Tensor | None:
    """Tokens that each row must not choose, bool [B, V] or [V]; None if there are none."""
    if not any(guides):
        return never_V
    rows = [torch.zeros(like.shape[1], dtype=torch.bool) if each is None else each.banned() for each in guides]
    banned_BV = torch.stack(rows).to(like.device)
    return banned_BV if never_V is None else banned_BV | never_V
