"""The game on chats from files: each line is a scenario; the seat writes the last assistant turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from ...system.files import InputError, digest, read_jsonl
from ..base import Facts, GeneratorMatch, Json, Match, Message, Reply, Request, Result, Scenario, Script, Turns
from ..chats import read_messages, write_messages
from ..splits import SPLITS, belongs, fine, shuffled

WRITER = "writer"
Judge = Callable[[str], Mapping[str, float]]  # text of a reply -> metrics, one of which is `score`
METRICS = {
    "score": "F1 of the words that the reply has in common with the real one",
    "finished_rate": "1 if the reply ended by itself, 0 if it was cut at its length",
    "empty_rate": "1 if it has no word",
    "words": "words of the reply",
}


class Prompts:
    """One seat, one request. The prompt is the chat before the last assistant turn (exchange=last), or before the first
    one (exchange=first, as in SPIN's published code); that turn is the real reply.

    A file has one chat in each line: {"messages": […]}, or a row of the published SPIN data, {"real": […], "generated":
    […]}, of which the real chat is used. Scenarios hold the prompt (`messages`) and the real `reply`, which no seat
    sees.

    validation, test   separate files, or shares of the chats of `train`; chats with the same prompt are never
                       separated, and train excludes prompts of the other files
    limit              number of chats for train, drawn by `split_seed`; None: all

    FileNotFoundError for a missing file; InputError names an invalid line.
    """

    name = "prompts"
    version = 1
    roles = (WRITER,)
    facts = Facts(min_return=0, max_return=1, max_requests=1, max_retries=0, history=True, metrics=METRICS)

    def __init__(
        self,
        train: str,
        validation: str | float = 0.1,
        test: str | float = 0.1,
        exchange: Literal["last", "first"] = "last",
        limit: int | None = None,
        split_seed: int = 0,
    ) -> None:
        given = {"train": train, "test": test, "validation": validation}
        self.files = {split: each for split, each in given.items() if isinstance(each, str)}
        if missing := [path for path in self.files.values() if not Path(path).is_file()]:
            raise FileNotFoundError(
                f"there is no file {', no file '.join(missing)}: give chats, one in each line, as game.train=…"
            )
        self.shares = {split: each for split, each in given.items() if not isinstance(each, str)}
        if any(not 0 <= share < 1 for share in self.shares.values()) or sum(self.shares.values()) >= 1:
            raise InputError(
                f"validation and test are {validation} and {test}, expected files, or shares that leave some of train"
            )
        if exchange not in ("last", "first"):
            raise InputError(f"exchange is {exchange!r}, expected last or first")
        if limit is not None and limit < 1:
            raise InputError(f"limit is {limit}, expected at least 1 chat, or null for all")
        self.exchange, self.limit, self.split_seed = exchange, limit, split_seed

    def scenarios(self, split: str) -> Sequence[Scenario]:
        """The chats of a split, shuffled."""
        return self._splits[split]

    def given(self) -> Iterator[tuple[str, tuple[Message, ...]]]:
        """Every prompt, with its file and line."""
        played = {scenario.id for found in self._splits.values() for scenario in found}
        for rows in self._rows.values():
            for place, scenario in rows:
                if scenario.id in played:
                    yield place, read_messages(list(scenario.data["messages"]))

    def match(self, scenario: Scenario, seed: int) -> Match:
        """A new match; deterministic."""
        return one_reply(scenario, lambda text: {"score": overlap(text, str(scenario.data["reply"]))})

    def scripts(self) -> Mapping[str, Script]:
        """None: the real replies are demonstrations (data=replies)."""
        return {}

    @cached_property
    def _rows(self) -> Mapping[str, Sequence[tuple[str, Scenario]]]:
        """The chats of each file, with their line."""
        return {
            split: [(f"{path}, line {number}", each) for number, each in enumerate(read_jsonl(path, self._read), 1)]
            for split, path in self.files.items()
        }

    @cached_property
    def _splits(self) -> Mapping[str, Sequence[Scenario]]:
        splits: dict[str, dict[str, Scenario]] = {split: {} for split in SPLITS}
        for split in ("test", "validation", "train"):  # held-out files first
            held = {scenario.cluster for other in splits.values() for scenario in other.values()}
            for _, scenario in self._rows.get(split, ()):
                if scenario.cluster not in held:
                    splits[self._place(scenario.cluster) if split == "train" else split][scenario.id] = scenario
        if empty := [split for split, found in splits.items() if not found]:
            raise InputError(
                f"{self.files['train']}: no chat is left for {' and '.join(empty)}: give more chats, larger shares, "
                f"or files"
            )
        ordered = {
            split: tuple(found[key] for key in shuffled(found, self.split_seed)) for split, found in splits.items()
        }
        return {**ordered, "train": ordered["train"][: self.limit]}

    def _place(self, cluster: str) -> str:
        """The split of a chat of the file `train`, determined by its prompt."""
        validation, test = (self.shares.get(split, 0.0) for split in ("validation", "test"))
        return belongs(fine(self.split_seed, cluster), validation, test)

    def _read(self, data: Json) -> Scenario:
        if not isinstance(data, dict):
            raise ValueError(f'expected an object with "messages" (or "real"), got {type(data).__name__}')
        chat = read_messages(data["messages"] if "messages" in data else data.get("real"))
        turns = [at for at, message in enumerate(chat) if message.role == "assistant"]
        if not turns:
            raise ValueError("the chat has no assistant message: nothing is the real reply")
        at = turns[0 if self.exchange == "first" else -1]
        if at == 0 or chat[at - 1].role != "user":
            raise ValueError(f"message {at} is the real reply, expected a user message before it")
        prompt, reply = write_messages(chat[:at]), chat[at].content
        cluster = f"prompts:{digest(prompt)[:16]}"
        return Scenario(f"{cluster}-{digest(reply)[:8]}", {"messages": prompt, "reply": reply}, cluster)


def one_reply(scenario: Scenario, judge: Judge) -> Match:
    """A match of one reply to the scenario's `messages`; `judge` computes the metrics of the text, and its `score` is
    the payoff."""
    return GeneratorMatch(_turns(scenario, judge))


def _turns(scenario: Scenario, judge: Judge) -> Turns:
    reply: Reply = yield Request(f"{WRITER}.1", WRITER, read_messages(list(scenario.data["messages"])))
    if reply.finish == "context":
        return Result({WRITER: 0.0}, "context", blame=(WRITER,))
    words = len(reply.text.split())
    metrics = {
        **judge(reply.text),
        "finished_rate": float(reply.finish == "stop"),
        "empty_rate": float(not words),
        "words": float(words),
    }
    return Result({WRITER: metrics["score"]}, "finished" if reply.finish == "stop" else "cut", metrics=metrics)


def overlap(text: str, real: str) -> float:
    """F1 of the common words of two texts (lower case, with multiplicity): 1 for the same words, 0 for none in common.

    Like ROUGE-1's F-measure (Lin 2004) without stemming. Two empty texts have 1.
    """
    one, other = Counter(text.lower().split()), Counter(real.lower().split())
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0
