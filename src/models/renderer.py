"""Renders chat messages to token ids; sampled ids are kept and never encoded again.

A seat's prompts form a *stream* (token sequence): its chat rendered by the model's template, with the sampled ids of
its own replies in place of their text. `extend` renders the whole view as text (cheap), checks that it begins with the
stream's text, and encodes only the new part. If a template rewrites history the stream forks, with a reason.

Needs only a tokenizer, no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.sample import common
from ..games.base import Finish, Message
from ..system.files import InputError
from .load import load_tokenizer
from .template import ChatTemplate, any_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class TokenStream:
    """The prompt and reply of the request `request` of a seat, with the stream before it.

    `text` is the rendered chat up to the reply, `reply` the reply's text and `end` its sampled terminator's ("" after a
    length stop). `cuts` are (character, token) offsets where text and ids are known to correspond: the ends of each
    rendered part and of each reply before this one. `thoughts` maps requests to the whole texts, with marks and special
    tokens, of replies with a thought.
    """

    request: str
    token_ids: tuple[int, ...]
    text: str
    reply: str
    end: str
    cuts: tuple[tuple[int, int], ...]
    thoughts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Extension:
    """A view as token ids: the prompt of a seat's next request.

    token_ids   the whole prompt; prompt_ids: those after the first `shared`, which are already in the stream of
                `parent`
    fork        why that stream could not be extended, else None
    """

    token_ids: tuple[int, ...]
    prompt_ids: tuple[int, ...]
    shared: int
    parent: str | None
    fork: str | None
    text: str
    cuts: tuple[tuple[int, int], ...]
    stops: Mapping[int, str]
    thoughts: Mapping[str, str] = field(default_factory=dict)  # of earlier turns, as in the stream

    def reply(self, request: str, text: str, sampled_ids: Sequence[int], finish: Finish = "stop") -> TokenStream:
        """The stream after `request` was answered with `sampled_ids`, whose speech is `text`."""
        ids = self.token_ids + tuple(sampled_ids)
        end = self.stops.get(sampled_ids[-1], "") if sampled_ids and finish == "stop" else ""
        return TokenStream(request, ids, self.text, text, end, self.cuts, self.thoughts)


class Renderer:
    """Renders chats for one tokenizer; `context` is the longest prompt plus reply in tokens (None: no known limit).

    `stop_ids` are the ids that end a reply: the tokenizer's end of sequence, those in `eos`, and the terminator of the
    template. `closed` matches one of them as text, after white space. `anchor` is a special token after which any text
    is encoded as in the middle of a chat ("" if there is none). `marks` are the template's.

    Errors are those of `ChatTemplate`, and ValueError for a tokenizer without a tokenizer.json.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context: int | None = None, eos: Iterable[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.template = ChatTemplate(tokenizer)
        self.marks, self._special = self.template.marks, self.template.special
        self.core = _core(tokenizer)
        ends = (tokenizer.eos_token_id, self._special.get(self.template.terminator))
        self.stop_ids = frozenset(map(int, (*eos, *(id for id in ends if id is not None))))
        self.stops = {id: str(tokenizer.convert_ids_to_tokens(id) or "") for id in self.stop_ids}
        self.closed = re.compile(rf"\s*(?:{any_of(filter(None, self.stops.values())).pattern})")
        outer = (tokenizer.eos_token, tokenizer.bos_token)
        self.anchor = next((str(token) for token in outer if token in self._special), "")

    @staticmethod
    def load(folder: str | Path) -> Renderer:
        """The renderer of a model folder: its tokenizer, context length and end-of-sequence ids. InputError names the
        folder."""
        tokenizer = load_tokenizer(folder)
        try:
            return Renderer(tokenizer, context_length(folder), eos_ids(folder))
        except (ValueError, TypeError) as error:
            raise InputError(f"{folder}: {error}") from error

    def prompt(self, messages: Sequence[Message]) -> str:
        """The prompt for a reply to `messages`, as text. InputError if the template refuses it."""
        return self.template.render(messages, True)

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The prompt for a reply to `messages` as token ids [L], encoded without a stream."""
        return tuple(self.encoded(self.prompt(messages)))

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of a reply, without its terminator and other special tokens."""
        return self.core.decode(list(token_ids), skip_special_tokens=True)

    def said(self, token_ids: Sequence[int], prompt_ids: Sequence[int] = ()) -> tuple[str, str]:
        """(thought, speech) of a reply sampled after `prompt_ids`. After an unclosed thought (cut by the length limit)
        there is no speech."""
        if self.marks is None:
            return "", self.text(token_ids)
        parts = self.marks.parts(self._whole(token_ids), self.opened(prompt_ids))
        bare = self.template.bare
        return ("", self.text(token_ids)) if parts is None else (bare(parts[0]), bare(parts[1]))

    def answered(
        self, part: Extension, request: str, text: str, sampled_ids: Sequence[int], finish: Finish = "stop"
    ) -> TokenStream:
        """The stream after `request` was answered to the prompt `part`: the ids are whole, `text` is the speech."""
        stream = part.reply(request, text, sampled_ids, finish)
        if self.marks is None:
            return stream
        opened = self.opened(part.token_ids)
        whole = self._whole(sampled_ids[:-1] if stream.end else sampled_ids)
        if self.marks.parts(whole, opened) is None:
            return stream
        return replace(stream, thoughts={**part.thoughts, request: (self.marks.open if opened else "") + whole})

    def _whole(self, token_ids: Sequence[int]) -> str:
        return self.core.decode(list(token_ids), skip_special_tokens=False)

    def opened(self, prompt_ids: Sequence[int]) -> bool:
        """Whether the prompt ends with the mark that opens a thought."""
        return self.marks is not None and self._whole(prompt_ids[-32:]).rstrip().endswith(self.marks.open)

    @property
    def end(self) -> int | None:
        """The id that ends a reply if the template writes none; None if unknown."""
        eos = self.tokenizer.eos_token_id
        if eos is None and len(self.stop_ids) == 1:
            return min(self.stop_ids)
        return None if eos is None else int(eos)

    def encoded(self, text: str) -> list[int]:
        """The token ids of rendered text, without added special tokens."""
        return self.core.encode(text, add_special_tokens=False).ids

    def after(self, end: str, tail: str) -> list[int]:
        """Encodes `tail` as the continuation of a stream: after a special token, which is then removed again.

        Some tokenizers treat the beginning of a text specially (a space in front), but not after a special token.
        ValueError if the tokenizer merges the special token with the text after it.
        """
        anchor = end if end in self._special else self.anchor
        if not anchor:
            return self.encoded(tail)
        ids = self.encoded(anchor + tail)
        if ids[0] != self._special[anchor]:
            raise ValueError(f"the tokenizer does not keep {anchor!r} apart from the text behind it")
        return ids[1:]

    def end_of(self, ids: Sequence[int]) -> str:
        """The special token with which `ids` end; "" if they end with an ordinary one."""
        token = str(self.tokenizer.convert_ids_to_tokens(int(ids[-1])))
        return token if token in self._special else ""

    # --- streams ---

    def extend(self, stream: TokenStream | None, messages: Sequence[Message]) -> Extension:
        """The prompt for the next request of a seat; `stream` is the one after its last reply (None: no reply yet).

        ValueError if the template cannot render the view at all.
        """
        thoughts = stream.thoughts if stream else {}
        text = self.template.render(messages, True, thoughts)
        if stream is None:
            ids = tuple(self.encoded(text))
            return Extension(ids, ids, 0, None, None, text, ((len(text), len(ids)),), self.stops)
        said = [message.content for message in messages if message.request == stream.request]
        start = self._matched(stream, text) if said == [stream.reply] else None
        if start is None:
            return self._fork(stream, text, said)
        tail = tuple(self.after(stream.end, text[start:]))
        ids = stream.token_ids + tail
        cuts = (*stream.cuts, (start, len(stream.token_ids)), (len(text), len(ids)))
        return Extension(ids, tail, len(stream.token_ids), stream.request, None, text, cuts, self.stops, thoughts)

    def _matched(self, stream: TokenStream, text: str) -> int | None:
        """The offset in `text` at which the stream's own text ends, None if `text` does not begin with it.

        White space around the reply may have been trimmed or added; a sampled terminator must follow. Instead of the
        speech the whole reply may be there, with its thought and special tokens.
        """
        if not text.startswith(stream.text):
            return None
        at, begins = None, len(stream.text)
        if stream.request not in stream.thoughts:
            at = _behind(self.template.plain(stream.reply), text, begins)
        if at is None:
            whole = self._whole(stream.token_ids[stream.cuts[-1][1] :])
            at = _behind(whole.removesuffix(stream.end), text, begins)
        if at is not None and stream.end and text.startswith(stream.end, start := _visible(text, at)):
            return start + len(stream.end)
        return at

    def _fork(self, stream: TokenStream, text: str, said: Sequence[str]) -> Extension:
        """Keeps the stream's ids up to the last cut before its text and `text` part, and encodes the rest."""
        same = common(stream.text, text)
        cut = max(((char, token) for char, token in stream.cuts if char <= same), default=(0, 0))
        ids = stream.token_ids[: cut[1]]
        ids += tuple(self.encoded(text) if not ids else self.after(self.end_of(ids), text[cut[0] :]))
        shared = common(stream.token_ids, ids)
        cuts = (*(pair for pair in stream.cuts if pair[0] <= cut[0]), (len(text), len(ids)))
        if not said:
            reason = "reply left out of the view"
        elif said != [stream.reply]:
            reason = "reply changed by the game"
        elif self._thinks(stream) and same >= len(self._unopened(stream.text)):
            reason = "thought"
        else:
            reason = f"{'history' if same < len(stream.text) else 'reply'} rewritten by the template"
        return Extension(ids, ids[shared:], shared, stream.request, reason, text, cuts, self.stops, stream.thoughts)

    def _thinks(self, stream: TokenStream) -> bool:
        return stream.request in stream.thoughts or self._unopened(stream.text) != stream.text

    def _unopened(self, text: str) -> str:
        """A prompt without a final thought (open or empty)."""
        if self.marks is None:
            return text
        mark, close = re.escape(self.marks.open), re.escape(self.marks.close)
        return re.sub(rf"{mark}(\s*{close})?\s*\Z", "", text)


def context_length(folder: str | Path) -> int | None:
    """The context length in tokens that a model folder declares; None if it declares none."""
    config = _json(Path(folder) / "config.json")
    config = config.get("text_config", config)
    for key in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        if isinstance(config.get(key), int):
            if (length := int(config[key])) < 1:
                raise ValueError(f"config.json has {key} {length}, expected at least 1 token")
            return length
    return None


def eos_ids(folder: str | Path) -> frozenset[int]:
    """The end-of-sequence ids of a model folder's generation config and config."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        value = _json(Path(folder) / name).get("eos_token_id")
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if not all(type(each) is int and 0 <= each < 2**31 for each in ids):
            raise ValueError(f"{name} has eos_token_id {str(value)[:80]}, expected ids of tokens")
        found.update(ids)
    return frozenset(found)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _core(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The Rust tokenizer itself: several times faster than its wrapper, and returns offsets."""
    core: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        raise ValueError(
            f"{type(tokenizer).__name__} has no tokenizer.json: save the tokenizer in that form (a fast tokenizer) "
            f"first"
        )
    core.no_truncation()  # a tokenizer.json may set truncation and padding, which direct calls apply
    core.no_padding()
    return core


def _behind(reply: str, text: str, at: int) -> int | None:
    """The offset after `reply` in `text` at `at`, ignoring white space around it; None if it is not there."""
    if text.startswith(reply, at):
        return at + len(reply)
    core, start = reply.strip(), _visible(text, at)
    return start + len(core) if text.startswith(core, start) else None


def _visible(text: str, at: int) -> int:
    """The offset of the first character of `text` from `at` on that is no white space."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at
