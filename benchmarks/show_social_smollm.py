"""SmolLM2-135M-Instruct in Sotopia: it plays the 90 published scenarios, judges them and writes new tasks, on a CPU.

    make smollm && pip install 'parley-lm[guide]'
    python benchmarks/show_social_smollm.py FOLDER DATA [play judge cost tiny generate]   # goes on where it was cut off
    python benchmarks/show_social_smollm.py FOLDER DATA so-far   # runs nothing: what of play is finished

DATA has `sotopia/` (the records) and `sotopia_pi/used_prompt.csv`. One pair plays each scenario; another copy of the
model judges the episodes under a JSON schema (task=judge). Play and judging are killed once by the script (kill -9) and
resumed. Then it writes tasks from short prompts (task=generate), and a schema's price in tokens a CPU-second is
measured; an untrained model gives 1,000 verdicts under the schema. Some episodes go to FOLDER/transcripts.md. Exits
with 1 where a reply under a verdict's schema is cut or cannot be read, a stored line is lost, or a task that was kept
is near one of the 90.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from parley.backends.hf import HFBackend
from parley.conf import __file__ as conf
from parley.data.episode import Episode
from parley.data.formats.sotopia import DIMENSIONS, actions
from parley.data.scorer import Scored, ScoredMatches
from parley.data.store import Matches
from parley.games.base import Message, Options
from parley.games.social import invent
from parley.games.verdict import Rubric, ratings
from parley.models.load import load_tokenizer
from parley.models.renderer import Renderer
from parley.models.snapshot import Snapshot, save
from parley.play.player import Prompt, Sampling
from parley.report.estimates import estimate
from parley.system.files import read_jsonl, write_json, write_text
from results import record
from show_kill import finish, kept, kill, start, stored
from transformers import LlamaConfig, LlamaForCausalLM

PAIRS = "env_agent_combo_storages.jsonl"
STAGE = "iter_001/play"
SETTINGS = [
    "game.validation=0", "game.test=0", "game.turns=6", "game.retries=1", "play.scenarios=90", "play.group=1",
    "play.in_flight=30", "play.sampling.max_tokens=48", "hardware.precision=bf16-true", "seed=1",
]  # fmt: skip
JUDGING = ["scorer=judge", "rubric@scorer=sotopia", "players.judge=critic", "scorer.sampling.temperature=0.7"]
WRITING = ["task.limit=50", "task.sampling.max_tokens=384"]
KILLED_AT = 80  # stored matches, or verdicts: few are in flight then, which are played again
SAMPLED = Sampling(temperature=1.0, max_tokens=160)
ALIKE = 30  # replies of the measurement of a schema's price
MANY = 1000  # replies of an untrained model under a schema
SHOWN = 4  # episodes on the page


def model() -> Snapshot:
    """The model of `model=smollm2`."""
    made = instantiate(read_yaml(Path(conf).parent / "model/smollm2.yaml")).create(Path(), (), 0)
    assert isinstance(made, Snapshot)
    return made


def read_yaml(path: Path) -> Any:
    return OmegaConf.to_container(OmegaConf.load(path))


def records(data: Path, folder: Path) -> Path:
    """A folder of the records with the first pair of each environment."""
    if not (folder / PAIRS).exists():
        folder.mkdir(exist_ok=True)
        for file in (data / "sotopia").glob("*.jsonl"):
            shutil.copyfile(file, folder / file.name)
        pairs = {row["env_id"]: row for row in reversed(list(read_jsonl(folder / PAIRS)))}
        write_text(folder / PAIRS, "".join(json.dumps(row) + "\n" for _, row in sorted(pairs.items())))
    return folder


def done(run: Path, words: Sequence[str], end: str, shard: str = "") -> dict[str, Any]:
    """Has a run come to its file `end`. Where `shard` is named, the run is killed once when that has so many lines;
    says how many, and which files lost a line by it."""
    note = run.parent / f"{run.name}.killed.json"
    if not (run / end).exists():
        if shard and not note.exists():
            process = start(run, list(words))
            if kill(process, run, lambda run: _lines(run / shard) >= KILLED_AT, 0.0):
                write_json(note, {"at": _lines(run / shard), "stored": {shard: stored(run)[shard]}})
        if not (run / end).exists():
            finish(start(run, list(words)), run)
    if not note.exists():
        return {}
    had = json.loads(note.read_text())
    return {"killed_at": had["at"], "lost": kept(run, {name: tuple(each) for name, each in had["stored"].items()})}


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


# --- what was played and judged ---------------------------------------------------------------------------------------


def played(matches: Matches) -> dict[str, Any]:
    """Outcomes, legal replies and why others were refused, what was done."""
    legal, clusters, turns = list[float](), list[str](), list[float]()
    why, kinds, outcomes, finishes = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for each in matches:
        refused = refusals(each)
        for turn in each.turns:
            legal.append(float(turn.request not in refused))
            clusters.append(each.scenario.cluster)
            finishes[turn.finish] += 1
        why.update(refused.values())
        kinds.update(line.action.kind for line in actions(each))
        outcomes[each.result.outcome] += 1
        turns.append(float(each.result.metrics["turns"]))  # type: ignore[arg-type]
    return {
        "matches": len(turns),
        "legal": estimate(legal, clusters).to_json(),
        "refused": dict(why.most_common()),
        "finish": dict(finishes),
        "actions": dict(kinds.most_common()),
        "outcomes": dict(outcomes),
        "turns": estimate(turns, range(len(turns))).to_json(),
        "sampled_tokens": sum(tokens(turn) for each in matches for turn in each.turns),
    }


def refusals(episode: Episode) -> dict[str, str]:
    """Request -> why its reply was refused."""
    return {name: str(mark["retry"]) for name, mark in episode.result.marks.items() if "retry" in mark}


def tokens(turn: Any) -> int:
    return 0 if turn.call is None else len(turn.call.sampled_ids)


def judged(verdicts: Matches, scores: Iterable[Scored], rubric: Rubric) -> dict[str, Any]:
    """What the judge's replies were like, and each dimension, clustered by environment."""
    replies = [(turn, each.scenario.data["subjects"]) for each in verdicts for turn in each.turns]
    read = [isinstance(ratings(turn.text, names, rubric.scales), dict) for turn, names in replies]
    found = list(scores)
    dimensions = {}
    for name in (*DIMENSIONS, "overall"):
        pairs = [
            (each.scores[name][seat], each.episode.scenario.cluster)
            for each in found if name in each.scores for seat in each.scores[name]
        ]  # fmt: skip
        dimensions[name] = estimate(*zip(*pairs, strict=True)).to_json() if pairs else None
    return {
        "matches": len(found),
        "judged": sum(bool(each.scores) for each in found),
        "replies": {
            "n": len(replies),
            "complete_and_in_range": sum(read),
            "cut": sum(turn.finish != "stop" for turn, _ in replies),
        },
        "dimensions": dimensions,
    }


# --- what was invented ------------------------------------------------------------------------------------------------


def invented(run: Path, known: Path) -> dict[str, Any]:
    """The share of tasks kept, why others were left out, and the most words that a kept one shares with one of the
    known ones (from 0.6 on it would tell the same)."""
    told = json.loads((run / "tasks/left_out.json").read_text())
    kept_tasks = [invent.words(row["scenario"]) for row in read_jsonl(run / "tasks/environment_profiles.jsonl")]
    others = [invent.words(row["scenario"]) for row in read_jsonl(known / "environment_profiles.jsonl")]
    shares = [max(len(own & each) / max(1, min(len(own), len(each))) for each in others) for own in kept_tasks]
    replies = [turn for each in Matches(run / "invented") for turn in each.turns]
    every = Counter(why for each in Matches(run / "invented") for why in refusals(each).values())
    return {
        **told,
        "kept_rate": estimate([1.0] * told["kept"] + [0.0] * (told["asked"] - told["kept"]),
                              range(told["asked"])).to_json(),
        "refused_replies": dict(every.most_common()),
        "replies": {"n": len(replies), "cut": sum(turn.finish != "stop" for turn in replies)},
        "nearest_of_the_known": max(shares, default=None),
    }  # fmt: skip


# --- what a schema costs ----------------------------------------------------------------------------------------------


def cost(snapshot: Snapshot, rubric: Rubric) -> dict[str, Any]:
    """Tokens a CPU-second of replies sampled together, free and under the schema of a verdict."""
    return {name: sampled(snapshot, rubric, ALIKE, name == "schema") for name in ("free", "schema")}


def sampled(snapshot: Snapshot, rubric: Rubric, count: int, guided: bool) -> dict[str, Any]:
    """`count` replies to one short prompt, which is read before the clock starts: this is decoding."""
    names = ("Ann Ash", "Bob Birch")
    told = (Message("user", f"Ann Ash and Bob Birch met. {rubric.ask(names)}"),)
    ids = tuple(Renderer.load(snapshot.path).extend(None, told).prompt_ids)
    options = Options(schema=rubric.schema(names)) if guided else Options()
    backend = HFBackend(dtype="bfloat16")
    backend.load(snapshot)
    asked = [
        Prompt(f"{n}/judge.1", f"{n}/judge", (), n, options=options, sampling=SAMPLED, token_ids=ids,
               policy=snapshot.version)
        for n in range(count)
    ]  # fmt: skip
    backend.submit(asked)
    replies = backend.poll()  # reads the prompts, and samples a token of each
    begun, first = time.process_time(), backend.sampled
    while backend.busy:
        replies += backend.poll()
    seconds = time.process_time() - begun
    read = [isinstance(ratings(each.text, names, rubric.scales), dict) for each in replies]
    return {
        "replies": len(replies), "complete_and_in_range": sum(read),
        "cut": sum(each.finish != "stop" for each in replies), "tokens": backend.sampled - first,
        "tokens_per_cpu_second": round((backend.sampled - first) / seconds, 1),
    }  # fmt: skip


def untrained(like: Snapshot, folder: Path) -> Snapshot:
    """A small Llama with random weights and the tokenizer of `like`."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer(like.path)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **sizes))
    return save(model, tokenizer, folder, "untrained")


# --- a page of transcripts --------------------------------------------------------------------------------------------


def page(scores: Iterable[Scored]) -> str:
    """The episodes with the most and with the fewest legal replies, as they were written, each reply as JSON text."""
    found = sorted(scores, key=lambda each: (-_share(each.episode), each.episode.id))
    chosen = [*found[: SHOWN - 1], *found[-1:]]
    return "\n".join([HEAD, *(part for each in chosen for part in _episode(each))])


def _share(episode: Episode) -> float:
    return 1 - len(refusals(episode)) / max(1, len(episode.turns))


def _episode(each: Scored) -> Iterable[str]:
    episode, why = each.episode, refusals(each.episode)
    yield f"## Environment {episode.scenario.cluster}\n\n```text"
    for turn in episode.turns:
        yield f"{turn.seat}{f' (refused: {why[turn.request]})' if turn.request in why else ''}: {json.dumps(turn.text)}"
    yield f"\n{episode.result.outcome} after {episode.result.metrics['turns']:g} turns"
    for name, given in each.scores.items():
        yield f"{name}: {', '.join(f'{seat} {value:g}' for seat, value in sorted(given.items()))}"
    yield "```\n"


HEAD = f"""\
# SmolLM2 in Sotopia, some episodes

Written by `python benchmarks/show_social_smollm.py` ([figures](results/social_smollm.json), [the game](social.md)):
the {SHOWN - 1} episodes with the largest share of legal replies, and the one with the smallest. Replies stand as the
model of 135 million weights wrote them, as JSON texts; the judge is the same model, and its ratings say little.
Characters and situations are Sotopia's (CC BY-SA 4.0).
"""


def main() -> None:
    folder, data = (Path(each).resolve() for each in sys.argv[1:3])
    parts = sys.argv[3:] or ["play", "judge", "cost", "tiny", "generate"]
    folder.mkdir(parents=True, exist_ok=True)
    known, snapshot = records(data, folder / "records"), model()
    rubric = Rubric.of(**read_yaml(Path(conf).parent / "rubric/sotopia.yaml"))
    words = [
        "game=social", f"game.path={known}", "model=smollm2", "imitate.matches=0", "eval.opponents=[]",
        "metric=sampled.turns", *SETTINGS,
    ]  # fmt: skip
    play, judge, writing = folder / "play", folder / "judge", folder / "generate"
    scores = judge / STAGE / "score/scores.jsonl"
    found: dict[str, Any] = {"settings": SETTINGS, "judging": JUDGING, "writing": WRITING}
    for part in parts:
        if part == "so-far":
            found["play"] = played(Matches(play / STAGE))
        elif part == "play":
            end = done(play, ["task=play", *words], f"{STAGE}/stage.json", f"{STAGE}/0.jsonl")
            found[part] = end | played(Matches(play / STAGE))
        elif part == "judge":
            asking = ["task=judge", f"run={play}", *words, *JUDGING, f"opponents.critic.path={snapshot.path}"]
            end = done(judge, asking, "ratings.jsonl", f"{STAGE}/score/0.jsonl")
            both = ScoredMatches(play / STAGE, scores)
            found[part] = end | judged(Matches(scores.parent), both.scored(), rubric)
            write_text(folder / "transcripts.md", page(both.scored()))
        elif part == "generate":
            prompts = data / "sotopia_pi/used_prompt.csv"
            asking = ["task=generate", *words, f"task.prompts={prompts}", *WRITING,
                      f"opponents.writer.path={snapshot.path}"]  # fmt: skip
            done(writing, asking, "tasks/left_out.json")
            found[part] = invented(writing, known)
        elif part == "tiny":
            found[part] = sampled(untrained(snapshot, folder / "untrained"), rubric, MANY, guided=True)
        else:
            found[part] = cost(snapshot, rubric)
        print(part, json.dumps(found.get(part, found.get("play"))), flush=True)
        record("social_smollm", found)
    sys.exit(0 if fine(found) else 1)


def fine(found: dict[str, Any]) -> bool:
    """Whether nothing was lost, no verdict was cut or could not be read, and no kept task is near a known one."""
    whole = all(
        each["complete_and_in_range"] == each.get("n", each.get("replies")) and not each["cut"]
        for each in (found.get("judge", {}).get("replies"), found.get("cost", {}).get("schema"), found.get("tiny"))
        if each is not None
    )
    lost = [name for part in ("play", "judge") for name in found.get(part, {}).get("lost", ())]
    return whole and not lost and (found.get("generate", {}).get("nearest_of_the_known") or 0.0) < invent.ALIKE


if __name__ == "__main__":
    main()
