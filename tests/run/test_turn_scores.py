"""A judge of single replies: what it is asked, its numbers by request, and the credit that reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from parley.credit import Advantage, logs
from parley.data.judge import TurnJudge
from parley.data.scorer import Scored, ScoredMatches
from parley.data.store import Matches
from parley.run.scoring import Scoring
from parley.system.files import InputError
from test_scoring import STAGE, play, run, scores

from openai_server import Server, completion

SCALES = {"attribution": {"low": 0, "high": 3, "says": "how much it did"}}


def talk(body: dict[str, Any]) -> dict[str, Any]:
    """Rates a reply by its number; in a third of the matches it never gives a verdict."""
    question = body["messages"][1]["content"]
    subjects = [*json.loads(question.splitlines()[-1].partition(": ")[2])]
    silent = len(subjects) % 3 == 0
    said = {each: {"attribution": int(each.removeprefix("#")) % 4} for each in subjects}
    return completion(body, "no comment" if silent else json.dumps(said))


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server(talk)
    yield found
    found.close()


def counted(matches: Matches) -> dict[str, list[tuple[str, str, str]]]:
    """match -> the (request, seat, text) of every reply that counted, in order."""
    found = {}
    for each in matches:
        refused = {request for seat in each.players for request in each.refused(seat)}
        found[each.id] = [(turn.request, turn.seat, turn.text) for turn in each.turns if turn.request not in refused]
    return found


def test_every_reply_is_rated_by_its_request(tmp_path: Path, server: Server) -> None:
    made = play(run(tmp_path, server, TurnJudge("judge", "Judge.", SCALES)))
    Scoring(made).score(STAGE)
    replies, said = counted(made.episodes(STAGE)), scores(made)
    assert said.keys() == replies.keys() and 0 < sum(not each for each in said.values()) < len(said)
    for match, rows in replies.items():
        numbers = {request: float(at % 4) for at, (request, _, _) in enumerate(rows, 1)}
        assert said[match] == ({"attribution": numbers} if len(rows) % 3 else {})
    shown = {body["messages"][1]["content"].partition("\n\n")[0] for body in server.asked}
    assert {
        "\n".join(f"#{at} {seat}: {text}" for at, (_, seat, text) in enumerate(rows, 1)) for rows in replies.values()
    } == shown


def test_credit_reads_them_and_a_log_without_a_verdict_is_left_out(tmp_path: Path, server: Server) -> None:
    made = play(run(tmp_path, server, TurnJudge("judge", "Judge.", SCALES)))
    Scoring(made).score(STAGE)
    matches, said = Scoring(made).matches(STAGE), scores(made)
    assert isinstance(matches, ScoredMatches)
    ours = Modelled(matches.folder, matches.scores)
    with pytest.raises(InputError, match="turn_reward='charm': no reply of this round has such a mark"):
        Advantage(turn_reward="charm")(ours, "learner")
    credit = Advantage(baseline="none", of="reply", zeros=True, turn_reward="attribution")
    verdicts = {each.match: each for each in credit(ours, "learner").table}
    for log in logs(ours):
        given, replies = said[log.episode.id].get("attribution"), log.replies(refused=True)
        assert [log.mark(each, "attribution") for each in replies] == [(given or {}).get(each) for each in replies]
        left_out = verdicts[log.episode.id].why == "no score, or no reply of this policy"
        assert left_out == (given is None or not replies)
        if not left_out and given:
            earned = log.score + sum(given.get(each, 0.0) for each in replies)
            assert verdicts[log.episode.id].score == pytest.approx(earned)


class Modelled(ScoredMatches):
    """The matches as if a model had sat where the script "learner" did."""

    def scored(self) -> Iterator[Scored]:
        for each in super().scored():
            yield replace(each, episode=replace(each.episode, policies={"ann": "v", "bob": ""}))


def test_a_match_in_which_nobody_said_anything_is_asked_about_nothing() -> None:
    judge = TurnJudge("dice", "Judge.", SCALES, swapped=True)
    assert [*judge.game([]).scenarios("train")] == []
