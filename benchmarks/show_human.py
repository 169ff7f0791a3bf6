"""Imitates the human negotiators, then plays itself: how well it models them, and what self-play adds.

    python benchmarks/show_human.py data.path=FOLDER [overrides...]      # runs experiment=deal_human first
    python benchmarks/show_human.py data.path=FOLDER run=DIRECTORY       # measures a finished run

Perplexity is over all lines of val.txt, both speakers: words and ends of turns. Speaker tags and the selection turn do
not count, and words that were too rare in train.txt are one unknown word. A selection is right when, greedily and given
the human dialogue, all three numbers are. Self-play is measured on held-out contexts, with and without those that occur
in train.txt.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from parley.backends.hf import HFBackend
from parley.batches.packing import supervised
from parley.data.formats.lewis import read
from parley.data.sample import Sample
from parley.data.sources.lewis import LewisDialogues
from parley.data.store import EpisodeStore
from parley.games.base import Game
from parley.games.deal.grammar import parse
from parley.learners.device import Hardware
from parley.learners.likelihood import mean_logprob
from parley.models.demonstrated import Demonstrated
from parley.models.renderer import Renderer
from parley.models.snapshot import Snapshot
from parley.play.player import Prompt, Sampling
from parley.report.estimates import summarise
from parley.run.contents import all_snapshots, saved
from results import record, summary_of

METRICS = (
    "score",
    "joint_score",
    "agreement_rate",
    "pareto_rate",
    "mismatch_rate",
    "invalid_rate",
    "cap_rate",
    "actions",
)


def talk(sample: Sample, message: int, propose: int) -> Sample:
    """The sample with the words and ends of both speakers' messages as its utterances, given the tags `message` and
    `propose`."""
    spoken = []
    for each in sample.utterances:
        tag = sample.token_ids[each.start]
        if each.kind == "partner":
            spoken.append(each)
        elif tag == message:
            spoken.append(replace(each, start=each.start + 1))
        elif tag != propose:
            raise ValueError(
                f"{sample.id}: a reply begins with token {tag}, neither [message] nor [propose] as one token"
            )
    return replace(sample, utterances=tuple(spoken))


def tags(renderer: Renderer) -> tuple[int, int]:
    """The ids of [message] and [propose]; ValueError where they are not one token each."""
    message, propose = (int(renderer.tokenizer.convert_tokens_to_ids(tag)) for tag in ("[message]", "[propose]"))
    if message == propose:
        raise ValueError("the tokenizer has no [message] and [propose]: the measure is defined for model=tiny")
    return message, propose


def perplexity(
    snapshot: Snapshot, source: LewisDialogues, game: Game, hardware: Hardware, split: str = "validation"
) -> dict[str, Any]:
    """exp of the mean negative log-prob in nats of every word and end of turn, and how many there were."""
    renderer = Renderer.load(snapshot.path)
    rendering = Demonstrated(renderer)
    demonstrations = replace(source, partner_weight=1.0).demonstrations(game, split)
    samples = [talk(rendering.sample(each), *tags(renderer)) for each in demonstrations]
    ends = sum(len(sample.utterances) for sample in samples)
    unknown = renderer.tokenizer.unk_token_id
    spoken = [
        sample.token_ids[at] for sample in samples for each in sample.utterances for at in range(each.start, each.end)
    ]
    found = math.exp(-mean_logprob(samples, snapshot, hardware))
    tokens = supervised(samples)[-1]
    return {
        "perplexity": round(found, 4), "lines": len(samples), "tokens": tokens, "words": tokens - ends, "ends": ends,
        "unknown": spoken.count(unknown), "vocabulary": len(renderer.tokenizer),
    }  # fmt: skip


def selections(snapshot: Snapshot, source: LewisDialogues, game: Game, split: str = "validation") -> dict[str, Any]:
    """Share of the human selections that the greedy proposal equals in all three numbers, and of proposals that are
    legal."""
    renderer = Renderer.load(snapshot.path)
    rendering = Demonstrated(renderer)
    _, propose = tags(renderer)
    known = {}
    prompts = []
    for demo, dialogue in zip(source.demonstrations(game, split), read(source.file(split)), strict=True):
        if dialogue.shares is None:
            continue
        sample = rendering.sample(demo)
        start = sample.utterances[-1].start
        if sample.token_ids[start] != propose:
            raise ValueError(f"{demo.id} does not end with the tag [propose] as one token")
        known[demo.id] = dialogue.context.counts, dialogue.shares[game.roles.index(dialogue.seat)]
        prompts.append(
            Prompt(demo.id, demo.id, demo.messages[:-1], 0, sampling=Sampling(0.0, max_tokens=16),
                   token_ids=sample.token_ids[: start + 1], policy=snapshot.version)
        )  # fmt: skip
    right = legal = 0
    for name, text in answers(snapshot, prompts):
        counts, share = known[name]
        chosen = getattr(parse(f"[propose] {text}", counts, opened=True, must_propose=True), "share", None)
        legal, right = legal + (chosen is not None), right + (chosen == share)
    return {
        "accuracy": round(right / len(prompts), 4),
        "legal": round(legal / len(prompts), 4),
        "selections": len(prompts),
    }


def answers(snapshot: Snapshot, prompts: list[Prompt]) -> Iterator[tuple[str, str]]:
    """(prompt's id, text) of every prompt."""
    backend = HFBackend(max_batch=256)
    backend.load(snapshot)
    backend.submit(prompts)
    while backend.busy:
        for done in backend.poll():
            yield done.id, done.text
    backend.close()


def self_play(run: Path, number: int, known: set[str]) -> dict[str, Any]:
    """Figures of a snapshot's self-play on the test contexts: all of them, and those outside `known`."""
    figures: dict[str, Any] = {}
    for what in ("sampled", "greedy"):
        episodes = list(EpisodeStore(run / f"iter_{number:03d}/eval/{what}", shard=None).read())
        new = [episode for episode in episodes if episode.scenario.cluster not in known]
        for name, chosen in ((what, episodes), (f"{what}_new", new)):
            if not chosen:
                raise ValueError(
                    f"{run}: no match of iteration {number} to measure for {name}; play more held-out contexts"
                )
            found = summarise(chosen)
            figures[name] = {"matches": len(chosen), **{metric: found[metric].to_json() for metric in METRICS}}
    return figures


def apart(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether the later interval lies above the earlier."""
    return after["low"] is not None and before["high"] is not None and after["low"] > before["high"]


def imitation(run: Path) -> dict[str, float]:
    """CPU and wall seconds of making and imitating."""
    stages = [json.loads((run / "iter_000" / name / "stage.json").read_text()) for name in ("base", "start")]
    return {key: round(sum(stage[key] for stage in stages), 1) for key in ("cpu_seconds", "seconds")}


def measure(run: Path) -> dict[str, Any]:
    """All figures of a finished run."""
    config: DictConfig = saved(run)
    source, game = instantiate(config.data), instantiate(config.game)
    known = {dialogue.context.scenario().cluster for dialogue in read(source.file("train"))}
    summary, snapshots = summary_of(run), [each["learner"] for each in all_snapshots(run).values()]
    best, start = summary["best"], snapshots[0]
    rows = [self_play(run, number, known) for number in range(len(snapshots))]
    return {
        "imitation": imitation(run),
        "validation": perplexity(start, source, game, config.hardware),
        "validation_best": perplexity(snapshots[best], source, game, config.hardware),
        "selection": selections(start, source, game),
        "selection_best": selections(snapshots[best], source, game),
        "best": best,
        "apart": {
            f"{what}.{metric}": apart(rows[0][what][metric], rows[best][what][metric])
            for what in rows[0] for metric in ("score", "joint_score", "agreement_rate")
        },
        "iterations": rows,
        "cpu_seconds": summary["cpu_seconds"],
        "seconds": summary["seconds"],
    }  # fmt: skip


def show(figures: Mapping[str, Any]) -> None:
    val, cost = figures["validation"], figures["imitation"]["cpu_seconds"]
    print(
        f"validation perplexity {val['perplexity']} over {val['words']} words and {val['ends']} ends, {cost} CPU-s of "
        f"imitation"
    )
    for which in ("selection", "selection_best"):
        print(
            f"{which}: {figures[which]['accuracy']:.3f} of {figures[which]['selections']} right, "
            f"{figures[which]['legal']:.3f} legal"
        )
    for number, row in enumerate(figures["iterations"]):
        for what, found in row.items():
            told = [
                f"{name} {found[name]['mean']:.3f} [{found[name]['low']:.3f}, {found[name]['high']:.3f}]"
                for name in METRICS[:3]
            ]
            lost = [f"{name} {found[name]['mean']:.3f}" for name in METRICS[4:7]]
            print(f"{number} {what:12s} {found['matches']:4d}", *told, *lost, sep="  ")
    above = [name for name, yes in figures["apart"].items() if yes]
    print(f"kept: {figures['best']}; intervals above the start's: {', '.join(above) or 'none'}")


def main() -> None:
    finished = [word.removeprefix("run=") for word in sys.argv[1:] if word.startswith("run=")]
    overrides = [word for word in sys.argv[1:] if not word.startswith("run=")]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(finished[0]) if finished else Path(folder) / "run"
        if not finished:
            subprocess.run(
                [sys.executable, "-m", "parley", "experiment=deal_human", f"hydra.run.dir={run}", *overrides],
                check=True,
            )
        figures = measure(run)
    show(figures)
    told = [word for word in overrides if not word.startswith("data.path=")]
    sys.argv[1:] = ["data.path=FOLDER", *told]  # where the data lies on this machine says nothing
    record("human", {"overrides": told, **figures})


if __name__ == "__main__":
    main()
