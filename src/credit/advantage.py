"""Advantages for policy gradients (advantage estimation): the return of a reply minus a baseline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import isnan, sqrt
from statistics import mean, stdev  # exact, so that the mean of equal returns equals them
from typing import Any, Literal, TypeAlias

from ..data.episode import Episode
from ..data.sample import Sample
from ..system.bounds import Amount, PartShare, Positive, Share, Whole
from ..system.files import InputError
from .base import Credited, Log, Logs, credited, logs
from .verdicts import Verdict, Verdicts

Part: TypeAlias = Literal["scenario", "seat", "opponents", "turn", "prefix"]
Key: TypeAlias = str  # the parts of the comparison group, joined
EVEN = "no advantage: equal to its baseline"


@dataclass(frozen=True, slots=True)
class Returns:
    """The returns of a log's replies, in order: each reply's request, return, comparison group, tokens, and whether it
    was illegal."""

    requests: tuple[str, ...]
    values: tuple[float, ...]
    keys: tuple[Key, ...]
    tokens: tuple[int, ...]
    illegal: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Advantage:
    """Gives every reply of the policy an advantage A, which the loss receives as its reward.

    A log's replies 1..n have the rewards r_1..r_n: their `turn_reward` minus costs, plus the log's score for the last
    one. Then, in order:

    of          match: the return x of each reply is the log's total, the sum of all r. reply: the reward to go,
                x_j = sum_(i >= j) discount^(i-j) r_i
    baseline    A = x - b, where b is, among the returns with the same `by`: mean; leave_one_out: the mean of the others
                (with of=reply: of the other replies); ema: a running mean b <- decay b + (1 - decay) x, which starts at
                0, takes the logs by match id, is read before each update, and is kept over rounds; none: 0. A return
                that is alone has A = 0 under mean and leave_one_out.
    by          parts of the comparison key: scenario, seat, opponents (names of the players in all other seats), turn
                (the number of the reply), prefix (the replies after a branching point, with those of all branches from
                there). With of=match a log counts once under each key.
    discount    with of=match A of reply j is multiplied by discount^(n-j)
    scale       none; group: divided by the standard deviation of the returns with the same key (n - 1 below); batch: of
                all returns of the round; tokens: whitened, so that over the tokens of all replies A has mean 0 and
                deviation 1. `eps` is added to the deviation.
    illegal     an illegal reply has A = min(A, 0) - illegal. Without it a group in which every match is forfeited has
                no advantage, and nothing works against illegal replies. null leaves them out.
    zeros       keep replies whose advantage is 0. Without a penalty in the loss they have no gradient and only count in
                its denominators. A penalty needs them: a deterministic policy has no advantage anywhere.
    score       name of a metric or of a scorer's score to use instead of the payoff
    turn_reward name of a number among a reply's marks, or of a scorer's score for it (`scorer=turns`). 0 if the game
                marked none; a log without a score is left out
    token_cost, turn_cost   subtracted from each reply's r: per token, per reply
    mix         number of demonstrations mixed into each round as kind "sft" (all of them if there are fewer)

    A log whose score is missing or NaN is left out. NothingKept if no reply is left.

    Sources: group mean with deviation GRPO (arXiv:2402.03300, eq. 3), without it Dr. GRPO (arXiv:2503.20783),
    leave_one_out RLOO (arXiv:2402.14740), ema by role SPIRAL (arXiv:2506.24119, RAE), tokens REINFORCE++
    (arXiv:2501.03262), of=reply by seat MARSHAL (arXiv:2510.15414). docs/online.md has a table of the presets.
    """

    baseline: Literal["none", "mean", "leave_one_out", "ema"] = "mean"
    by: Sequence[Part] = ("scenario", "seat", "opponents")
    of: Literal["match", "reply"] = "match"
    discount: Share = 1.0
    scale: Literal["none", "group", "batch", "tokens"] = "none"
    eps: Positive = 1e-6
    decay: PartShare = 0.95
    illegal: Amount | None = 1.0
    zeros: bool = False
    score: str | None = None
    turn_reward: str | None = None
    token_cost: Amount = 0.0
    turn_cost: Amount = 0.0
    mix: Whole = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "by", tuple(self.by))
        if self.baseline == "ema" and not {"scenario", "turn", "prefix"}.isdisjoint(self.by):
            raise ValueError(f"by={list(self.by)}: a running mean is kept over rounds by seat and opponents alone")
        if self.discount == 0:
            raise ValueError("discount is 0, expected up to 1: no reply but the last would have an advantage")

    def __call__(
        self, episodes: Collection[Episode], player: str, demonstrations: Sequence[Sample] = (), state: Any = None
    ) -> Credited:
        found = logs(episodes, player)
        self._check(found)
        branched = dict(log.episode.parent for log in found if log.episode.parent)
        judged = any(self.turn_reward in log.scores for log in found)
        returns = [
            None if judged and self.turn_reward not in log.scores else self._returns(log, branched) for log in found
        ]
        running = dict(state or {})
        advantages = self._scaled(returns, self._compared(returns, running))
        samples: list[Sample] = []
        table = Verdicts()
        for log, each, values in zip(found, returns, advantages, strict=True):
            if each is None:
                table.append(_left_out(log))
                continue
            numbers = dict(self._numbers(each, values))
            samples += log.samples(numbers)
            why = _why([advantage for advantage, _ in numbers.values()])
            worse = [request for request, (advantage, _) in numbers.items() if advantage <= 0]
            table.append(log.verdict(why, bool(numbers), each.values[0], replies=numbers, worse=worse))
        result = credited(samples, table, demonstrations)
        return Credited(result.samples, result.table, running if self.baseline == "ema" else None)

    def _numbers(self, each: Returns, advantages: Sequence[float]) -> Iterator[tuple[str, tuple[float, float]]]:
        """(advantage, weight) of those replies of a log that are trained on."""
        for request, value, illegal in zip(each.requests, advantages, each.illegal, strict=True):
            if illegal and self.illegal is None:
                continue
            advantage = min(value, 0.0) - (self.illegal or 0.0) if illegal else value
            if advantage or self.zeros:
                yield request, (advantage, 1.0)

    # --- returns ---

    def _returns(self, log: Log, branched: Mapping[str, int]) -> Returns | None:
        """The returns of the replies of `log`; None if it has no score or no reply. `branched` maps a match to the
        turns before its branching point."""
        score = log.score if self.score is None else log.metric(self.score)
        requests = log.replies(refused=True)
        if score is None or isnan(score) or not requests:
            return None
        tokens = _tokens(log, requests)
        earned = [self._earned(log, name, count) for name, count in zip(requests, tokens, strict=True)]
        earned[-1] += score
        refused = log.episode.refused(log.seat)
        return Returns(
            tuple(requests),
            tuple(self._to_go(earned)) if self.of == "reply" else (sum(earned),) * len(earned),
            tuple(_keys(log, self.by, requests, branched)),
            tokens,
            tuple(name in refused for name in requests),
        )

    def _earned(self, log: Log, request: str, tokens: int) -> float:
        """The reward r of one reply, without the log's score."""
        marked = log.mark(request, self.turn_reward) if self.turn_reward else None
        return (marked or 0.0) - self.turn_cost - self.token_cost * tokens

    def _to_go(self, earned: Sequence[float]) -> list[float]:
        found = [0.0]
        for each in reversed(earned):
            found.append(each + self.discount * found[-1])
        return found[:0:-1]

    def _check(self, found: Logs) -> None:
        """InputError for a metric or a mark that no match has."""
        first = next(iter(found), None)
        if first is None:
            return
        if self.score is not None and all(log.metric(self.score) is None for log in found):
            known = sorted({*first.episode.result.metrics, *first.scores})
            raise InputError(f"score={self.score!r}: match {first.episode.id} has no such metric; it has {known}")
        name = self.turn_reward
        if name is not None and not any(
            log.mark(each, name) is not None for log in found for each in log.replies(refused=True)
        ):
            raise InputError(f"turn_reward={self.turn_reward!r}: no reply of this round has such a mark")

    # --- advantages ---

    def _compared(self, returns: Sequence[Returns | None], running: MutableMapping[Key, float]) -> list[list[float]]:
        """x - b of each log's replies, discounted to the match's end. Updates the `running` means."""
        groups = self._groups(returns) if self.baseline in ("mean", "leave_one_out") or self.scale == "group" else {}
        return [[] if each is None else self._of_log(each, groups, running) for each in returns]

    def _of_log(self, each: Returns, groups: Mapping[Key, Group], running: MutableMapping[Key, float]) -> list[float]:
        found = []
        for at, (key, value) in enumerate(zip(each.keys, each.values, strict=True), 1):
            above = value - running.get(key, 0.0) if self.baseline == "ema" else self._above(value, groups.get(key))
            if self.scale == "group":
                above /= groups[key].deviation + self.eps
            found.append(above * self.discount ** (len(each.keys) - at) if self.of == "match" else above)
        if self.baseline == "ema":
            for key, value in self._counted(each):
                running[key] = self.decay * running.get(key, 0.0) + (1 - self.decay) * value
        return found

    def _above(self, value: float, group: Group | None) -> float:
        if self.baseline == "none" or group is None:
            return value
        others = group.count / max(group.count - 1, 1) if self.baseline == "leave_one_out" else 1.0
        return others * (value - group.mean)  # n / (n - 1) (x - mean of all) = x - mean of the others

    def _counted(self, each: Returns) -> Iterator[tuple[Key, float]]:
        """The returns of a log that count in means, each distinct key once."""
        pairs = zip(each.keys, each.values, strict=True)
        yield from pairs if self.of == "reply" else dict(pairs).items()

    def _groups(self, returns: Sequence[Returns | None]) -> dict[Key, Group]:
        members: dict[Key, list[float]] = defaultdict(list)
        for key, value in chain.from_iterable(self._counted(each) for each in returns if each is not None):
            members[key].append(value)
        return {key: Group.of(values) for key, values in members.items()}

    def _scaled(self, returns: Sequence[Returns | None], advantages: list[list[float]]) -> list[list[float]]:
        """Advantages scaled by the deviation over the whole round."""
        known = [each for each in returns if each is not None]
        if not known or self.scale in ("none", "group"):
            return advantages
        if self.scale == "batch":
            whole = Group.of([value for each in known for _, value in self._counted(each)])
            centre, deviation = 0.0, whole.deviation
        else:
            tokens = [count for each in known for count in each.tokens]
            centre, deviation = _weighted([value for values in advantages for value in values], tokens)
        return [[(value - centre) / (deviation + self.eps) for value in values] for values in advantages]


@dataclass(frozen=True, slots=True)
class Group:
    """The returns of one comparison group. A single return has the deviation 0."""

    count: int
    mean: float
    deviation: float = field(default=0.0)

    @staticmethod
    def of(values: Sequence[float]) -> Group:
        return Group(len(values), mean(values), stdev(values) if len(values) > 1 else 0.0)


def _weighted(values: Sequence[float], tokens: Sequence[int]) -> tuple[float, float]:
    """Mean and deviation over tokens, each with the value of its reply."""
    if len({*values}) == 1:
        return values[0], 0.0  # exactly
    count = sum(tokens)
    centre = sum(value * n for value, n in zip(values, tokens, strict=True)) / max(count, 1)
    squares = sum(n * (value - centre) ** 2 for value, n in zip(values, tokens, strict=True))
    return centre, sqrt(squares / max(count - 1, 1))


def _keys(log: Log, by: Sequence[Part], requests: Sequence[str], branched: Mapping[str, int]) -> Iterator[Key]:
    """The comparison key of each reply of `log`."""
    episode = log.episode
    root, turns = episode.parent or (episode.id, branched.get(episode.id, len(episode.turns)))
    place = {turn.request: at for at, turn in enumerate(episode.turns)}
    others = [f"{seat}={name}" for seat, name in sorted(episode.players.items()) if seat != log.seat]
    parts = {"scenario": episode.scenario.id, "seat": log.seat, "opponents": ",".join(others)}
    for number, request in enumerate(requests):
        late = {"turn": str(number), "prefix": f"{root}@{turns}" if place[request] >= turns else ""}
        yield " ".join((parts | late)[each] for each in by)


def _tokens(log: Log, requests: Sequence[str]) -> tuple[int, ...]:
    counts = {turn.request: len(turn.call.sampled_ids) if turn.call else 0 for turn in log.episode.own}
    return tuple(counts[name] for name in requests)


def _left_out(log: Log) -> Verdict:
    return log.verdict("no score, or no reply of this policy")


def _why(advantages: Sequence[float]) -> str:
    signs = {value > 0 for value in advantages if value}
    return {0: EVEN, 1: "better" if True in signs else "worse", 2: "better and worse replies"}[len(signs)]
