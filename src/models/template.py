"""A model's chat template: renders chat messages to text.

A template is foreign code: it is tried in a separate process, rendered in Jinja's sandbox, and refused if it loses what
somebody says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from ..games.base import Message, Speaker
from ..system.files import InputError
from .thoughts import Conduct
from .trial import TURNS, tried

if TYPE_CHECKING:
    from jinja2 import Template
    from transformers import PreTrainedTokenizerBase

TODAY = datetime(2024, 7, 26)
"""The date passed to templates (Llama 3.1's own default), so that a run does not change at midnight."""

FIELDS = ("reasoning_content", "thinking")
"""The message fields in which templates expect a thought."""


class ChatTemplate:
    """The chat template of one tokenizer.

    For a template that refuses or drops system messages (Gemma, early Mistral) their text is put in front of the first
    user message, or becomes a user message if none follows. The text of a special token inside a message is broken up
    with a space, so that no message can forge a turn.

    `marks` enclose the model's thoughts (None: it has none), `special` maps the texts of special tokens to their ids,
    and `terminator` is the special token after an assistant's message ("" if there is none).

    ValueError for a tokenizer without a chat template; InputError for a template that loses a message (such as one that
    expects contents as lists of parts).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise ValueError("the tokenizer has no chat template: put one beside it as chat_template.jinja")
        source = str(tokenizer.get_chat_template())
        self.conduct = Conduct.of(tokenizer)
        self.marks = self.conduct.marks(source)
        self.special = {token.content: id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._forged = any_of(self.special)
        known = {**tokenizer.special_tokens_map, **self.conduct.template, "tools": None, "documents": None}
        tried(source, known)
        self._template = _compiled(source)
        self._known = {**self._template.globals, "strftime_now": TODAY.strftime, **known}
        self._fields = self.marks is not None and self._takes_thoughts()
        self._folds, self._folds_alone = self._drops("system", "user") != [], self._drops("system") != []
        self._check()
        self.terminator = self._terminator()

    def render(self, messages: Sequence[Message], prompt: bool, thoughts: Mapping[str, str] | None = None) -> str:
        """The chat as text, with a generation prompt if `prompt`; `thoughts` as in a TokenStream.

        InputError if the template refuses it, or a prompt lacks what the system or a user says.
        """
        folded = self.fold(messages)
        text = self._rendered(folded, prompt, thoughts)
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
        speech = entry["content"] if heard else self.plain(self.bare(parts[1]))
        if not self.conduct.keep_thoughts:
            return {**entry, "content": speech}
        if self._fields:
            return {**entry, "content": speech, **dict.fromkeys(FIELDS, self.plain(self.bare(parts[0])))}
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
        return self._forged.sub(lambda match: match[0][0] + " " + match[0][1:], content)

    def bare(self, text: str) -> str:
        """`text` without special tokens."""
        return self._forged.sub("", text)

    def fold(self, messages: Sequence[Message]) -> Sequence[Message]:
        """`messages` for a template without a system role: its text goes in front of the first user message, or becomes
        one if none follows."""
        if not messages or messages[0].role != "system":
            return messages
        system, *rest = messages
        if rest and rest[0].role == "user":
            joined = replace(rest[0], content=f"{system.content}\n\n{rest[0].content}")
            return [joined, *rest[1:]] if self._folds else messages
        return [replace(system, role="user"), *rest] if self._folds or self._folds_alone else messages

    # --- trying the template ---

    def _drops(self, *roles: Speaker) -> list[Speaker] | None:
        """The roles of a chat whose messages the template drops; None if it refuses the chat."""
        marks = [f"\x02{at}\x03" for at in range(len(roles))]
        try:
            text = self._rendered([Message(role, mark) for role, mark in zip(roles, marks, strict=True)], True)
        except InputError:
            return None
        return [role for role, mark in zip(roles, marks, strict=True) if mark not in text]

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
            if lost := self._drops(*roles):
                raise InputError(
                    f"the model's chat template loses what the {lost[0]} says: it must print every message whose "
                    "content is plain text; put another one beside the tokenizer as chat_template.jinja"
                )

    def _terminator(self) -> str:
        try:
            text = self._rendered([Message("user", "\x02"), Message("assistant", "\x03")], False)
        except InputError:
            return ""
        _, found, tail = text.rpartition("\x03")
        token = self._forged.match(tail.lstrip()) if found else None
        return token[0] if token else ""


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern for any of these texts, the longest first; without texts it matches nothing."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")


def _compiled(source: str) -> Template:
    """The chat template in Jinja's sandbox, as compiled by transformers, whose wrapper costs more than a short chat."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    template: Template = _compile_jinja_template(source)
    return template


def _within(content: str, text: str) -> bool:
    """Whether the text contains the message, up to differences in white space."""
    return content in text or " ".join(content.split()) in " ".join(text.split())
