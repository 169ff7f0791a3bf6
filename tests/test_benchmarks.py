"""The benchmarks measure what they say: equal losses, made episodes as described, every path of the GPU script."""

import json
import random
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from parley.backends.hf import HFBackend
from parley.data.sample import Sample
from parley.games.base import Message
from parley.learners.optim import AdamW
from parley.learners.training import columns
from parley.models.tiny import Tiny
from parley.objectives.filtered_bc import FilteredBC
from parley.objectives.offline_po import OfflinePO

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu  # noqa: E402
import train  # noqa: E402
from comparator import Comparator  # noqa: E402
from dialogues import Dialogues, Profile, Shape  # noqa: E402
from plain_play import PlainPlay  # noqa: E402

import play  # noqa: E402

TINY = Shape(width=32, layers=2, heads=4, kv_heads=2, mlp=64, vocab=64, tie=True)
DATA = Dialogues(matches=4, turns=3, rules=20, reply=(3, 8), instruction=4, vocab=TINY.vocab)


def test_a_sample_is_rules_history_instruction_and_a_supervised_reply():
    for matches, turns, texts in ((5, 3, 0), (6, 1, 2)):
        samples = replace(DATA, matches=matches, turns=turns, rule_texts=texts).samples(seed=3)
        assert len(samples) == matches * turns == len({sample.id for sample in samples})
        for at in range(0, len(samples), turns):
            match = samples[at : at + turns]
            assert len({sample.group for sample in match}) == 1
            for sample in match:
                (span,) = sample.utterances
                assert span.end == len(sample.token_ids) and 3 <= span.end - span.start <= 8
            for one, other in pairwise(match):  # the history grows by the reply itself and one of the opponent
                (span,), history = (
                    one.utterances,
                    len(one.token_ids) - (one.utterances[0].end - one.utterances[0].start) - 4,
                )
                reply = one.token_ids[span.start :]
                assert other.token_ids[:history] == one.token_ids[:history]
                assert other.token_ids[history : history + len(reply)] == reply
            total = sum(sample.utterances[0].reward for sample in match)
            assert total == pytest.approx(1.0) or total == pytest.approx(-0.5)
        starts = {sample.token_ids[:20] for sample in samples}
        assert len(starts) == (texts or matches)


def test_the_same_seed_gives_the_same_episodes():
    assert DATA.samples(1) == DATA.samples(1) != DATA.samples(2)


def slow_losses(samples: list[Sample], loss, steps: int) -> list[float]:
    """Every utterance alone through the model, the reference's values from the first step, plain AdamW and clipping."""
    model = train.model(TINY).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    found, ref_N = [], None
    for _ in range(steps):
        values = []
        for sample in samples:
            ids_1T, (span,) = torch.tensor([sample.token_ids]), sample.utterances
            values.append(
                model(ids_1T).logits[0, :-1].log_softmax(-1).gather(1, ids_1T[0, 1:, None])[span.start - 1 :, 0]
            )
        owner_N = torch.repeat_interleave(torch.arange(len(values)), torch.tensor([len(value) for value in values]))
        utterances = [sample.utterances[0] for sample in samples]
        ref_N = torch.cat(values).detach() if ref_N is None else ref_N
        given = columns(utterances, owner_N, {"old": ref_N})
        value, _ = loss(torch.cat(values), given, loss.totals(utterances))
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append(value.item())
    return found


@pytest.mark.parametrize("loss", [OfflinePO(), FilteredBC()], ids=["offline_po", "filtered_bc"])
def test_the_comparator_trains_as_one_utterance_at_a_time(loss):
    samples = DATA.samples()
    random.Random(0).shuffle(samples)
    engine = Comparator(train.model(TINY), loss, AdamW(lr=1e-2), rows=5)
    assert [engine.step(samples)[0] for _ in range(3)] == pytest.approx(slow_losses(samples, loss, 3), abs=1e-4)
    assert engine.tokens >= 3 * sum(len(sample.token_ids) for sample in samples)


def bench() -> train.Bench:
    return train.Bench(DATA, TINY, Profile(micro_tokens=64, row_tokens=128, head_chunk=16))


def test_both_engines_give_the_same_losses_and_parley_computes_fewer_tokens():
    figures = train.speed(bench(), 1)
    assert figures["tokens"]["packed"] < 0.7 * figures["tokens"]["plain"]
    assert all(
        figures[name]["min"] <= figures[name]["median"] <= figures[name]["max"] for name in ("recorded", "with_pass")
    )


def test_losses_that_differ_stop_the_benchmark(monkeypatch):
    step = Comparator.step
    monkeypatch.setattr(Comparator, "step", lambda self, samples: (step(self, samples)[0] + 1e-4, 1.0))
    with pytest.raises(ValueError, match="of the comparator"):
        bench().pair()


def test_memory_is_that_of_each_side_alone():
    figures = train.memory(bench())
    assert 0 < figures["plain_mib"] < 2000 and figures["ratio"] == pytest.approx(
        figures["parley_mib"] / figures["plain_mib"], rel=0.1
    )


def test_the_gpu_script_walks_every_path_on_a_cpu_and_needs_no_hydra(tmp_path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--cpu", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    statuses = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and set(statuses.values()) <= {"ok", "skipped"}, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["device"] == "cpu" and found["checks"].keys() == statuses.keys()
    masked = found["checks"]["packed"]["sdpa"]
    assert masked["float32"]["logprob"] < 1e-5 < 1e-2 < masked["float32_leaking"]["logprob"]


def test_a_check_that_fails_is_named_with_its_reason(tmp_path):
    found = gpu._process(["nonsense", "head"], cpu=True, sparse=False, folder=tmp_path, seconds=250)
    assert found["nonsense"]["status"] == "failed" and "nonsense" in found["nonsense"]["why"] and "head" not in found


def test_the_plain_player_plays_the_same_game(tmp_path):
    words = "[message] [propose] hello books hats balls 0 1 2 3 i take you get deal they proposed error"
    made = Tiny(width=32, heads=2, layers=1, mlp=64, context=96).create(
        tmp_path / "tiny", [[Message("user", words)]], 0
    )
    torch.manual_seed(0)
    player = PlainPlay(made.path, play.SAMPLING)
    results = player.play(play.GAME, play.seatings(2))
    assert {result.outcome for result in results} <= {"abort", "context"} and player.tokens > 8
    report, seconds = play.arena(HFBackend(max_batch=4), made, 2, 2)
    assert report.matches == 2 and seconds > 0


def test_scripted_play_is_measured_for_every_script():
    assert play.scripted(1, 4).keys() == play.GAME.scripts().keys()
