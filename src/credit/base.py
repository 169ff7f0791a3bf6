"""The interface of credit (advantage estimation), and `Log`: one seat of one match, and how it becomes samples.

Only tokens that the policy under training sampled itself are supervised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import nlargest
from typing import Any, Protocol, TypeAlias

from ..data.consent import trainable
from ..data.episode import Episode, Stream, Turn, streams
from ..data.sample import Sample, Utterance
from ..data.scorer import Scores, scored
from ..data.store import Matches
from .verdicts import Verdict, Verdicts

Numbers: TypeAlias = Mapping[str, tuple[float, float]]  # request -> (reward, weight)

BEST = 3  # logs that an error lists


class NothingKept(ValueError):
    """A credit kept no log at all; the message holds the table of scores."""


@dataclass(frozen=True, slots=True)
class Credited:
    """Samples sorted by match id, seat and stream (mixed-in demonstrations last), one verdict for each log, and what
    the credit of the next round is given as its state (plain JSON; None where it needs none).

    A log that was played without token ids can be kept and has no samples: it may teach a learner that reads chats.
    """

    samples: list[Sample]
    table: Verdicts
    state: Any = None

    def on_policy(self) -> list[Sample]:
        """The samples, for a learner that reads token ids. NothingKept where no kept log has any."""
        if not any(verdict.recorded for verdict in self.table if verdict.kept):
            raise NothingKept(
                "the kept logs have no token ids, so that they cannot be trained on-policy: the server that played "
                "them did not give "
                f"any. Say backend.token_ids=true where it can (vLLM's can), or learner=openai, which reads "
                f"chats\n{self.text(BEST)}"
            )
        return self.samples

    @property
    def kept(self) -> int:
        """Logs that are trained on."""
        return sum(verdict.kept for verdict in self.table)

    def text(self, rows: int = 20) -> str:
        """The table for people: how many logs for each reason, then the `rows` best scores."""
        reasons = Counter(verdict.why for verdict in self.table)
        scored = ((verdict.score, -at, verdict) for at, verdict in enumerate(self.table) if verdict.score is not None)
        best = [verdict for _, _, verdict in nlargest(rows, scored)]
        lines = [
            f"{self.kept} of {len(self.table)} logs kept",
            *(f"  {count:6d} {why}" for why, count in reasons.most_common()),
        ]
        lines += [f"{'score':>9} {'bar':>9}  match, seat"] if best else []
        for verdict in best:
            bar = "-" if verdict.bar is None else f"{verdict.bar:.4f}"
            lines.append(f"{verdict.score:9.4f} {bar:>9}  {verdict.match}, {verdict.seat}: {verdict.why}")
        return "\n".join([*lines, f"… and {len(self.table) - rows} more"] if len(self.table) > rows else lines)


class Credit(Protocol):
    """Decides who is trained on what."""

    @property
    def mix(self) -> int | None:
        """How many demonstrations, drawn anew for each round, it wants to be given: 0 for none, None for every one."""

    def __call__(
        self, episodes: Collection[Episode], player: str, demonstrations: Sequence[Sample] = (), state: Any = None
    ) -> Credited:
        """Samples of the replies that the model named `player` made in `episodes`, the matches of one round.

        They may be more than memory holds, and can be gone through several times: first for what the round is like as a
        whole, then for what becomes of each match (`logs`). What is kept of a match on the way should be a few numbers.
        Seats count by who sits in them: a frozen opponent of the very same version is not trained. `demonstrations` are
        rendered texts to mix in (or to pair with). `state` is that of the round before, None in the first: a running
        baseline, for one. NothingKept where no log is trained on.
        """


@dataclass(frozen=True, slots=True)
class Log:
    """One seat of one match, and the version of the policy that played it."""

    episode: Episode
    seat: str
    version: str
    scores: Scores = field(default_factory=dict)  # what a scorer said of the match, where there was one

    @property
    def score(self) -> float:
        """The seat's payoff."""
        return self.episode.result.returns[self.seat]

    def metric(self, name: str) -> float | None:
        """The match's metric, or the seat's share of it, else the scorer's score of this name; None where there is
        neither."""
        value = self.episode.result.metrics.get(name, self.scores.get(name))
        return value.get(self.seat) if isinstance(value, Mapping) else value

    def mark(self, request: str, name: str) -> float | None:
        """The number of this name that the game marked a reply with, or that a scorer gave it; None where there is
        neither."""
        value = self.episode.result.marks.get(request, {}).get(name, self.scores.get(name, {}).get(request))
        return None if value is None else float(value)

    def replies(self, breach: bool = False, probes: bool = False, refused: bool = False) -> list[str]:
        """Requests whose replies may be trained on, in order: made by this policy, and legal (`Episode.refused`).

        `breach` lets in the last reply of a seat to blame, for a credit that punishes it; `probes` the replies to
        questions aside; `refused` every illegal one, for a credit with an advantage that can be negative.
        """
        own = [turn for turn in self.episode.own if turn.seat == self.seat and (probes or turn.kind != "probe")]
        left_out = set() if refused else self.episode.refused(self.seat)
        if breach and self.blamed:
            left_out -= {turn.request for turn in own[-1:]}
        return [turn.request for turn in own if self._sampled(turn) and turn.request not in left_out]

    @property
    def blamed(self) -> bool:
        """Whether an illegal reply put this seat out of the match."""
        return self.seat in self.episode.result.blame

    @property
    def recorded(self) -> bool:
        """Whether it is known which token ids this seat sampled; else its replies are text alone."""
        return any(turn.call is not None for turn in self.episode.own if turn.seat == self.seat)

    def _sampled(self, turn: Turn) -> bool:
        if not self.recorded:
            return turn.text != "" and turn.finish != "context"
        return turn.call is not None and turn.call.policy == self.version and len(turn.call.sampled_ids) > 0

    def samples(self, numbers: Numbers) -> list[Sample]:
        """One sample for each token stream that holds a reply named in `numbers`; each reply stands in one of them."""
        found = []
        for index, stream in enumerate(streams(self.episode, self.seat)):
            spans = {request: span for request, span in stream.spans.items() if request in numbers}
            if spans:
                utterances = tuple(Utterance(*span, *numbers[request]) for request, span in spans.items())
                name = f"{self.episode.id}/{self.seat}/{index}"
                found.append(
                    Sample(name, stream.token_ids, utterances, policy=self.version, logprobs=_recorded(stream, spans))
                )
        return found

    def verdict(
        self,
        why: str,
        kept: bool = False,
        score: float | None = None,
        bar: float | None = None,
        replies: Iterable[str] = (),
    ) -> Verdict:
        score = self.score if score is None else score
        if kept and not self.recorded:
            why = f"{why}, without token ids (not trainable on-policy)"
        return Verdict(
            self.episode.id, self.episode.scenario.id, self.seat, score, bar, kept, why, tuple(replies), self.recorded
        )


def _recorded(stream: Stream, spans: Mapping[str, tuple[int, int]]) -> tuple[float, ...] | None:
    """The sampler's log-probs of `spans`; None unless every sampled token of the stream has one."""
    if len(stream.logprobs) != sum(end - start for start, end in stream.spans.values()):
        return None
    chosen: tuple[float, ...] = ()
    at = 0
    for request, (start, end) in stream.spans.items():
        chosen += stream.logprobs[at : at + end - start] if request in spans else ()
        at += end - start
    return chosen


@dataclass(frozen=True, slots=True)
class Logs:
    """An iterable of logs, read from the stored matches on each pass. Matches of people who have not agreed to
    training have none (`data.consent`)."""

    episodes: Collection[Episode]  # sorted by match id
    player: str | None

    def __iter__(self) -> Iterator[Log]:
        for each in scored(self.episodes):
            if not trainable(each.episode):
                continue
            for seat, version in sorted(each.episode.policies.items()):
                played = seat in each.episode.result.returns  # a service has no payoff, and no log
                if played and version and self.player in (None, each.episode.players[seat]):
                    yield Log(each.episode, seat, version, each.scores)


def logs(episodes: Collection[Episode], player: str | None = None) -> Logs:
    """The logs of the language model named `player` (None: of every one), sorted by match id and seat."""
    return Logs(episodes if isinstance(episodes, Matches) else sorted(episodes, key=lambda episode: episode.id), player)


def credited(samples: list[Sample], table: Iterable[Verdict], mixed: Sequence[Sample] = ()) -> Credited:
    """Builds the result of a credit, with the `mixed` demonstrations as kind "sft".

    NothingKept, with the table of scores, when no log is kept.
    """
    table = table if isinstance(table, Verdicts) else Verdicts(table)
    result = Credited([*samples, *map(_as_sft, mixed)], table)
    if not any(verdict.kept for verdict in table):
        hint = (
            "no seat was played by the policy under training" if not table else "loosen the rule, or play more matches"
        )
        raise NothingKept(f"credit kept nothing to train on: {hint}\n{result.text(BEST)}")
    return result


def _as_sft(sample: Sample) -> Sample:
    return replace(sample, utterances=tuple(replace(utterance, kind="sft") for utterance in sample.utterances))
