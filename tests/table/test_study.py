"""A study through the server's routes: each step, what is refused, what is stored, and what a restart keeps."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from threading import Event

import pytest
from a_table import Page, a_play, a_run, open_table
from parley.data.store import Matches
from parley.games.deal.game import Deal
from parley.run.config import ConfigError
from parley.system.files import InputError, append_lines
from parley.table.desks import mirrored
from parley.table.events import Events, read
from parley.table.plan import COUNTS
from studied import AFTER, BEFORE, LEARNERS, Visitor, played, serve, study


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    run = tmp_path_factory.mktemp("stored")
    for stage, policy in ((BEFORE, "v0"), (AFTER, "v3")):
        played(run, stage, [LEARNERS] * 6, policy)
    return run


@pytest.fixture
def run(stored, tmp_path):
    (tmp_path / "iter_000").symlink_to(stored / "iter_000")
    (tmp_path / "iter_003").symlink_to(stored / "iter_003")
    return tmp_path


def told(run, what):
    return [event for event in read(run / "table/study") if event["what"] == what]


def test_a_person_is_taken_through_every_step_and_its_ratings_are_stored(run):
    async def work(client, persons):
        ann = Visitor(client, persons)
        assert await ann.step() == {"step": "consent", "text": "Do you agree?", "box": "Train on it."}
        assert (await ann.send("rate", 409, item="x", scores={}))["error"].startswith("this is not asked any more")
        assert await ann.send("consent", agree=True, training=True) == {"step": "instructions", "text": "Be careful."}
        asked = await ann.send("read")
        assert asked == {"step": "questions", "questions": [{"ask": "2 + 2?", "options": ["3", "4"]}], "again": False}
        assert (await ann.send("questions", given=[0]))["again"] is True
        now = await ann.send("questions", given=[1])
        seen = []
        for _ in range(2):
            assert now["step"] == "rate" and now["subjects"] == ["first", "second"]
            assert [each["name"] for each in now["scales"]] == ["goal", "tone"]
            assert (await ann.step())["item"] == now["item"]  # a reload shows the same match
            assert not any(word in json.dumps(now) for word in ("learner", "iter_", "v3", "v0"))
            seen.append(now["item"])
            now = await ann.rate(now, 7)
        assert now["step"] == "attention"
        now = await ann.send("attention", given=[1])
        now = await ann.rate(now)
        assert now["step"] == "done" and now["code"] == f"DONE-{ann.person.id}" and len({*seen, now.get("item")}) == 3
        assert now["pay"] == {"base": 1.5, "bonus": 0.75, "currency": "USD"}
        assert await ann.step() == now

    serve(run, study(), work)
    rated = told(run, "rating")
    assert [row["scores"] for row in rated[0]["rows"]] == [{"goal": 7.0, "tone": 5.0}] * 2
    assert {row["episode"] for event in rated for row in event["rows"]} == {event["match"] for event in rated}
    (consent,) = told(run, "consent")
    assert (consent["version"], consent["training"]) == ("2", True)


def test_who_only_looks_reads_the_instructions_and_is_nobody(run):
    async def work(client, persons):
        at = f"/join/{persons.door('join')}"
        look = await (await client.post(at, json={"WHO": "NOBODY"})).json()
        assert look == {"preview": ["Be careful."]}
        assert (run / "table/persons.jsonl").read_text() == ""
        assert "token" in await (await client.post(at, json={"WHO": "worker-9"})).json()

    serve(run, study(), work)
    assert not (run / "table/study/events.jsonl").exists()


def test_who_refuses_gives_nothing_and_may_come_back(run):
    async def work(client, persons):
        bob = Visitor(client, persons)
        refused = await bob.send("consent", agree="yes", training=True)  # only true is a yes
        assert refused == {"step": "refused", "text": "Do you agree?", "box": "Train on it."}
        assert (await bob.send("read", 409))["error"]
        assert (await bob.send("consent", agree=True))["step"] == "instructions"

    serve(run, study(), work)
    assert [event["training"] for event in told(run, "consent")] == [False]


def test_who_answers_wrongly_too_often_does_not_go_on(run):
    async def work(client, persons):
        one, two = Visitor(client, persons), Visitor(client, persons)
        for each in (one, two):
            await each.send("consent", agree=True)
            await each.send("read")
        await one.send("questions", given=[0])
        assert await one.send("questions", given=[0]) == {"step": "failed"}
        now = await two.send("questions", given=[1])
        for _ in range(2):
            now = await two.rate(now)
        assert await two.send("attention", given=[0]) == {"step": "failed"}
        await two.send("attention", 409, given=[1])

    serve(run, study(), work)


@pytest.mark.parametrize(
    ("what", "body", "says"),
    [
        ("questions", {}, "choose one answer"), ("questions", {"given": [True]}, "choose one answer"),
        ("questions", {"given": [1, 1]}, "choose one answer"), ("questions", {"given": "1"}, "choose one answer"),
        ("rate", {"scores": {}}, "goal of first is missing"), ("rate", {"scores": 3}, "no JSON"),
        ("rate", {"scores": {"first": {"goal": 11, "tone": 0}}}, "goal of first must be from 0 to 10"),
        ("rate", {"scores": {"first": {"goal": True, "tone": 0}}}, "goal of first is missing"),
        ("rate", {"scores": json.loads("[" * 700 + "]" * 700)}, "no JSON"),
        ("rate", {"scores": {"first": {"goal": 1e999, "tone": 0}}}, "goal of first must be"),
    ],
)  # fmt: skip
def test_a_bad_answer_is_refused_and_changes_nothing(run, what, body, says):
    async def work(client, persons):
        eve = Visitor(client, persons)
        await eve.send("consent", agree=True)
        now = await eve.send("read")
        if what == "rate":
            now = await eve.send("questions", given=[1])
            body["item"] = now["item"]
        assert says in (await eve.send(what, 400, **body))["error"]
        assert await eve.step() == now

    serve(run, study(), work)
    assert told(run, "rating") == [] and all(event["right"] for event in told(run, "answers"))


def test_each_match_is_rated_by_so_many_people_and_by_nobody_twice(run):
    async def work(client, persons):
        for _ in range(5):  # 12 places for 15 wishes
            each = Visitor(client, persons)
            now = await each.enter()
            while now["step"] == "rate":
                now = await each.rate(now)
            assert now["step"] == "done"

    serve(run, study(attention=[]), work)
    rated = told(run, "rating")
    assert Counter(Counter(event["item"] for event in rated).values()) == {2: 6}
    assert max(Counter((event["item"], event["person"]) for event in rated).values()) == 1


def test_what_somebody_holds_is_given_to_others_after_a_while_only(tmp_path):
    from parley.table.desks import pick

    now = [0.0]
    events = Events(tmp_path, lambda: now[0])
    asyncio.run(events.add("ann", "given", work="rate", item="x"))
    assert pick(["x"], "rate", "bob", events, 1, 60.0, 0) is None
    assert pick(["x"], "rate", "ann", events, 1, 60.0, 0) == "x"
    now[0] = 61.0
    assert pick(["x"], "rate", "bob", events, 1, 60.0, 0) == "x"


def test_a_slow_disk_holds_up_who_wrote_and_nobody_else(run, monkeypatch):
    writes, answered, waited = Event(), Event(), []

    def slow(path, lines):
        writes.set()
        waited.append(answered.wait(20))
        append_lines(path, lines)

    async def work(client, persons):
        monkeypatch.setattr("parley.table.events.append_lines", slow)
        sent = asyncio.create_task(Visitor(client, persons).send("consent", agree=True))
        assert await asyncio.to_thread(writes.wait, 20)
        assert (await client.get(f"/join/{persons.door('join')}")).status == 200 and not sent.done()
        answered.set()
        assert (await sent)["step"] == "instructions"

    serve(run, study(), work)
    assert waited == [True] and [event["version"] for event in told(run, "consent")] == ["2"]


def test_a_restart_goes_on_where_everybody_was(run):
    before = []

    async def first(client, persons):
        ann = Visitor(client, persons, "worker-1")
        before.append(await ann.rate(await ann.enter()))

    async def second(client, persons):
        assert await Visitor(client, persons, "worker-1").step() == before[0]

    serve(run, study(), first)
    with open(run / "table/study/events.jsonl", "a") as file:
        file.write('{"time": 1, "person": "torn')  # killed while it wrote
    serve(run, study(), second)
    assert len(told(run, "rating")) == 1


def test_a_new_version_of_the_consent_is_asked_again(run):
    async def first(client, persons):
        await Visitor(client, persons, "worker-1").enter()

    async def second(client, persons):
        ann = Visitor(client, persons, "worker-1")
        assert (await ann.step())["step"] == "consent"
        assert (await ann.send("consent", agree=True))["step"] == "rate"

    serve(run, study(), first)
    serve(run, study(version="3"), second)
    assert [event["version"] for event in told(run, "consent")] == ["2", "3"]


def test_only_those_near_the_reference_go_on(run, tmp_path):
    match = next(event for event in _ids(run))
    reference = [{"episode": match, "agent": agent, "annotator": "gold", "scores": {"goal": 6}} for agent in (1, 2)]
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reference))
    asked = {"ratings": str(tmp_path / "gold.jsonl"), "scales": ["goal"], "within": 2}

    async def work(client, persons):
        for goal, then in ((8, "rate"), (4, "rate"), (9, "failed"), (3, "failed")):
            each = Visitor(client, persons)
            assert (await each.rate(await each.enter(), goal))["step"] == then

    serve(run, study(reference=asked, attention=[]), work)
    assert {event["match"] for event in told(run, "rating")} == {match}
    assert [event["near"] for event in told(run, "rating")] == [True, True, False, False]


def _ids(run):
    return [each.id for each in Matches(run / AFTER)]


def test_votes_are_blind_balanced_and_kept_as_they_were(run):
    async def work(client, persons):
        for number in range(20):
            each = Visitor(client, persons)
            now = await each.enter()
            for vote in ("left", "right", "tie", "both_bad")[: 1 + number % 4]:
                assert now["step"] == "vote" and {*now} - {"told"} == {"step", "item", "ask", "left", "right"}
                own = {key: value for key, value in now.items() if key != "told"}
                assert not any(word in json.dumps(own) for word in ("learner", "iter_", "v3", "v0"))
                assert "a vote is one of" in (await each.send("vote", 400, item=now["item"], vote="up"))["error"]
                now = await each.send("vote", item=now["item"], vote=vote)
                assert "iter_00" in now["told"]["left"] and "learner" in now["told"]["right"]

    serve(run, study(rate=0, vote=4, per_item=20, attention=[]), work)
    votes = told(run, "vote")
    assert Counter(event["vote"] for event in votes) == {"left": 20, "right": 15, "tie": 10, "both_bad": 5}
    for event in votes:
        assert {event["left"], event["right"]} == {event["first"], event["second"]}
        assert event["first"].startswith(BEFORE) and event["second"].startswith(AFTER)
        assert event["first"].removeprefix(BEFORE) == event["second"].removeprefix(AFTER)
    ahead = {event["person"]: 0 for event in votes}
    for event in votes:
        ahead[event["person"]] += 1 if event["left"] == event["first"] else -1
        assert abs(ahead[event["person"]]) <= 1
    firsts = {event["person"]: event["left"] == event["first"] for event in reversed(votes)}
    assert {*firsts.values()} == {True, False}  # nobody can tell which side comes first


@pytest.mark.parametrize("seed", range(20))
def test_sides_are_balanced_for_everybody_and_not_foreseeable(seed):
    turned = [[mirrored(f"p{person}", number, seed) for number in range(40)] for person in range(50)]
    assert all(sum(own[:even]) == even // 2 for own in turned for even in range(0, 40, 2))
    first = [own[even] for own in turned for even in range(0, 40, 2)]
    assert 405 <= sum(first) <= 595  # of 1,000; six standard deviations


def test_a_study_that_cannot_be_is_refused_before_it_is_served(run):
    async def work(client, persons):
        raise AssertionError("not served")

    for changed in ({"stages": ["iter_009/play"]}, {"vote": 1, "left": [AFTER], "right": []}):
        with pytest.raises(ConfigError, match="the study wants people to"):
            serve(run, study(**changed), work)
    bad = {"url": "javascript:alert(1)"}, {"platform": "http://x.org"}, {"bonus": "matches +"}, {"bonus": "payoff"}
    for changed in (*bad, {"questions": [{"ask": "?", "options": ["a"], "answer": 1}]}):
        with pytest.raises(InputError):
            study(**changed)
    assert "payoff" not in COUNTS


def test_people_play_when_the_study_asks_them_to_and_are_paid_for_it(tmp_path):
    a_run(tmp_path, "game=deal_short")
    part = study(rate=0, play=2, instructions="", questions=[], attention=[])
    paid = []

    async def go():
        async with open_table(tmp_path, {"study": part, "play": a_play(partner="fair")}) as (client, persons):
            ann, token = persons.join({})
            page = Page(client, token)
            assert await page.post("sit") == 403  # consent comes first
            visitor = Visitor(client, persons)
            visitor.person, visitor.at = ann, f"/p/{token}/study"
            assert (await visitor.send("consent", agree=True, training=True))["step"] == "play"
            async with page.open():
                await page.play(Deal().scripts()["fair"], 2)
            now = await visitor.step()
            assert now["step"] == "done" and await page.post("sit") == 403
            paid.append((ann.player, now["pay"]["bonus"]))

    asyncio.run(go())
    ((player, bonus),) = paid
    matches = list(Matches(tmp_path / "table/play"))
    payoffs = [each.result.returns[seat] for each in matches for seat, name in each.players.items() if name == player]
    assert len(payoffs) == 2 and bonus == pytest.approx(round(min(0.2 + 0.2 * sum(payoffs), 9.0), 2))


def test_who_was_paid_is_given_no_more_though_there_is_more_to_do(run):
    ends = []

    async def work(client, persons):
        ann = Visitor(client, persons, "worker-1")
        now = await ann.enter() if not ends else await ann.step()
        while now["step"] == "rate":
            now = await ann.rate(now)
        ends.append(now)

    serve(run, study(attention=[]), work)
    serve(run, study(attention=[], rate=5), work)
    assert ends[0] == ends[1] and ends[0]["step"] == "done" and len(told(run, "rating")) == 3


def test_who_has_voted_is_told_no_ids_of_people(tmp_path):
    for stage, name in ((BEFORE, "learner"), (AFTER, "person:abc123")):
        played(tmp_path, stage, [{"first": name, "second": "learner"}])

    async def work(client, persons):
        now = await (ann := Visitor(client, persons)).enter()
        sides = (await ann.send("vote", item=now["item"], vote="tie"))["told"]
        assert any("a person" in each for each in sides.values()) and "abc123" not in json.dumps(sides)

    serve(tmp_path, study(rate=0, vote=1, attention=[]), work)
