"""Two of vLLM's own servers as one backend: Deal in self-play, two iterations with LoRA, and all that can go wrong.

    .venv-vllm/bin/python benchmarks/show_servers.py [--servers 2] [--scenarios 24]

A tiny model imitates first and is served by processes on loopback. In the first iteration the run is killed in the
middle of play and resumed; in the second one of the servers is killed. Looked at: no match is lost or doubled, each
reply says the version that its iteration must play, and its ids have the log-probs that the learner finds for that very
version. Exits with 1 where one of these does not hold. Ten minutes of two cores.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from parley.data.episode import Episode, streams
from parley.data.sample import Sample, Utterance
from parley.data.store import EpisodeStore
from parley.learners.likelihood import logprobs
from parley.models import snapshot
from parley.models.snapshot import Snapshot
from results import ROOT, record
from serving import Process

APART = 1e-5  # how far log-probs may be from the learner's, a token, in nats


def settings(base: str, urls: Sequence[str], scenarios: int, more: Sequence[str] = ()) -> list[str]:
    """The command of a run on these servers; `more` are words of it that differ."""
    return [
        "debug=fast", "iterations=2", "model=hf", f"model.path={base}", "adapter=lora", "adapter.r=8",
        "imitate.matches=0", "backend=vllm_servers", f"backend.urls=[{','.join(urls)}]", f"play.scenarios={scenarios}",
        "play.group=2", "play.in_flight=16", "objective.credit.keep=all", "eval.opponents=[]",
        "learner.optimizer.lr=0.01", *more,
    ]  # fmt: skip


def go(run: Path, command: Sequence[str], when: Callable[[], bool], then: Callable[[Any], None]) -> int:
    """Runs or resumes; does `then` with its process as soon as `when` holds. The exit code."""
    place = f"resume={run}" if run.exists() else f"hydra.run.dir={run}"
    with (run.parent / "parley.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "parley", *command, place], stdout=log, stderr=log, start_new_session=True
        )
    done = False
    while process.poll() is None:
        if not done and when():
            then(process)
            done = True
        time.sleep(0.01)
    if not done:
        raise RuntimeError(f"it was over before anything went wrong: {(run.parent / 'parley.log').read_text()[-2000:]}")
    return process.returncode


def longer(run: Path, iteration: int, size: int) -> Callable[[], bool]:
    """Whether the matches that an iteration has stored are more than `size` bytes."""
    shard = run / f"iter_{iteration:03d}/play/0.jsonl"
    return lambda: shard.exists() and shard.stat().st_size > size


def checked(run: Path, base: str, iteration: int, policy: Snapshot) -> dict[str, Any]:
    """What can be said of an iteration's play, which `policy` must have done."""
    store = EpisodeStore(run / f"iter_{iteration:03d}/play", shard=None)
    episodes: list[Episode] = list(store.read())
    calls = [turn.call for each in episodes for turn in each.turns if turn.call is not None]
    samples = [
        Sample(f"{each.id}/{seat}/{at}", stream.token_ids, tuple(Utterance(*span) for span in stream.spans.values()),
               logprobs=stream.logprobs)
        for each in episodes
        for seat in each.players
        for at, stream in enumerate(streams(each, seat))
    ]  # fmt: skip
    hardware: Any = OmegaConf.load(ROOT / "conf/hardware/cpu.yaml")
    found = logprobs(samples, policy, hardware)
    apart = [
        abs(one - sum(sample.logprobs or ())) / len(sample.logprobs or ())
        for sample, one in zip(samples, found, strict=True)
    ]
    return {
        "matches": len(episodes), "doubled": store.duplicates, "replies": len(calls),
        "of_this_version": sum(call.policy == policy.version for call in calls),
        "logprobs_apart": max(apart),
    }  # fmt: skip


def played(
    folder: Path, command: Sequence[str], base: str, lose: Callable[[], None], size: int = 10_000
) -> dict[str, Any]:
    """Both iterations with both faults, each after `size` bytes of matches, and what came of them."""
    run = folder / "run"
    scenarios = next(int(word.partition("=")[2]) for word in command if word.startswith("play.scenarios="))
    first = go(run, command, longer(run, 1, size), lambda process: os.killpg(process.pid, signal.SIGKILL))
    second = go(run, command, longer(run, 2, size), lambda _: lose())
    policies = [
        snapshot.of(run / path, "", base)
        for path in ("iter_000/adapter/learner/snapshot", "iter_001/learn/learner/snapshot")
    ]
    found = {
        f"iteration {number}": checked(run, base, number, _named(run, number, policy))
        for number, policy in enumerate(policies, 1)
    }
    return {"killed": first, "resumed": second, **found, "holds": second == 0 and _holds(found, scenarios * 2)}


def _named(run: Path, iteration: int, policy: Snapshot) -> Snapshot:
    """The policy under the whole version that the run has given it."""
    episode = next(iter(EpisodeStore(run / f"iter_{iteration:03d}/play", shard=None).read()))
    (version,) = {version for version in episode.policies.values() if version.endswith(policy.version)} or {""}
    return Snapshot(version, policy.path, policy.base)


def _holds(found: dict[str, dict[str, Any]], matches: int) -> bool:
    return all(
        each["matches"] == matches
        and not each["doubled"]
        and each["of_this_version"] == each["replies"]
        and each["logprobs_apart"] < APART
        for each in found.values()
    )


def imitated(folder: Path) -> str:
    """A tiny model that can play Deal a little."""
    command = [sys.executable, "-m", "parley", "task=imitate", "imitate.matches=600", f"hydra.run.dir={folder}/made"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return f"{folder}/made/iter_000/start/snapshot"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--scenarios", type=int, default=24)
    parser.add_argument("--model", help="a snapshot's folder; else one is made")
    parser.add_argument("--no-record", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = given.model or imitated(folder)
        servers = [Process(base, folder / f"server{at}.log") for at in range(given.servers)]
        try:
            for each in servers:
                each.wait()
            command = settings(base, [each.url for each in servers], given.scenarios)
            figures = played(folder, command, base, servers[0].kill)
        finally:
            for each in servers:
                each.kill()
    print(figures)
    if not given.no_record:
        record("servers", {"servers": given.servers, **figures})
    sys.exit(0 if figures["holds"] else 1)


if __name__ == "__main__":
    main()
