"""Figures of what a policy says: language drift, and the likelihood of demonstrations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from ..credit.base import logs
from ..data.episode import Episode
from ..data.sample import Demonstration, Sample
from ..learners.likelihood import logprobs, mean_logprob
from ..report.estimates import estimate, language
from .cast import History, Snapshots
from .demonstrations import Demonstrations, rendered_each
from .run import Run

DRIFT_SAMPLES = 256  # number of matches whose texts are scored under the start


class Texts:
    """Scores texts with the snapshots of a run, in stages of that run, for each policy separately."""

    def __init__(self, run: Run) -> None:
        self.run, self.config = run, run.config
        self.policies, self.demonstrations = list(run.parts.policies), Demonstrations(run)

    def language(self, number: int, history: History) -> dict[str, Any]:
        """Language figures of each policy's sampled replies, and their log-likelihood under its start (language
        drift)."""
        start = history[0]
        inputs = {"start": {name: each.version for name, each in start.items()}}
        name = f"iter_{number:03d}/eval/language"
        found: dict[str, Any] = self.run.stage(
            name, inputs, partial(self._drift, start), alone=partial(self._said, number)
        )
        return found

    def _said(self, number: int) -> dict[str, tuple[dict[str, float], list[Sample]]]:
        """For each policy the language figures of its replies, and the replies of the first matches as samples."""
        episodes = self.run.episodes(f"iter_{number:03d}/eval/sampled")
        first = list(islice(episodes, DRIFT_SAMPLES))
        return {name: (language(episodes, [name]), everything_said(first, name)) for name in self.policies}

    def _drift(
        self, start: Snapshots, said: Mapping[str, tuple[dict[str, float], list[Sample]]]
    ) -> dict[str, dict[str, float]]:
        found = {}
        for name, (words, samples) in said.items():
            scored = samples and start[name].served is None  # a server scores no text
            logprob = mean_logprob(samples, start[name], self.config.hardware) if scored else None
            found[name] = words if logprob is None else {**words, "start_logprob": logprob}
        return found

    def likelihood(self, number: int, history: History) -> dict[str, Any]:
        """Each policy's log-likelihood of demonstrations of the validation split, and its KL to their source if that is
        known.

        `logprob`: log p(demonstration) in nats; `kl`: log p under its source minus that, whose mean estimates KL(source
        || model) without bias; `gain`: `logprob` minus the start's, paired, which equals the decrease of `kl`. {}
        without demonstrations, or for served models, which score no text.
        """
        wanted, newest = self.demonstrations.inputs("validation"), history[-1]
        served = any(each.served is not None for each in newest.values())
        if served or (self.run.parts.data is None and not wanted["matches"]):
            return {}
        self.demonstrations.play("validation")
        name = "iter_{:03d}/eval/demonstrations"
        versions = {policy: each.version for policy, each in newest.items()}
        inputs = {"snapshots": versions, "at_most": self.config.eval.validation, **wanted}
        made = self.run.stage(
            name.format(number), inputs, partial(self._likely, newest), alone=partial(self._demonstrated, newest)
        )
        first = self.run.outputs(name.format(0)) if number else {}
        return {policy: _with_gain(each, first.get(policy, {}).get("each", [])) for policy, each in made.items()}

    def _demonstrated(self, newest: Snapshots) -> tuple[list[Demonstration], list[list[Sample]]]:
        """The held-out demonstrations, and their streams of tokens, equal for all policies."""
        demos = self.demonstrations("validation")[: self.config.eval.validation]
        return demos, rendered_each(demos, next(iter(newest.values())))

    def _likely(
        self, newest: Snapshots, held: tuple[list[Demonstration], list[list[Sample]]]
    ) -> dict[str, dict[str, Any]]:
        demos, streams = held
        if not (samples := [sample for each in streams for sample in each]):
            return {}
        found = {name: iter(logprobs(samples, each, self.config.hardware)) for name, each in newest.items()}
        return {
            name: _likelihood(demos, [sum(islice(each, len(own))) for own in streams]) for name, each in found.items()
        }


def _likelihood(demos: Sequence[Demonstration], found: Sequence[float]) -> dict[str, Any]:
    clusters = [demo.cluster or demo.id for demo in demos]
    further = [
        (demo.logprob - mine, cluster)
        for demo, mine, cluster in zip(demos, found, clusters, strict=True)
        if demo.logprob is not None
    ]
    distance = {"kl": estimate(*zip(*further, strict=True)).to_json()} if further else {}
    return {"logprob": estimate(found, clusters).to_json(), **distance, "each": [*zip(clusters, found, strict=True)]}


def _with_gain(made: Mapping[str, Any], first: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Figures without the single values, with the paired difference to the start's values `first`."""
    figures, each = {name: value for name, value in made.items() if name != "each"}, made["each"]
    if first:
        gains = [now - before for (_, before), (_, now) in zip(first, each, strict=True)]
        figures["gain"] = estimate(gains, [cluster for cluster, _ in each]).to_json()
    return figures


def everything_said(episodes: Collection[Episode], player: str) -> list[Sample]:
    """All replies of the language model `player` in `episodes`, legal or not, as samples for scoring only."""
    said = (
        (log, {turn.request: (1.0, 1.0) for turn in log.episode.own if turn.call}) for log in logs(episodes, player)
    )
    return [sample for log, numbers in said for sample in log.samples(numbers)]
