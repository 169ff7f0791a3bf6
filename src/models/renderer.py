"""Chat messages to token ids, such that what was sampled is never encoded again.

A seat's prompts form a *stream*: its chat rendered by the model's template, in which the sampled ids of its own replies
stand where the template puts their text. `extend` renders the whole view as text (cheap), proves that it begins with
the stream's own text, and encodes only what is new. Where a template rewrites history the stream forks, with a reason.

No torch here: a tokenizer is all that it needs.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from ..data.sample import Demonstration, Sample, Utterance
from ..games.base import Finish, Message, Speaker
from ..system.files import InputError
from .load import load_tokenizer

if TYPE_CHECKING:
    from jinja2 import Template
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

TODAY = datetime(2024, 7, 26)
"""The date that templates are told (Llama 3.1's own default), so that a run does not change at midnight."""


@dataclass(frozen=True, slots=True)
class TokenStream:
    """Everything that the request `request` of a seat saw and sampled.

    `text` is the rendered chat up to the reply, `reply` the reply's text and `end` its sampled terminator's ("" after a
    length stop). `cuts` are the (character, token) offsets at which text and ids are known to meet: the ends of each
    rendered part and of each reply before this one.
    """

    request: str
    token_ids: tuple[int, ...]
    text: str
    reply: str
    end: str
    cuts: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Extension:
    """A view as token ids, for the next request of a seat.

    token_ids   the whole prompt; prompt_ids: those after the first `shared`, which the stream of `parent` already has
    fork        why that stream could not simply go on, else None
    """

    token_ids: tuple[int, ...]
    prompt_ids: tuple[int, ...]
    shared: int
    parent: str | None
    fork: str | None
    text: str
    cuts: tuple[tuple[int, int], ...]
    stops: Mapping[int, str]

    def reply(self, request: str, text: str, sampled_ids: Sequence[int], finish: Finish = "stop") -> TokenStream:
        """The stream after `request` was answered with `sampled_ids`, whose text is `text`."""
        ids = self.token_ids + tuple(sampled_ids)
        end = self.stops.get(sampled_ids[-1], "") if sampled_ids and finish == "stop" else ""
        return TokenStream(request, ids, self.text, text, end, self.cuts)


@dataclass(frozen=True, slots=True)
class _Shape:
    """How a template renders a sequence of roles: `parts[i]` stands before message i, the last after all of them;
    `trims[i]` says whether message i loses the white space before and after it."""

    parts: tuple[str, ...]
    trims: tuple[tuple[bool, bool], ...]

    def join(self, contents: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
        """The text for these contents, and the [start, end) of each of them."""
        text, spans = self.parts[0], []
        for part, (left, right), content in zip(self.parts[1:], self.trims, contents, strict=True):
            content = content.lstrip() if left else content
            content = content.rstrip() if right else content
            spans.append((len(text), len(text) + len(content)))
            text += content + part
        return text, spans


class Renderer:
    """Renders for one tokenizer; `context` is the longest prompt and reply in tokens (None: no limit known).

    `stop_ids` are the ids that end a reply: the tokenizer's end of sequence, those in `eos`, and the special token that
    the template puts after an assistant's message.

    A template that refuses or drops a system message gets its text in front of the first user message instead (Gemma,
    early Mistral). A special token's text inside a message is broken up with a space, so that nobody can forge a turn.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context: int | None = None, eos: Iterable[int] = ()) -> None:
        if not tokenizer.chat_template:
            raise ValueError("the tokenizer has no chat template: put one beside it as chat_template.jinja")
        self.tokenizer = tokenizer
        self.context = context
        self._core = _core(tokenizer)
        self._special = {str(token): id for id, token in _special(tokenizer).items()}
        self._forged = (
            re.compile("|".join(map(re.escape, sorted(self._special, key=len, reverse=True))))
            if self._special
            else None
        )
        self._shape = lru_cache(maxsize=1024)(self._learn)
        self._template = _compiled(tokenizer)
        said = {"strftime_now": TODAY.strftime, "tools": None, "documents": None}
        self._known = {**self._template.globals, **tokenizer.special_tokens_map, **said}
        self._folds = False
        self._folds = self._refuses_system()
        self.stop_ids = self._stop_ids(eos)
        self._stops = {id: str(tokenizer.convert_ids_to_tokens(id) or "") for id in self.stop_ids}
        ends = sorted((text for text in self._stops.values() if text), key=len, reverse=True)
        self._closed = re.compile(r"\s*(?:" + "|".join(map(re.escape, ends)) + ")" if ends else r"(?!)")

    @staticmethod
    def load(folder: str | Path) -> Renderer:
        """The renderer of a model folder: its tokenizer, context length and end-of-sequence ids."""
        return Renderer(load_tokenizer(folder), context_length(folder), eos_ids(folder))

    def prompt(self, messages: Sequence[Message]) -> str:
        """The prompt for a reply to `messages`, as text. InputError where the template refuses it."""
        return self._render(messages, True)

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The prompt for a reply to `messages`, encoded afresh."""
        return tuple(self._encode(self.prompt(messages)))

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of a reply: its terminator and other special tokens are left out."""
        return self._core.decode(list(token_ids), skip_special_tokens=True)

    def _encode(self, text: str) -> list[int]:
        return self._core.encode(text, add_special_tokens=False).ids

    def extend(self, stream: TokenStream | None, messages: Sequence[Message]) -> Extension:
        """The prompt for the next request of a seat, of which `stream` is what it saw and sampled last (None: nothing).

        ValueError when the template cannot render the view at all.
        """
        text = self._render(messages, True)
        if stream is None:
            ids = tuple(self._encode(text))
            return Extension(ids, ids, 0, None, None, text, ((len(text), len(ids)),), self._stops)
        said = [message.content for message in messages if message.request == stream.request]
        start = self._matched(stream, text) if said == [stream.reply] else None
        if start is None:
            return self._fork(stream, text, said)
        tail = tuple(self._after(stream.end, text[start:]))
        ids = stream.token_ids + tail
        cuts = (*stream.cuts, (start, len(stream.token_ids)), (len(text), len(ids)))
        return Extension(ids, tail, len(stream.token_ids), stream.request, None, text, cuts, self._stops)

    def demonstration(self, demo: Demonstration) -> Sample:
        """A chat to imitate as token ids, with one utterance per message of weight above 0.

        An assistant's utterance is what the model would have had to sample: everything after the generation prompt, the
        terminator included (kind "act"). Others' are the content and, where there is one, the terminator (kind
        "partner"). ValueError when the template rewrites a message that is to be imitated.
        """
        if len(demo.weights) != len(demo.messages):
            raise ValueError(f"demonstration {demo.id}: {len(demo.weights)} weights for {len(demo.messages)} messages")
        folded, weights = self._fold(demo.messages, demo.weights)
        text, spans = self._spans(folded, demo.id)
        own = [span for span, message in zip(spans, folded, strict=True) if message.role == "assistant"]
        ids, offsets = self._pieces(text, own)
        firsts, lasts = zip(*offsets, strict=True) if offsets else ((), ())  # both rise
        utterances = []
        for (start, end), weight, message in zip(spans, weights, folded, strict=True):
            begin, beyond = bisect_right(lasts, start), bisect_left(firsts, end)
            if weight > 0 and begin < beyond:
                kind = "act" if message.role == "assistant" else "partner"
                utterances.append(Utterance(begin, beyond, weight=weight, kind=kind))
        return Sample(demo.id, tuple(ids), tuple(utterances))

    # --- text ---

    def _render(self, messages: Sequence[Message], prompt: bool) -> str:
        chat = [{"role": message.role, "content": self._plain(message.content)} for message in self._fold(messages)[0]]
        known = {**self._known, "messages": chat, "add_generation_prompt": prompt}
        try:
            if not chat:
                raise ValueError("it is empty")
            return "".join(self._template.root_render_func(self._template.new_context(known, shared=True)))
        except (TemplateError, TypeError, ValueError, LookupError) as error:  # foreign code, run in Jinja's sandbox
            roles = ", ".join(message.role for message in messages) or "no message"
            raise InputError(
                f"the model's chat template refuses this conversation ({roles}): {error}. Many templates want user and "
                "assistant in turns with a user message first: let the game tell the seat something before it asks"
            ) from error

    def _plain(self, content: str) -> str:
        if self._forged is None or not self._forged.search(content):
            return content
        return self._forged.sub(lambda match: match[0][0] + " " + match[0][1:], content)

    def _fold(
        self, messages: Sequence[Message], weights: Sequence[float] = ()
    ) -> tuple[Sequence[Message], Sequence[float]]:
        """`messages` for a template without a system role: its text goes in front of the first user message."""
        if not self._folds or not messages or messages[0].role != "system":
            return messages, weights
        if len(messages) > 1 and messages[1].role == "user":
            return [
                replace(messages[1], content=f"{messages[0].content}\n\n{messages[1].content}"),
                *messages[2:],
            ], weights[1:]
        return [replace(messages[0], role="user"), *messages[1:]], weights

    def _refuses_system(self) -> bool:
        system, user = Message("system", "\x02"), Message("user", "\x03")
        try:
            return "\x02" not in self._render([system, user], True)
        except ValueError:
            return True

    def _stop_ids(self, eos: Iterable[int]) -> frozenset[int]:
        """Known ends of sequence, and the first special token after an assistant's message in the template."""
        ids = {int(id) for id in eos}
        if self.tokenizer.eos_token_id is not None:
            ids.add(int(self.tokenizer.eos_token_id))
        try:
            text = self._render([Message("user", "\x02"), Message("assistant", "\x03")], False)
        except ValueError:
            text = ""
        token = self._forged.match(text.rpartition("\x03")[2].lstrip()) if self._forged and "\x03" in text else None
        return frozenset(ids | ({self._special[token[0]]} if token else set()))

    # --- streams ---

    def _matched(self, stream: TokenStream, text: str) -> int | None:
        """The offset in `text` at which the stream's own text ends, None when `text` does not begin with it.

        White space around the reply may have been trimmed or added; a sampled terminator must follow.
        """
        at = len(stream.text)
        if not text.startswith(stream.text):
            return None
        reply = self._plain(stream.reply)
        if text.startswith(reply, at):
            at += len(reply)
        else:
            core = reply.strip()
            start = at + _blank(text, at)
            if not text.startswith(core, start):
                return None
            at = start + len(core)
        if stream.end:
            start = at + _blank(text, at)
            if text.startswith(stream.end, start):
                return start + len(stream.end)
        return at

    def _after(self, end: str, tail: str) -> list[int]:
        """Encodes `tail` as the continuation of a stream: behind a special token, which is then taken off again.

        Some tokenizers treat the beginning of a text specially (a space in front); behind a special token they do not.
        """
        anchor = end if end in self._special else self._anchor
        if not anchor:
            return self._encode(tail)
        ids = self._encode(anchor + tail)
        if ids[0] != self._special[anchor]:
            raise ValueError(f"the tokenizer does not keep {anchor!r} apart from the text behind it")
        return ids[1:]

    @property
    def _anchor(self) -> str:
        for token in (self.tokenizer.eos_token, self.tokenizer.bos_token):
            if token in self._special:
                return str(token)
        return ""

    def _fork(self, stream: TokenStream, text: str, said: Sequence[str]) -> Extension:
        """Keeps the stream's ids up to the last cut before its text and `text` part, and encodes the rest."""
        same = common(stream.text, text)
        cut = max(((char, token) for char, token in stream.cuts if char <= same), default=(0, 0))
        ids = stream.token_ids[: cut[1]]
        ids += tuple(self._encode(text) if not ids else self._after(self._end_of(ids), text[cut[0] :]))
        shared = common(stream.token_ids, ids)
        cuts = (*(pair for pair in stream.cuts if pair[0] <= cut[0]), (len(text), len(ids)))
        if not said:
            reason = "reply left out of the view"
        elif said != [stream.reply]:
            reason = "reply changed by the game"
        else:
            reason = f"{'history' if same < len(stream.text) else 'reply'} rewritten by the template"
        return Extension(ids, ids[shared:], shared, stream.request, reason, text, cuts, self._stops)

    def _end_of(self, ids: Sequence[int]) -> str:
        token = str(self.tokenizer.convert_ids_to_tokens(int(ids[-1])))
        return token if token in self._special else ""

    # --- demonstrations ---

    def _learn(self, roles: tuple[Speaker, ...], prompt: bool) -> _Shape | None:
        """The shape of these roles, found with marks in place of contents; None where the template does not keep to
        one."""
        marks = [f"\x02{i}\x03" for i in range(len(roles))]
        text = self._render([Message(role, f"\t{mark}\t") for role, mark in zip(roles, marks, strict=True)], prompt)
        pieces = re.split("|".join(f"\t?{mark}\t?" for mark in marks), text) if marks else [text]
        if [mark for mark in re.findall("\x02[0-9]+\x03", text)] != marks:
            return None
        trims = tuple((f"\t{mark}" not in text, f"{mark}\t" not in text) for mark in marks)
        return _Shape(tuple(pieces), trims)

    def _spans(self, messages: Sequence[Message], name: str) -> tuple[str, list[tuple[int, int]]]:
        """The rendered chat, and for each message the [start, end) in characters of what is supervised of it."""
        roles = tuple(message.role for message in messages)
        contents = [self._plain(message.content) for message in messages]
        text = self._render(messages, False)
        shape = self._shape(roles, False)
        joined, spans = shape.join(contents) if shape else ("", [])
        if joined != text:
            raise ValueError(
                f"demonstration {name}: the chat template rewrites what it is given, so its parts cannot be found"
            )
        assert shape is not None
        found = []
        for i, (start, end) in enumerate(spans):
            closed = self._closed.match(text, end)
            end = closed.end() if closed else end
            if roles[i] == "assistant" and (lead := self._lead(roles[:i])) is not None:
                header = len(shape.parts[i])
                if shape.parts[i].startswith(lead):
                    start -= header - len(lead)
            found.append((start, end))
        return text, found

    def _lead(self, roles: tuple[Speaker, ...]) -> str | None:
        """What the template puts between the last of `roles` and a reply that is to be sampled."""
        shape = self._shape(roles, True)
        return shape.parts[-1] if shape else None

    def _pieces(self, text: str, own: Sequence[tuple[int, int]]) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of `text`, encoded as at play time: own replies apart from what stands between them; and their
        offsets."""
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        bounds = [0, *(bound for span in own for bound in span), len(text)]
        for start, end in pairwise(bounds):
            if start < end:
                anchor = self._end_of(ids) or self._anchor if ids else ""
                found = self._core.encode(anchor + text[start:end], add_special_tokens=False)
                skip = 1 if anchor else 0
                ids += found.ids[skip:]
                offsets += [
                    (first - len(anchor) + start, last - len(anchor) + start) for first, last in found.offsets[skip:]
                ]
        return ids, offsets


def context_length(folder: str | Path) -> int | None:
    """The longest stream that a model folder declares, in tokens; None where it declares none."""
    config = _json(Path(folder) / "config.json")
    config = config.get("text_config", config)
    for key in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        if isinstance(config.get(key), int):
            return int(config[key])
    return None


def eos_ids(folder: str | Path) -> frozenset[int]:
    """The end-of-sequence ids of a model folder's generation config and config."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        value = _json(Path(folder) / name).get("eos_token_id")
        found |= set() if value is None else {value} if isinstance(value, int) else set(value)
    return frozenset(found)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _core(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The Rust tokenizer itself: it is several times faster than the calls around it, and knows offsets."""
    core: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        raise ValueError(
            f"{type(tokenizer).__name__} has no tokenizer.json: save the tokenizer in that form (a fast tokenizer) "
            f"first"
        )
    core.no_truncation()  # a tokenizer.json may carry both, and a direct call would obey them
    core.no_padding()
    return core


def _compiled(tokenizer: PreTrainedTokenizerBase) -> Template:
    """The chat template in Jinja's sandbox, as transformers compiles it. The calls around it cost more than a short
    chat."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    template: Template = _compile_jinja_template(tokenizer.get_chat_template())
    return template


def _special(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The tokens that the tokenizer finds in any text before it splits words: id -> text."""
    return {id: token.content for id, token in tokenizer.added_tokens_decoder.items() if token.special}


def _blank(text: str, at: int) -> int:
    """How many white-space characters stand in `text` from `at` on."""
    end = at
    while end < len(text) and text[end].isspace():
        end += 1
    return end - at


def common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """The length of the longest common prefix."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    return next(i for i in range(n) if a[i] != b[i])
