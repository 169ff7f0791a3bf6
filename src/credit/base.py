"""The interface of credit (advantage estimation), and `Log`: one seat's side of one match, which becomes samples.

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

BEST = 3  # number of logs that an error lists


class NothingKept(ValueError):
    """A credit kept no log; the message holds the table of scores."""


@dataclass(frozen=True, slots=True)
class Credited:
    """Samples sorted by match id, seat and stream (mixed-in demonstrations last), one verdict per log, and the state
    passed to the next round's credit (plain JSON; None if it needs none).

    A log that was played without token ids can be kept but has no samples; a learner that reads chats can use it.
    """

    samples: list[Sample]
    table: Verdicts
    state: Any = None

    def on_policy(self) -> list[Sample]:
        """The samples, for a learner that reads token ids. NothingKept if no kept log has any."""
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
        """Number of logs to train on."""
        return sum(verdict.kept for verdict in self.table)

    def text(self, rows: int = 20) -> str:
        """The table as text: the number of logs for each reason, then the `rows` best scores."""
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
        """Number of demonstrations to draw for each round: 0 for none, None for all."""

    def __call__(
        self, episodes: Collection[Episode], player: str, demonstrations: Sequence[Sample] = (), state: Any = None
    ) -> Credited:
        """Returns samples of the replies that the model named `player` made in `episodes`, the matches of one round.

        The episodes may not fit into memory, and can be iterated several times: first for statistics of the round, then
        to decide on each match (`logs`). Keep only a few numbers of each match on the way. A frozen opponent is not
        trained, even if it has the same version as the policy: the player's name decides. `demonstrations` are rendered
        samples to mix in (or to pair with). `state` is the previous round's, such as a running baseline; None in the
        first. NothingKept if no log is left to train on.
        """


@dataclass(frozen=True, slots=True)
class Log:
    """One seat's side of one match (a trajectory), and the version of the policy that played it."""

    episode: Episode
    seat: str
    version: str
    scores: Scores = field(default_factory=dict)  # a scorer's scores of the match, if there was one

    @property
    def score(self) -> float:
        """The seat's payoff."""
        return self.episode.result.returns[self.seat]

    def metric(self, name: str) -> float | None:
        """The match's metric, or the seat's share of it, else the scorer's score of this name; None if there is
        neither."""
        value = self.episode.result.metrics.get(name, self.scores.get(name))
        return value.get(self.seat) if isinstance(value, Mapping) else value

    def mark(self, request: str, name: str) -> float | None:
        """The number of this name among the reply's marks, else the scorer's score of it; None if there is neither."""
        value = self.episode.result.marks.get(request, {}).get(name, self.scores.get(name, {}).get(request))
        return None if value is None else float(value)

    def replies(self, breach: bool = False, probes: bool = False, refused: bool = False) -> list[str]:
        """Ids of the requests whose replies may be trained on, in order: made by this policy, and legal
        (`Episode.refused`).

        `breach` adds the last reply of a seat to blame, for a credit that punishes it; `probes` adds the replies to
        probes; `refused` adds all illegal replies, for a credit whose advantages can be negative.
        """
        own = [turn for turn in self.episode.own if turn.seat == self.seat and (probes or turn.kind != "probe")]
        left_out = set() if refused else self.episode.refused(self.seat)
        if breach and self.blamed:
            left_out -= {turn.request for turn in own[-1:]}
        return [turn.request for turn in own if self._sampled(turn) and turn.request not in left_out]

    @property
    def blamed(self) -> bool:
        """Whether this seat left the match because of an illegal reply."""
        return self.seat in self.episode.result.blame

    @property
    def recorded(self) -> bool:
        """Whether the token ids that this seat sampled are known; else its replies are text only."""
        return any(turn.call is not None for turn in self.episode.own if turn.seat == self.seat)

    def _sampled(self, turn: Turn) -> bool:
        if not self.recorded:
            return turn.text.strip() != "" and turn.finish != "context"
        return turn.call is not None and turn.call.policy == self.version and len(turn.call.sampled_ids) > 0

    def samples(self, numbers: Numbers) -> list[Sample]:
        """One sample for each token stream with a reply named in `numbers`; each reply is in exactly one."""
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
        worse: Iterable[str] = (),
    ) -> Verdict:
        """The verdict on this log for the table: reason, whether it was kept, score and the bar it had to reach, and
        the ids of the replies that are trained on, `worse` those without a positive reward. `score` None is the
        log's own."""
        score = self.score if score is None else score
        if kept and not self.recorded:
            why = f"{why}, without token ids (not trainable on-policy)"
        scenario, chosen = self.episode.scenario.id, tuple(replies)
        return Verdict(self.episode.id, scenario, self.seat, score, bar, kept, why, chosen, self.recorded, tuple(worse))


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
    """An iterable of logs, read from the stored matches on each pass. Matches of people who did not agree to training
    give none (`data.consent`)."""

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
