"""parley beside the published scripts, on one CPU thread: play, training, memory, and how cost grows.

    python benchmarks/published.py FOLDER spag=CHECKOUT spin=CHECKOUT trl= [--model FOLDER]
                                   [--only play train pairs growth] [--repeats 3] [--games 32] [--pairs 64]
                                   [--no-record]

FOLDER keeps the model and every measurement, so that the command goes on where it was cut off.

`spag` and `spin` are paths of checkouts of Linear95/SPAG and uclaml/SPIN; `trl=` says that TRL is installed. They are
patched in memory (`peers.py`). Both sides have the same Llama of 5 million weights, which imitates for some minutes
first, the same prompts and rows, and play the same games: a game ends where SPAG's script ends it. Greedy texts and
losses must be equal. Each measurement runs in a process of its own; sides take turns. Figures are per CPU-second,
ratios are parley over the script: median, least and most. Memory is the peak above what a process holds after the
imports.
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from types import MappingProxyType
from typing import Any, Literal

import peers
from kept import Kept
from omegaconf import OmegaConf
from parley.backends.hf import HFBackend
from parley.data.episode import Episode
from parley.data.sample import Sample, Utterance, decayed, paired
from parley.games.base import Facts, GeneratorMatch, Reply, Request, Result, Scenario
from parley.games.taboo import Taboo
from parley.games.taboo.layouts import OPTIONS, rollout
from parley.games.taboo.prompts import Brief, Chat
from parley.learners.checkpoint import Saving
from parley.learners.lightning import LightningLearner
from parley.learners.optim import AdamW
from parley.models import snapshot
from parley.models.load import load_tokenizer
from parley.models.renderer import Renderer
from parley.objectives.base import Objective
from parley.objectives.offline_po import OfflinePO
from parley.objectives.spin import Spin
from parley.play.arena import Arena
from parley.play.pairing import self_play
from parley.play.player import Sampling
from parley.play.players import LanguagePlayer
from parley.system.files import read_json
from parley.system.seeds import rng
from peers import SEATS, Done, Row
from results import ROOT, record

GAMES, TURNS, TOKENS, LR = 32, 5, 24, 1e-4
PARTS = ("play", "train", "growth", "pairs")
TRAINED = 2  # optimiser steps: from the second on the policy differs from its reference
SPARING = {"activation_checkpointing": True, "micro_tokens": 1024, "row_tokens": 1024}  # of the hardware profile
LAYOUTS = {"script": rollout, "own": Chat}


class Spoken:
    """Adversarial Taboo as SPAG's script plays it: it ends where the defender says that it knows the word."""

    name, version, roles = "spoken", 1, SEATS

    def __init__(self, words: Sequence[str], turns: int, layout: Literal["script", "own"]) -> None:
        self.words, self.turns, self.layout = words, turns, LAYOUTS[layout]
        self.facts = Facts(0.0, 0.0, 2 * turns, 0)

    def scenarios(self, split: str) -> Sequence[Scenario]:
        del split
        return [Scenario(word, {"word": word}) for word in self.words]

    def match(self, scenario: Scenario, seed: int) -> GeneratorMatch:
        return GeneratorMatch(self._talk(scenario.data["word"], seed))

    def _talk(self, word: str, seed: int) -> Generator[Request, Reply, Result]:
        views = {
            seat: self.layout(Brief(seat, word if seat == "attacker" else None, self.turns, True), rng(seed, seat))
            for seat in SEATS
        }
        for turn in range(2 * self.turns):
            seat, other = SEATS[turn % 2], SEATS[1 - turn % 2]
            reply = yield views[seat].ask(options=OPTIONS)
            views[seat].hear(reply)
            if seat == "defender" and "i know the word" in reply.text.lower():
                break
            views[other].partner(reply.text)
        return Result(dict.fromkeys(SEATS, 0.0), "over")

    def scripts(self) -> dict[str, Any]:
        return {}


def parley_play(
    model: str, words: Sequence[str], turns: int, batch: int, greedy: bool, layout: Literal["script", "own"], top_k: int
) -> Done:
    """The same games in parley's arena, `batch` in flight."""
    made, backend = snapshot.of(model, "m"), HFBackend()
    backend.load(made)
    sampling = Sampling(temperature=0.0 if greedy else 1.2, top_k=0 if greedy else top_k, max_tokens=TOKENS)
    player = LanguagePlayer(backend, Renderer.load(model), made.version, sampling, "m")
    game, episodes = Spoken(words, turns, layout), list[Episode]()
    began = time.process_time()
    Arena(game, {"m": player}, batch).play(self_play(game, game.scenarios(""), "m", 0, "play"), episodes.append)
    seconds = time.process_time() - began
    by_word = {each.scenario.id: tuple(turn.text for turn in each.turns) for each in episodes}
    return Done(seconds, tuple(by_word[word] for word in words))


def parley_train(
    model: str, samples: Sequence[Sample], loss: Objective, changes: Mapping[str, Any] = MappingProxyType({})
) -> Done:
    """Optimiser steps on all samples each, with the `cpu` profile as it is shipped but for `changes`; the reference
    pass is counted."""
    hardware: Any = OmegaConf.merge(OmegaConf.load(ROOT / "conf/hardware/cpu.yaml"), dict(changes))
    utterances = sum(len(each.utterances) for each in samples)
    optimizer = AdamW(lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    learner = LightningLearner(
        loss, hardware, optimizer, epochs=TRAINED, batch_utterances=utterances, schedule="constant"
    )
    with tempfile.TemporaryDirectory() as folder:
        saving = Saving(Path(folder) / "checkpoint", "", math.inf)
        session = learner.session(snapshot.of(model, "m"), Path(folder), seed=0, name="", saving=saving)
        session.training  # noqa: B018  (loads)
        began = time.process_time()
        session.step(samples)
        seconds = time.process_time() - began
        return Done(seconds, losses=tuple(row["loss"] for row in session.past[0]["curve"]))


# --- the same rows ---


def rows(histories: Sequence[Sequence[str]], words: Sequence[str], turns: int, multiple: int = 8) -> list[Row]:
    """Every utterance of the games, with the prompt before it and its share of a reward."""
    found = []
    for word, history in zip(words, histories, strict=True):
        for at, text in enumerate(history):
            own = len(history[at % 2 :: 2])
            query = peers.prompt(SEATS[at % 2], word, turns, history[:at])
            found.append(Row(query, text or "no", decayed(own, 0.8)[at // 2]))
    Random(0).shuffle(found)
    return found[: len(found) // multiple * multiple]


def pairs(given: Sequence[Row], end: str) -> list[Row]:
    """Each utterance against that of another row, as the model might have said instead. Prompts are without the end
    token: SPIN's collator hides it from attention, so the losses would differ."""
    queries, targets = [row.query.replace(end, " ") for row in given], [row.target for row in given]
    both = zip(queries, targets, targets[::-1], strict=True)
    return [Row(query, target, other=f"{other} so") for query, target, other in both]


def samples(given: Sequence[Row], model: str) -> list[Sample]:
    tokenizer = load_tokenizer(model)
    return [_sample(f"{at}", row.query, row.target, row.reward, tokenizer) for at, row in enumerate(given)]


def sides(given: Sequence[Row], model: str, bos: bool) -> list[Sample]:
    tokenizer = load_tokenizer(model)
    found: list[Sample] = []
    for at, row in enumerate(given):
        real, other = (_sample(f"{at}", row.query, text, 1.0, tokenizer, bos) for text in (row.target, row.other))
        found += paired(f"{at}", [real], [other])
    return found


def _sample(name: str, query: str, target: str, reward: float, tokenizer: Any, bos: bool = True) -> Sample:
    before, said = (tokenizer.encode(text, add_special_tokens=False) for text in (query, target))
    ids = ([tokenizer.bos_token_id] if bos else []) + before + said + [tokenizer.eos_token_id]
    return Sample(name, tuple(ids), (Utterance(len(ids) - len(said) - 1, len(ids), reward=reward),))


# --- measuring ---


def compared(
    kept: Kept,
    name: str,
    ours: dict[str, Callable[[], Done]],
    theirs: dict[str, Callable[[], Done]],
    units: Callable[[Done], int],
    repeats: int,
) -> dict[str, Any]:
    """Rates and memory of all, and the ratios of each of ours to each of theirs, in interleaved repeats."""
    runs: dict[str, list[tuple[Done, float]]] = {each: [] for each in (*ours, *theirs)}
    for repeat in range(repeats):
        for each, work in (ours | theirs).items():
            runs[each].append(kept(f"{name}: {each}, {repeat}", work))
    rates = {each: [units(done) / done.seconds for done, _ in found] for each, found in runs.items()}
    return {
        "per_cpu_second": {each: spread(found) for each, found in rates.items()},
        "peak_mib": {each: round(max(mib for _, mib in found)) for each, found in runs.items()},
        "ratio": {
            f"{our} / {their}": spread([a / b for a, b in zip(rates[our], rates[their], strict=True)])
            for our in ours
            for their in theirs
        },
        "losses": {each: found[0][0].losses for each, found in runs.items() if found[0][0].losses},
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(median(values), 3), "least": round(min(values), 3), "most": round(max(values), 3)}


def same_losses(found: dict[str, Any], most: float = 1e-5) -> None:
    """Adds the spread of the losses of each step, and whether none exceeds `most`. A measurement with unequal losses is
    stored as such, and the script exits with 1."""
    columns = zip(*found["losses"].values(), strict=True)
    found["losses_apart"] = apart = [max(column) - min(column) for column in columns]
    found["losses_equal"] = max(apart) <= most


def equal(found: dict[str, Any]) -> bool:
    """Whether no losses of a part differ."""
    measured = [found, *(each for each in found.values() if isinstance(each, dict))]
    return all(each.get("losses_equal", True) for each in measured)


def utterances(done: Done) -> int:
    return sum(map(len, done.histories))


def words_said(done: Done) -> int:
    return sum(len(text.split()) for history in done.histories for text in history)


def play(kept: Kept, spag: str, model: str, words: Sequence[str], repeats: int, turns: int = TURNS) -> dict[str, Any]:
    """Utterances a CPU-second of sampled play, all games of a batch at once; and greedy texts, which must be equal."""
    n = len(words)
    greedy = [
        kept("greedy: spag", partial(peers.spag_play, spag, model, words[:8], turns, 8, TOKENS, True))[0].histories,
        kept("greedy: parley", partial(parley_play, model, words[:8], turns, 8, True, "script", 0))[0].histories,
    ]
    equal = sum(a == b for a, b in zip(*greedy, strict=True))
    ours = {
        "parley, the script's layout": partial(parley_play, model, words, turns, n, False, "script", 50),
        "parley, its own layout": partial(parley_play, model, words, turns, n, False, "own", 50),
        "parley, its own layout, no top-k": partial(parley_play, model, words, turns, n, False, "own", 0),
    }
    theirs = {"spag": partial(peers.spag_play, spag, model, words, turns, n, TOKENS, False)}
    name = f"play, {n} games of {turns} turns"
    found = compared(kept, name, ours, theirs, utterances, repeats)
    by_word = compared(kept, name, ours, theirs, words_said, repeats)  # replies differ in length with the layout
    found["words_per_cpu_second"], found["ratio_by_word"] = by_word["per_cpu_second"], by_word["ratio"]
    return {"games": n, "turns": turns, "equal_greedy_games": f"{equal} of {len(greedy[0])}", **found}


def growth(kept: Kept, spag: str, model: str, words: Sequence[str]) -> dict[str, Any]:
    """CPU-seconds a game with more turns, and with more matches; one measurement each."""
    return {
        "turns": {turns: _one(kept, spag, model, words[:8], turns) for turns in (2, 5, 10)},
        "matches": {count: _one(kept, spag, model, words[:count], 2) for count in (8, 32, 128)},
    }


def _one(kept: Kept, spag: str, model: str, words: Sequence[str], turns: int) -> dict[str, Any]:
    sides = {
        "parley": partial(parley_play, model, words, turns, len(words), False, "own", 50),
        "spag": partial(peers.spag_play, spag, model, words, turns, len(words), TOKENS, False),
    }
    row = {}
    for name, work in sides.items():
        done, mib = kept(f"growth, {len(words)} games of {turns} turns: {name}", work)
        said = utterances(done)
        each = {"game": round(done.seconds / len(words), 4), "utterance": round(done.seconds / said, 5)}
        row[name] = {"cpu_seconds_a": each, "utterances": said, "peak_mib": round(mib)}
    return row


def train(kept: Kept, spag: str, model: str, given: Sequence[Row], repeats: int) -> dict[str, Any]:
    loss = OfflinePO(kl_coef=0.2, clip=0.2, kl_grad="coupled", unit="utterance", scope="batch")
    work = partial(parley_train, model, samples(given, model), loss)
    ours = {"parley": work, "parley, sparing memory": partial(work, SPARING)}
    theirs = {
        f"spag, {micro} rows": partial(peers.spag_train, spag, model, given, micro, TRAINED, LR) for micro in (2, 8)
    }
    found = compared(kept, f"train, {len(given)} rows", ours, theirs, lambda _: TRAINED * len(given), repeats)
    same_losses(found)
    return {"utterances": len(given), **found}


def preferences(
    kept: Kept, spin: str | None, trl: bool, model: str, given: Sequence[Row], repeats: int
) -> dict[str, Any]:
    found: dict[str, Any] = {"pairs": len(given)}
    for name, work in (("spin", spin and partial(peers.spin_train, spin, model)), ("trl", trl and peers_trl(model))):
        if work:
            ours = {"parley": partial(parley_train, model, sides(given, model, bos=False), Spin(beta=0.1))}
            theirs = {f"{name}, {micro} pairs": partial(work, given, micro, TRAINED, LR) for micro in (2, 8)}
            units = TRAINED * len(given)
            found[name] = compared(kept, f"{name}, {len(given)} pairs", ours, theirs, lambda _, n=units: n, repeats)
            same_losses(found[name])
    return found


def peers_trl(model: str) -> Callable[..., Done]:
    return partial(peers.trl_train, model)


def imitated(folder: Path) -> str:
    """A model that has learnt SPAG's layout from scripts: some minutes. (One that draws at random has many close
    choices, which parley settles and the scripts do not.)"""
    made = folder / "model" / "iter_000" / "start" / "snapshot"
    if made.exists():
        return str(made)
    shutil.rmtree(folder / "model", ignore_errors=True)
    sizes = "model.width=256 model.heads=4 model.layers=6 model.mlp=704 model.context=2048"
    learnt = "imitate.matches=500 imitate.learner.batch_utterances=16"
    words = f"experiment=spag_tiny game.prompt=spag_rollout data=scripted imitate.mixed= {learnt} {sizes}"
    command = [sys.executable, "-m", "parley", "task=imitate", *words.split(), f"hydra.run.dir={folder}/model"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return str(made)


def store(part: str, found: dict[str, Any]) -> None:
    """Puts a part among the figures that are stored; each says at which revision it was measured."""
    path = ROOT / "docs/results/published.json"
    stored = read_json(path) if path.exists() else {}
    others = {each: {"revision": stored["revision"], **stored[each]} for each in PARTS if each in stored}
    record("published", {**others, part: found})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="keeps the model and what was measured")
    parser.add_argument("scripts", nargs="+", metavar="NAME=CHECKOUT", help="spag=…, spin=…, trl=")
    parser.add_argument("--model", help="a snapshot's folder; else one is made")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--games", type=int, default=GAMES, help="that are played at once")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--no-record", action="store_true")
    given = parser.parse_args()
    scripts = dict(word.split("=", 1) for word in given.scripts)
    words = [each.data["word"] for each in Taboo().scenarios("train")]
    model = given.model or imitated(given.folder)
    kept = Kept(given.folder / "measured")
    played = kept("rows", partial(parley_play, model, words[:16], 3, 16, False, "script", 50))[0]
    lines = rows(played.histories, words[:16], 3)
    spag, repeats, couples = (
        scripts.get("spag"),
        given.repeats,
        pairs(lines, load_tokenizer(model).eos_token)[: given.pairs],
    )
    parts: dict[str, Callable[[], dict[str, Any]]] = {}
    if spag is not None:
        parts["play"] = partial(play, kept, spag, model, words[: given.games], repeats)
        parts["train"] = partial(train, kept, spag, model, lines, repeats)
        parts["growth"] = partial(growth, kept, spag, model, words)
    if scripts.keys() & {"spin", "trl"}:
        parts["pairs"] = partial(preferences, kept, scripts.get("spin"), "trl" in scripts, model, couples, repeats)
    unequal = False
    for name in [each for each in given.only if each in parts]:
        kept.revisions.clear()
        found = parts[name]()
        unequal |= not equal(found)
        found = {"revision": ", ".join(sorted(kept.revisions)), **found}
        print({name: found}, flush=True)
        if not given.no_record:
            store(name, found)
    if unequal:
        sys.exit("losses differ by more than 1e-5: see losses_apart")


if __name__ == "__main__":
    main()
