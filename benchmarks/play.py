"""How fast parley plays: against the engine's own speed, against a plain comparator, with scripts, with many adapters.

    python benchmarks/play.py [snapshot folder] [--only engine comparator scripted adapters] [--pairs 5] [--no-record]

Without a folder a tiny model is made and imitates for a minute first. One thread; figures are per CPU-second, so that
other work on the machine does not count. Where vLLM is not installed `engine` and `adapters` are left out. The last
line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch
from parley.backends import vllm_engine
from parley.backends.hf import HFBackend
from parley.data.store import EpisodeStore
from parley.games.deal import Deal
from parley.models import snapshot
from parley.models.adapter import Adapter, LoRA
from parley.models.load import load_policy, load_tokenizer
from parley.models.renderer import Renderer
from parley.models.snapshot import Snapshot
from parley.play.arena import Arena, Report
from parley.play.pairing import Seating, self_play
from parley.play.player import Backend, Completion, Prompt, Sampling
from parley.play.players import LanguagePlayer, ScriptedPlayer
from parley.system.files import InputError
from plain_play import PlainPlay
from results import ROOT, record, revision
from show_batch import imitated

SAMPLING = Sampling(temperature=0.7)
IN_FLIGHT = {64: 192, 256: 512}  # -> matches
GAME = Deal(max_actions=12)
LEAST = {"engine_share": 0.9, "comparator_ratio": 10.0, "scripted_turns_per_second": 10_000.0}


def seatings(count: int, name: str = "learner") -> list[Seating]:
    """`count` matches of cooperative Deal on training scenarios."""
    scenarios = GAME.scenarios("train")
    return list(self_play(GAME, [scenarios[at % len(scenarios)] for at in range(count)], name, 0, "play"))


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """CPU-seconds of this process since the beginning of the block."""
    began = time.process_time()
    yield lambda: time.process_time() - began


def arena(backend: Backend, made: Snapshot, matches: int, in_flight: int) -> tuple[Report, float]:
    """(report, CPU-seconds) of matches in self-play, their episodes stored on disk."""
    backend.load(made)
    player = LanguagePlayer(backend, Renderer.load(made.path), made.version, SAMPLING, "learner")
    planned = seatings(matches)
    with tempfile.TemporaryDirectory() as folder, EpisodeStore(folder) as store, stopwatch() as spent:
        report = Arena(GAME, {"learner": player}, in_flight).play(planned, store.append)
        seconds = spent()
    player.close()
    return report, seconds


# --- against the engine
# ------------------------------------------------------------------------------------------------


class Tap:
    """A backend that remembers what it is asked, how long the replies are, and how many were open at each step."""

    busy = property(lambda self: self.backend.busy)

    def __init__(self, backend: Any) -> None:
        self.backend, self.prompts, self.lengths, self.open = backend, [], {}, []
        self.load, self.cancel, self.close = backend.load, backend.cancel, backend.close

    def submit(self, prompts: Sequence[Prompt]) -> None:
        self.prompts += prompts
        self.backend.submit(prompts)

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        self.open.append(len(self.prompts) - len(self.lengths))
        done = self.backend.poll(wait_s)
        self.lengths |= {each.id: len(each.token_ids or ()) for each in done}
        return done


def alone(engine: Any, trace: Sequence[tuple[Prompt, int]], open_at: Sequence[int]) -> tuple[int, float]:
    """(tokens, CPU-seconds) of vLLM itself for the recorded prompts and lengths in order, as many at each step as were
    open."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind

    fixed = dict(
        logprobs=0, detokenize=False, skip_clone=True, ignore_eos=True, output_kind=RequestOutputKind.FINAL_ONLY
    )
    waiting = deque(
        (prompt.token_ids, dict(temperature=SAMPLING.temperature, seed=prompt.seed, max_tokens=length, **fixed))
        for prompt, length in trace
    )
    tokens = running = number = 0
    with stopwatch() as spent, torch.compiler.set_stance("force_eager"):
        for wanted in open_at:
            while running < wanted:
                ids, params = waiting.popleft()
                engine.add_request(str(number := number - 1), tokens_input(list(ids)), SamplingParams(**params))
                running += 1
            for output in engine.step():
                tokens += len(output.outputs[0].token_ids)
                running -= 1
        seconds = spent()
    assert not waiting and not running
    return tokens, seconds


def engine_share(made: Snapshot, pairs: int) -> dict[str, Any]:
    """The arena's sampled tokens per CPU-second as a share of the engine's alone, in interleaved pairs."""
    from parley.backends.vllm import VLLMBackend

    found: dict[str, Any] = {}
    for in_flight, matches in IN_FLIGHT.items():
        backend = VLLMBackend(kv_gib=1.0)
        tap = Tap(backend)
        arena(tap, made, matches, in_flight)  # warms up, and is the trace
        (held,) = backend._engines
        trace = [(prompt, tap.lengths[prompt.id]) for prompt in tap.prompts]
        rows = []
        for _ in range(pairs):
            held._llm.reset_prefix_cache()
            report, seconds = arena(backend, made, matches, in_flight)
            held._llm.reset_prefix_cache()
            tokens, engine_seconds = alone(held._llm, trace, tap.open)
            rows.append((report.tokens / seconds, tokens / engine_seconds))
            print(
                f"{in_flight} in flight: arena {rows[-1][0]:.0f}, engine {rows[-1][1]:.0f} tokens per CPU-second",
                flush=True,
            )
        shares = [ours / theirs for ours, theirs in rows]
        lengths = sorted(length for _, length in trace)
        found[str(in_flight)] = {
            "share": round(median(shares), 3), "least": round(min(shares), 3), "most": round(max(shares), 3),
            "matches": matches,
            "replies": len(trace), "reply_tokens": [lengths[0], lengths[len(lengths) // 2], lengths[-1]],
            "arena": round(median(row[0] for row in rows)), "engine": round(median(row[1] for row in rows)),
        }  # fmt: skip
        backend.close()
    return found


# --- against the comparator, and with scripts
# --------------------------------------------------------------------------


def comparator_ratio(made: Snapshot, pairs: int, matches: int = 1024, plain: int = 128) -> dict[str, Any]:
    """Games per CPU-second of the arena with the transformers backend over those of the comparator."""
    ours, theirs = [], []
    torch.manual_seed(0)
    for _ in range(pairs):
        backend = HFBackend()
        report, seconds = arena(backend, made, matches, matches)
        backend.close()
        ours.append((report.matches / seconds, report.tokens / report.matches))
        player = PlainPlay(made.path, SAMPLING)
        with stopwatch() as spent:
            results = player.play(GAME, seatings(matches)[:plain])
            theirs.append((len(results) / spent(), player.tokens / len(results)))
        print(f"games per CPU-second: arena {ours[-1][0]:.2f}, one at a time {theirs[-1][0]:.3f}", flush=True)
    ratios = [one[0] / other[0] for one, other in zip(ours, theirs, strict=True)]
    return {
        "ratio": round(median(ratios), 2), "least": round(min(ratios), 2), "most": round(max(ratios), 2),
        "matches": matches, "plain_matches": plain,
        "games_per_cpu_second": [round(median(row[0] for row in rows), 3) for rows in (ours, theirs)],
        "tokens_per_game": [round(median(row[1] for row in rows), 1) for rows in (ours, theirs)],
    }  # fmt: skip


def scripted(pairs: int, matches: int = 2000) -> dict[str, Any]:
    """Turns per CPU-second of scripted Deal, episodes stored: the arena, the game and the scripts together."""
    found = {}
    for name, script in GAME.scripts().items():
        rates = []
        for _ in range(pairs):
            planned = seatings(matches, name)
            with tempfile.TemporaryDirectory() as folder, EpisodeStore(Path(folder)) as store, stopwatch() as spent:
                report = Arena(GAME, {name: ScriptedPlayer(script, name)}).play(planned, store.append)
                store.close()
                rates.append(report.turns / spent())
        found[name] = round(median(rates))
    print(f"scripted turns per CPU-second: {found}", flush=True)
    return found


# --- adapters
# ----------------------------------------------------------------------------------------------------------


def adapters(made: Snapshot, counts: Sequence[int] = (1, 8, 32), replies: int = 256) -> dict[str, Any]:
    """Tokens per CPU-second with one batch of prompts over so many adapters of rank 8, and without any."""
    from parley.backends.vllm import VLLMBackend

    with tempfile.TemporaryDirectory() as folder:
        loaded = [changed(made, Path(folder), number) for number in range(max(counts))]
        backend = VLLMBackend(max_adapters=max(counts), kv_gib=1.0)
        for each in (made, *loaded):
            backend.load(each)
        found = {}
        for count in (0, *counts):
            versions = [each.version for each in loaded[:count]] or [made.version]
            rates = [_rate(backend, versions, len(load_tokenizer(made.path)), replies, round_) for round_ in range(4)]
            found[str(count)] = round(median(rates[1:]))
        assert len(backend._engines) == 1
        backend.close()
    print(f"tokens per CPU-second by adapters at once: {found}", flush=True)
    return found


def _rate(backend: Any, versions: Sequence[str], words: int, replies: int, round_: int) -> float:
    asked = [
        Prompt(f"{round_}/{at}", f"{round_}/{at}", (), at, sampling=Sampling(max_tokens=32),
        policy=versions[at % len(versions)],
               token_ids=tuple(7 + (at * 31 + place * 17 + round_) % (words - 7) for place in range(40)))
        for at in range(replies)
    ]  # fmt: skip
    with stopwatch() as spent:
        backend.submit(asked)
        tokens = 0
        while backend.busy:
            tokens += sum(len(done.token_ids or ()) for done in backend.poll())
        return tokens / spent()


def changed(made: Snapshot, folder: Path, number: int) -> Snapshot:
    """An adapter of rank 8 on `made` that is not the identity."""
    policy = load_policy(LoRA(r=8).create(made, folder / f"fresh{number}", number), trainable=True)
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=generator)
    return snapshot.save(Adapter.of(policy), load_tokenizer(made.path), folder / f"a{number}", f"a{number}", made.path)


def keep(found: dict[str, Any]) -> None:
    """Records what was measured now; parts that were not keep their figures and say of which revision they are."""
    path = ROOT / "docs" / "results" / "play.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    when = {"revision": revision(), "date": date.today().isoformat()}
    measured = {name: {**when, "figures": each} for name, each in found.items() if name != "vllm"}
    command = "python benchmarks/play.py [FOLDER] --only PART --pairs N"
    record(
        "play", {"command": command, "vllm": found["vllm"] or old.get("vllm"), "parts": old.get("parts", {}) | measured}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--only", nargs="+", choices=("engine", "comparator", "scripted", "adapters"))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--no-record", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command does: torch's tensors in huge pages
    wanted = given.only or ["engine", "comparator", "scripted", "adapters"]
    try:
        version = vllm_engine.available()
    except InputError as error:
        print(f"left out: engine, adapters ({error})")
        wanted, version = [name for name in wanted if name not in ("engine", "adapters")], None
    with tempfile.TemporaryDirectory() as scratch:
        models = {"engine", "comparator", "adapters"} & set(wanted)
        made = snapshot.of(given.folder or imitated(scratch), "start") if models else None
        figures: dict[str, Any] = {
            "scripted": scripted(given.pairs) if "scripted" in wanted else None,
            "comparator": comparator_ratio(made, given.pairs) if "comparator" in wanted and made else None,
            "engine": engine_share(made, given.pairs) if "engine" in wanted and made else None,
            "adapters": adapters(made) if "adapters" in wanted and made else None,
        }
    if not given.no_record:
        keep({"vllm": version} | {name: each for name, each in figures.items() if each is not None})
    told = {
        "engine_share": figures["engine"] and min(each["share"] for each in figures["engine"].values()),
        "comparator_ratio": figures["comparator"] and figures["comparator"]["ratio"],
        "scripted_turns_per_second": figures["scripted"] and min(figures["scripted"].values()),
        "adapters": figures["adapters"],
    }
    print(json.dumps(told))
    sys.exit(any(told[name] is not None and told[name] < least for name, least in LEAST.items()))


if __name__ == "__main__":
    main()
