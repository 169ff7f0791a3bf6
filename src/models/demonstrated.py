"""Demonstrations as token ids: each reply follows exactly the prompt of play.

If a template's chats only grow, a demonstration is one stream. If it renders earlier turns differently (it drops
thoughts, or moves the system message), play forks, and a demonstration has a stream for each fork.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from ..data.sample import Demonstration, Sample, Utterance
from ..games.base import Message, Speaker
from ..system.files import InputError
from .renderer import Extension, Renderer


@dataclass(frozen=True, slots=True)
class _Shape:
    """A template's rendering of a sequence of roles: `parts[i]` is the text before message i, the last one after all of
    them; `trims[i]` tells whether white space before and after message i is removed."""

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


class Demonstrated:
    """Renders demonstrations for one renderer."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        self._shape = lru_cache(maxsize=1024)(self._learn)
        self._grows = lru_cache(maxsize=1024)(self._only_grows)

    def sample(self, demo: Demonstration) -> Sample:
        """The demonstration as one stream; InputError if it has several."""
        if len(found := self.samples(demo)) != 1:
            raise InputError(f"demonstration {demo.id}: the chat template makes {len(found)} streams of it, not one")
        return found[0]

    def samples(self, demo: Demonstration) -> list[Sample]:
        """The demonstration as token ids, with one utterance per message of weight above 0.

        An assistant's utterance is what the model would sample: everything after the generation prompt, including the
        terminator (kind "act"). Other utterances are the content and the terminator, if any (kind "partner"); with
        several streams, those after the last reply are left out. ValueError if the template rewrites a supervised
        message, or if no token ends a reply.
        """
        if len(demo.weights) != len(demo.messages):
            raise ValueError(f"demonstration {demo.id}: {len(demo.weights)} weights for {len(demo.messages)} messages")
        found = self._whole(demo)
        return self._turns(demo) if found is None else [found]

    # --- one stream ---

    def _whole(self, demo: Demonstration) -> Sample | None:
        """The demonstration as one stream; None if the template rewrites history."""
        template = self.renderer.template
        folded = template.fold(demo.messages)
        weights = demo.weights[len(demo.messages) - len(folded) :]
        roles = tuple(message.role for message in folded)
        text = template.render(folded, False)
        shape = self._shape(roles, False)
        if shape is None or not self._grows(roles):
            return None
        joined, spans = shape.join([template.plain(message.content) for message in folded])
        if joined != text:
            return None
        spans = [self._supervised(roles, shape, text, at, span) for at, span in enumerate(spans)]
        own = [span for span, role in zip(spans, roles, strict=True) if role == "assistant"]
        ids, offsets = self._pieces(text, own, demo.id)
        return Sample(demo.id, tuple(ids), tuple(_utterances(offsets, spans, weights, roles)))

    def _only_grows(self, roles: tuple[Speaker, ...]) -> bool:
        """Whether the whole chat begins with the prompt of each reply, and renders each reply like the last one."""
        full = self._shape(roles, False)
        for at in [at for at, role in enumerate(roles) if role == "assistant"]:
            prompt, upto = self._shape(roles[:at], True), self._shape(roles[: at + 1], False)
            if full is None or prompt is None or upto is None:
                return False
            # parts are the texts of the template around the messages: part i comes before message i
            if prompt.parts[:-1] != full.parts[:at] or not full.parts[at].startswith(prompt.parts[-1]):
                return False
            if upto.parts[:-1] != full.parts[: at + 1]:
                return False
            last, same = (self.renderer.closed.match(each.parts[at + 1]) for each in (upto, full))
            if last is not None and (same is None or last[0].strip() != same[0].strip()):
                return False  # in the middle of the chat the reply ends with another terminator, or none
            if prompt.trims != full.trims[:at] or upto.trims != full.trims[: at + 1]:
                return False
        return True

    def _supervised(
        self, roles: Sequence[Speaker], shape: _Shape, text: str, at: int, span: tuple[int, int]
    ) -> tuple[int, int]:
        """The supervised [start, end) in characters of message `at`, whose content is at `span`."""
        start, end = span
        closed = self.renderer.closed.match(text, end)
        if roles[at] == "assistant" and (prompt := self._shape(tuple(roles[:at]), True)) is not None:
            start -= len(shape.parts[at]) - len(prompt.parts[-1])
        return start, closed.end() if closed else end

    def _pieces(self, text: str, own: Sequence[tuple[int, int]], name: str) -> tuple[list[int], list[tuple[int, int]]]:
        """(ids, offsets) of `text`, encoded as in play: own replies separately from the text between them. A reply
        without the template's terminator gets the model's."""
        renderer = self.renderer
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        bounds = [0, *(bound for span in own for bound in span), len(text)]
        for number, (start, end) in enumerate(pairwise(bounds)):
            if start < end:
                found, places = self._encoded(renderer.end_of(ids) or renderer.anchor if ids else "", text[start:end])
                ids += found
                offsets += [(first + start, last + start) for first, last in places]
                if number % 2 and ids[-1] not in renderer.stops:
                    ids.append(self._end(name))
                    offsets.append((end - 1, end))
        return ids, offsets

    def _encoded(self, anchor: str, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of `text` behind the special token `anchor`, and their offsets in `text`."""
        found = self.renderer.core.encode(anchor + text, add_special_tokens=False)
        skip = 1 if anchor else 0
        places = [(first - len(anchor), last - len(anchor)) for first, last in found.offsets[skip:]]
        return found.ids[skip:], places

    def _end(self, name: str) -> int:
        if self.renderer.end is None:
            raise InputError(
                f"demonstration {name}: the chat template ends no reply, and the tokenizer names no end of "
                "sequence, so that the model would never learn to stop: give the tokenizer an eos_token"
            )
        return self.renderer.end

    # --- a stream for each fork ---

    def _turns(self, demo: Demonstration) -> list[Sample]:
        """The demonstration turn by turn, as in play: each reply follows the prompt rendered from the view before
        it."""
        renderer, stream, last = self.renderer, None, -1
        found: list[Sample] = []
        view = [self._heard(message, at) for at, message in enumerate(demo.messages)]
        for at in [at for at, message in enumerate(view) if message.role == "assistant"]:
            part = renderer.extend(stream, view[:at])
            ids = self._reply(part, view[:at], demo, at)
            stream = renderer.answered(part, str(at), view[at].content, ids)
            said: tuple[Utterance, ...] = tuple(self._partners(part, view[:at], demo.weights[:at], last))
            if demo.weights[at] > 0:
                said += (Utterance(len(part.token_ids), len(stream.token_ids), weight=demo.weights[at]),)
            if found and part.fork is None:
                said = found.pop().utterances + said
            found.append(Sample(demo.id, stream.token_ids, said))
            last = at
        kept = [sample for sample in found if sample.utterances]
        return kept if len(kept) == 1 else [replace(each, id=f"{demo.id}/{n}") for n, each in enumerate(kept)]

    def _heard(self, message: Message, at: int) -> Message:
        """A message as in the seat's view: own replies without thoughts."""
        if message.role != "assistant":
            return message
        parts = self.renderer.marks.parts(message.content) if self.renderer.marks else None
        return replace(message, content=parts[1] if parts else message.content, request=str(at))

    def _reply(self, part: Extension, before: Sequence[Message], demo: Demonstration, at: int) -> list[int]:
        """The ids to sample for message `at` after the prompt `part`."""
        renderer, message = self.renderer, replace(demo.messages[at], request=None)
        whole = renderer.template.render([*before, message], False, part.thoughts)
        roles = tuple(each.role for each in renderer.template.fold([*before, message]))
        shape = self._shape(roles, False, len(roles) - 1)
        said = renderer.template.plain(self._heard(message, at).content).strip()
        tail = shape.parts[-1] if shape else ""
        if shape is None or not whole.removesuffix(tail).rstrip().endswith(said):
            raise ValueError(f"demonstration {demo.id}: the chat template rewrites the reply that is to be imitated")
        closed = renderer.closed.match(tail)
        if whole.startswith(part.text) and self._kept(message, whole[len(part.text) :]):
            text = whole[len(part.text) :].removesuffix(tail)
        else:
            text = self._sampled(message.content, renderer.opened(part.token_ids))
        ids = renderer.after(renderer.end_of(part.token_ids), text + (closed[0] if closed else ""))
        return ids if ids and ids[-1] in renderer.stops else [*ids, self._end(demo.id)]

    def _kept(self, message: Message, rendered: str) -> bool:
        """Whether a message's thought is in its rendering."""
        parts = self.renderer.marks.parts(message.content) if self.renderer.marks else None
        return parts is None or self.renderer.template.plain(parts[0]) in rendered

    def _sampled(self, content: str, opened: bool) -> str:
        """A reply as the model would write it, if the template does not show it: after an `opened` thought, which is
        closed at once if the reply has none."""
        marks, text = self.renderer.marks, self.renderer.template.plain_but_marks(content)
        if marks is None or not opened:
            return text
        return text.replace(marks.open, "", 1).lstrip() if marks.close in text else f"{marks.close}\n\n{text}"

    def _partners(
        self, part: Extension, before: Sequence[Message], weights: Sequence[float], last: int
    ) -> Iterator[Utterance]:
        """The messages of others since message `last`, as far as this prompt encodes them anew."""
        template = self.renderer.template
        folded = template.fold(before)
        gone = len(before) - len(folded)
        first = max(last + 1 - gone, 0)
        shape = self._shape(tuple(message.role for message in folded), True, first)
        ending, spans = shape.join([template.plain(each.content) for each in folded[first:]]) if shape else ("", [])
        if not part.text.endswith(ending):
            return
        char, token = part.cuts[-2] if len(part.cuts) > 1 else (0, 0)
        anchor = self.renderer.end_of(part.token_ids[:token]) or self.renderer.anchor if token else ""
        offsets = [(start + char, end + char) for start, end in self._encoded(anchor, part.text[char:])[1]]
        base = len(part.text) - len(ending)
        closed = [self.renderer.closed.match(ending, end) for _, end in spans]
        places = [
            (base + start, base + (close.end() if close else end))
            for (start, end), close in zip(spans, closed, strict=True)
        ]
        roles = [message.role for message in folded[first:]]
        for each in _utterances(offsets, places, weights[gone + first :], roles):
            yield replace(each, start=each.start + token, end=each.end + token)

    # --- shapes ---

    def _learn(self, roles: tuple[Speaker, ...], prompt: bool, first: int = 0) -> _Shape | None:
        """Finds the shape of these roles with marks as contents (or of the text from message `first` on); None if the
        rendering depends on the contents."""
        marks = [f"\x02{i}\x03" for i in range(len(roles))]
        chat = [Message(role, f"\t{mark}\t") for role, mark in zip(roles, marks, strict=True)]
        text = self.renderer.template.render(chat, prompt)
        if first:
            marks = marks[first:]
            before, mark, after = text.partition(marks[0])
            text = "\t" * before.endswith("\t") + mark + after
        pieces = re.split("|".join(f"\t?{mark}\t?" for mark in marks), text) if marks else [text]
        if [mark for mark in re.findall("\x02[0-9]+\x03", text)] != marks:
            return None
        trims = tuple((f"\t{mark}" not in text, f"{mark}\t" not in text) for mark in marks)
        return _Shape(tuple(pieces), trims)


def _utterances(
    offsets: Sequence[tuple[int, int]],
    spans: Sequence[tuple[int, int]],
    weights: Sequence[float],
    roles: Sequence[Speaker],
) -> Iterator[Utterance]:
    """Converts the supervised spans from characters to tokens; `offsets` and `spans` are sorted."""
    firsts, lasts = zip(*offsets, strict=True) if offsets else ((), ())
    for (start, end), weight, role in zip(spans, weights, roles, strict=True):
        begin, beyond = bisect_right(lasts, start), bisect_left(firsts, end)
        if weight > 0 and begin < beyond:
            yield Utterance(begin, beyond, weight=weight, kind="act" if role == "assistant" else "partner")
