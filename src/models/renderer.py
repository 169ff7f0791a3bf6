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
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from ..games.base import Finish, Message, Speaker
from ..system.files import InputError
from .load import load_tokenizer
from .thoughts import Conduct
from .trial import TURNS, tried

if TYPE_CHECKING:
    from jinja2 import Template
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

TODAY = datetime(2024, 7, 26)
"""The date passed to templates (Llama 3.1's own default), so that a run does not change at midnight."""

FIELDS = ("reasoning_content", "thinking")
"""The message fields in which templates expect a thought."""


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

    `stop_ids` are the ids that end a reply: the tokenizer's end of sequence, those in `eos`, and the special token that
    the template puts after an assistant's message.

    For a template that refuses or drops system messages (Gemma, early Mistral) their text is put in front of the first
    user message, or becomes a user message if none follows. The text of a special token inside a message is broken up
    with a space, so that no message can forge a turn. `marks` enclose the model's thoughts (None: it has none).

    ValueError for a tokenizer without a chat template; InputError for a template that loses a message (such as one that
    expects contents as lists of parts).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context: int | None = None, eos: Iterable[int] = ()) -> None:
        if not tokenizer.chat_template:
            raise ValueError("the tokenizer has no chat template: put one beside it as chat_template.jinja")
        self.tokenizer = tokenizer
        self.context = context
        self.core = _core(tokenizer)
        self._special = {str(token): id for id, token in _special(tokenizer).items()}
        self._forged = (
            re.compile("|".join(map(re.escape, sorted(self._special, key=len, reverse=True))))
            if self._special
            else None
        )
        said = {"strftime_now": TODAY.strftime, "tools": None, "documents": None}
        self.conduct = Conduct.of(tokenizer)
        self.marks = self.conduct.marks(str(tokenizer.get_chat_template()))
        told = {**tokenizer.special_tokens_map, **self.conduct.template, "tools": None, "documents": None}
        tried(str(tokenizer.get_chat_template()), told)
        self._template = _compiled(tokenizer)
        self._known = {**self._template.globals, **tokenizer.special_tokens_map, **said, **self.conduct.template}
        self._folds = self._folds_alone = self._fields = False
        self._folds, self._folds_alone = self._loses("system", "user"), self._loses("system")
        self._fields = self.marks is not None and self._takes_thoughts()
        self._check()
        self.stop_ids = self._stop_ids(eos)
        self.stops = {id: str(tokenizer.convert_ids_to_tokens(id) or "") for id in self.stop_ids}
        ends = sorted((text for text in self.stops.values() if text), key=len, reverse=True)
        self.closed = re.compile(r"\s*(?:" + "|".join(map(re.escape, ends)) + ")" if ends else r"(?!)")

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
        return self.render(messages, True)

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
        return ("", self.text(token_ids)) if parts is None else (self._bare(parts[0]), self._bare(parts[1]))

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

    def _bare(self, text: str) -> str:
        """`text` without special tokens."""
        return self._forged.sub("", text) if self._forged else text

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

    def extend(self, stream: TokenStream | None, messages: Sequence[Message]) -> Extension:
        """The prompt for the next request of a seat; `stream` is the one after its last reply (None: no reply yet).

        ValueError if the template cannot render the view at all.
        """
        thoughts = stream.thoughts if stream else {}
        text = self.render(messages, True, thoughts)
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

    # --- text ---

    def render(self, messages: Sequence[Message], prompt: bool, thoughts: Mapping[str, str] | None = None) -> str:
        """The chat as text, with a generation prompt if `prompt`; `thoughts` as in a TokenStream.

        InputError if the template refuses it, or a prompt lacks what the system or a user says.
        """
        folded = self.fold(messages)[0]
        text = self._rendered(folded, prompt, thoughts or {})
        if prompt and (lost := self._lost(folded, text)) is not None:
            place = f"message {lost + 1} of {len(folded)} ({folded[lost].role})"
            raise InputError(
                f"the model's chat template loses or changes {place}: "
                "many print the first system message alone, or the last messages of a long chat; put another "
                "template beside the tokenizer as chat_template.jinja"
            )
        return text

    def _lost(self, messages: Sequence[Message], text: str) -> int | None:
        """The index of the first message that the rendered text lacks. Replies are not looked for: templates may cut
        their thoughts."""
        at = 0
        for number, message in enumerate(messages):
            if message.role == "assistant":
                continue
            content = self.plain(message.content).strip()
            if (found := text.find(content, at)) >= 0:
                at = found + len(content)
            elif not _within(content, text):  # some templates print the system's message with the last user's
                return number
        return None

    def _rendered(self, messages: Sequence[Message], prompt: bool, thoughts: Mapping[str, str] | None = None) -> str:
        """The text of a folded chat, of which the template may have lost something."""
        chat = [self._entry(message, thoughts or {}) for message in messages]
        try:
            if not chat:
                raise ValueError("it is empty")
            return self._filled(chat, prompt)
        except (TemplateError, TypeError, ValueError, LookupError) as error:  # foreign code, run in Jinja's sandbox
            roles = ", ".join(message.role for message in messages) or "no message"
            raise InputError(
                f"the model's chat template refuses this conversation ({roles}): {error}. Many templates want user and "
                "assistant in turns with a user message first: let the game tell the seat something before it asks"
            ) from error

    def _filled(self, chat: Sequence[Mapping[str, str]], prompt: bool) -> str:
        known = {**self._known, "messages": chat, "add_generation_prompt": prompt}
        return "".join(self._template.root_render_func(self._template.new_context(known, shared=True)))

    def _entry(self, message: Message, thoughts: Mapping[str, str]) -> dict[str, str]:
        """A message as templates expect it. A thought goes into its own fields if the template reads them, else into
        the content."""
        entry: dict[str, str] = {"role": message.role, "content": self.plain(message.content)}
        if self.marks is None or message.role != "assistant":
            return entry
        whole = thoughts.get(message.request or "", message.content)
        if (parts := self.marks.parts(whole)) is None:
            return entry
        heard = message.request in thoughts  # the content is the speech alone
        speech = entry["content"] if heard else self.plain(self._bare(parts[1]))
        if not self.conduct.keep_thoughts:
            return {**entry, "content": speech}
        if self._fields:
            return {**entry, "content": speech, **dict.fromkeys(FIELDS, self.plain(self._bare(parts[0])))}
        if heard and message.content.strip() not in whole:  # the game changed it
            whole = f"{self.marks.open}{parts[0]}{self.marks.close}{message.content}"
        return {**entry, "content": self.plain_but_marks(whole)}

    def plain_but_marks(self, whole: str) -> str:
        """A reply with its thought, with special tokens broken up that are not its marks."""
        if self.marks is None:
            return self.plain(whole)
        ours = re.compile(f"({re.escape(self.marks.open)}|{re.escape(self.marks.close)})")
        return "".join(piece if at % 2 else self.plain(piece) for at, piece in enumerate(ours.split(whole)))

    def plain(self, content: str) -> str:
        """`content` with the text of special tokens broken up."""
        if self._forged is None or not self._forged.search(content):
            return content
        return self._forged.sub(lambda match: match[0][0] + " " + match[0][1:], content)

    def fold(
        self, messages: Sequence[Message], weights: Sequence[float] = ()
    ) -> tuple[Sequence[Message], Sequence[float]]:
        """`messages` for a template without a system role: its text goes in front of the first user message, or becomes
        one if none follows."""
        if not messages or messages[0].role != "system":
            return messages, weights
        follows = len(messages) > 1 and messages[1].role == "user"
        if not (self._folds if follows else self._folds or self._folds_alone):
            return messages, weights
        if follows:
            return [
                replace(messages[1], content=f"{messages[0].content}\n\n{messages[1].content}"),
                *messages[2:],
            ], weights[1:]
        return [replace(messages[0], role="user"), *messages[1:]], weights

    def _loses(self, *roles: Speaker) -> bool:
        """Whether the template refuses messages of these roles, or drops one of them."""
        marks = [f"\x02{at}\x03" for at in range(len(roles))]
        try:
            text = self._rendered([Message(role, mark) for role, mark in zip(roles, marks, strict=True)], True)
        except ValueError:
            return True
        return not all(mark in text for mark in marks)

    def _takes_thoughts(self) -> bool:
        """Whether the template takes a thought as a field of its message."""
        chat = [{"role": "user", "content": "\x02"}, {"role": "assistant", "content": "\x03"}]
        try:
            return "\x04" in self._filled([chat[0], {**chat[1], **dict.fromkeys(FIELDS, "\x04")}], False)
        except (TemplateError, TypeError, ValueError, LookupError):
            return False

    def _check(self) -> None:
        """InputError if the template loses a message. A template that only refuses some orders of roles is reported in
        use."""
        try:
            self._rendered([Message("user", "\x02")], True)
        except InputError as error:
            raise InputError(
                f"the model's chat template refuses even one message of a user ({error.__cause__}): it is given "
                "messages and the arguments in model.template, and no tools or documents; put one that takes plain "
                "chats beside the tokenizer as chat_template.jinja"
            ) from error
        chats: tuple[tuple[Speaker, ...], ...] = (("user",), ("user", "assistant") * (TURNS // 2) + ("user",))
        for roles in chats:
            try:
                text = self._rendered([Message(role, f"\x02{at}\x03") for at, role in enumerate(roles)], True)
            except ValueError:
                continue
            if lost := [role for at, role in enumerate(roles) if f"\x02{at}\x03" not in text]:
                raise InputError(
                    f"the model's chat template loses what the {lost[0]} says: it must print every message whose "
                    "content is plain text; put another one beside the tokenizer as chat_template.jinja"
                )

    def _stop_ids(self, eos: Iterable[int]) -> frozenset[int]:
        """The known end-of-sequence ids, and the first special token after an assistant's message in the template."""
        ids = {int(id) for id in eos}
        if self.tokenizer.eos_token_id is not None:
            ids.add(int(self.tokenizer.eos_token_id))
        try:
            text = self._rendered([Message("user", "\x02"), Message("assistant", "\x03")], False)
        except ValueError:
            text = ""
        token = self._forged.match(text.rpartition("\x03")[2].lstrip()) if self._forged and "\x03" in text else None
        return frozenset(ids | ({self._special[token[0]]} if token else set()))

    # --- streams ---

    def _matched(self, stream: TokenStream, text: str) -> int | None:
        """The offset in `text` at which the stream's own text ends, None if `text` does not begin with it.

        White space around the reply may have been trimmed or added; a sampled terminator must follow. Instead of the
        speech the whole reply may be there, with its thought and special tokens.
        """
        if not text.startswith(stream.text):
            return None
        at = None if stream.request in stream.thoughts else _behind(self.plain(stream.reply), text, len(stream.text))
        if at is None:
            whole = self._whole(stream.token_ids[stream.cuts[-1][1] :])
            at = _behind(whole.removesuffix(stream.end), text, len(stream.text))
        if at is not None and stream.end:
            start = at + _blank(text, at)
            if text.startswith(stream.end, start):
                return start + len(stream.end)
        return at

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

    @property
    def anchor(self) -> str:
        """A special token after which any text is encoded as in the middle of a chat; "" if there is none."""
        for token in (self.tokenizer.eos_token, self.tokenizer.bos_token):
            if token in self._special:
                return str(token)
        return ""

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

    def end_of(self, ids: Sequence[int]) -> str:
        """The special token with which `ids` end; "" if they end with an ordinary one."""
        token = str(self.tokenizer.convert_ids_to_tokens(int(ids[-1])))
        return token if token in self._special else ""


def context_length(folder: str | Path) -> int | None:
    """The context length in tokens that a model folder declares; None if it declares none."""
    config = _json(Path(folder) / "config.json")
    config = config.get("text_config", config)
    for key in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        if isinstance(config.get(key), int):
            return int(config[key])
    return None


def _within(content: str, text: str) -> bool:
    """Whether the text contains the message, up to differences in white space."""
    return content in text or " ".join(content.split()) in " ".join(text.split())


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


def _compiled(tokenizer: PreTrainedTokenizerBase) -> Template:
    """The chat template in Jinja's sandbox, as compiled by transformers, whose wrapper costs more than a short chat."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    template: Template = _compile_jinja_template(tokenizer.get_chat_template())
    return template


def _special(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The tokens that the tokenizer recognises in any text before it splits words: id -> text."""
    return {id: token.content for id, token in tokenizer.added_tokens_decoder.items() if token.special}


def _behind(reply: str, text: str, at: int) -> int | None:
    """The offset after `reply` in `text` at `at`, ignoring white space around it; None if it is not there."""
    if text.startswith(reply, at):
        return at + len(reply)
    core, start = reply.strip(), at + _blank(text, at)
    return start + len(core) if text.startswith(core, start) else None


def _blank(text: str, at: int) -> int:
    """The number of white-space characters in `text` from `at` on."""
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
