"""People at the table, through the real protocol: matches to their end, refusals, leaving, restarts, and no leak."""

from __future__ import annotations

import asyncio
import json

import pytest
from a_table import Marked, Page, a_play, a_run, open_table
from hydra.utils import instantiate
from omegaconf import OmegaConf
from parley.data.replay import replay
from parley.data.store import EpisodeStore, Matches
from parley.games.base import Tool, seats
from parley.games.deal import Deal
from parley.play.seats import Sitting
from parley.run.config import ConfigError
from parley.system.files import InputError, read_jsonl
from parley.system.seeds import rng
from parley.table.bonus import Expression
from parley.table.lobby import Bookings
from parley.table.play import ending
from parley.table.played import at_seat


def pages(client, persons, count):
    return [Page(client, persons.join({})[1]) for _ in range(count)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of Deal with compact prompts."""
    return a_run(tmp_path_factory.mktemp("runs") / "deal")


@pytest.fixture
def folder(run, tmp_path):
    """A run of its own for each test."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text((run / "config.yaml").read_text())
    return tmp_path / "run"


def test_two_people_play_deal_to_the_end_and_it_is_a_match_like_any_other(folder):
    game = Deal()

    async def go():
        async with open_table(folder, {"play": a_play()}) as (client, persons):
            one, two = pages(client, persons, 2)
            async with one.open(), two.open():
                assert (await one.until("idle"))["game"] == "deal"
                await one.post("sit", alone=False)
                await one.until("lobby")
                await two.post("sit", alone=False)
                first, second = (one, two) if (await one.until("ask", "wait"))["phase"] == "ask" else (two, one)
                asked = await first.until("ask")
                assert asked["kind"] == "act" and asked["seat"] == "first"
                assert await first.post("say", question=asked["question"], text="no tag") == 200
                again = await first.until("ask", question_not=asked["question"])
                assert again["kind"] == "retry" and "error prefix" in again["messages"][-1]["text"]
                assert await first.post("say", question=asked["question"], text="[message] late") == 409
                assert await second.post("say", question=again["question"], text="[message] mine") == 409
                assert await first.post("say", question=again["question"], text="[message] hats please") == 200
                heard = await second.until("ask")
                assert heard["messages"][-1] == {"who": "told", "text": "hats please"}
                counts = heard["seen"]["counts"]
                whole = " ".join(
                    f"{item} {count}" for item, count in zip(("books", "hats", "balls"), counts, strict=True)
                )
                assert await second.post("say", question=heard["question"], text=f"[propose] {whole}") == 200
                last = await first.until("ask", question_not=again["question"])
                none = "[propose] books 0 hats 0 balls 0"
                assert await first.post("say", question=last["question"], text=none) == 200
                done = await first.until("over")
                assert (await second.until("over"))["over"]["roles"]["second"]["who"] == "you"
                return done["over"], [persons.of(page.at.split("/")[2]) for page in (first, second)]

    over, people = asyncio.run(go())
    (episode,) = Matches(folder / "table" / "play")
    assert episode.id.startswith("table/play/deal:") and episode.result.outcome == over["outcome"] == "agreement"
    assert episode.players == dict(zip(("first", "second"), [one.player for one in people], strict=True))
    assert replay(game, episode).result == episode.result and all(turn.seconds is not None for turn in episode.turns)
    assert over["roles"]["second"]["payoff"] == episode.result.returns["second"]
    assert over["roles"]["second"]["seen"]["values"] == episode.scenario.data["values"][1]
    assert next(turn.text for turn in episode.turns if turn.seat == "first") == "no tag"
    assert over == {"you": "first", **ending(game, episode, people[0].player)}
    blind = ending(game, episode, people[0].player, names=False)
    assert {role["who"] for role in blind["roles"].values()} == {"you", "the other side"}


def test_who_does_not_wait_plays_a_script_and_seats_change_from_match_to_match(folder):
    async def go():
        async with open_table(folder, {"play": a_play(partner="skilled", wait_s=3600)}) as (client, persons):
            (one,) = pages(client, persons, 1)
            taken = []
            async with one.open():
                for _ in range(2):
                    assert await one.post("sit", alone=True) == 200
                    await one.until("lobby", "ask", "wait")
                    last = ""
                    while (state := await one.until("ask", "over", question_not=last))["phase"] == "ask":
                        last = state["question"]
                        zero = "[propose] books 0 hats 0 balls 0"
                        text = zero if state["seen"]["partner_proposed"] else "[message] you can have it all"
                        await one.post("say", question=last, text=text)
                    taken.append(state["over"]["you"])
                    assert {role["who"] for role in state["over"]["roles"].values()} == {"you", "skilled"}
        async with open_table(folder, {"play": a_play(partner="skilled")}, blind=True) as (client, _):
            again = Page(client, one.at.split("/")[2])
            async with again.open():
                over = (await again.until("over"))["over"]
                assert {role["who"] for role in over["roles"].values()} == {"you", "the other side"}
        return taken

    assert sorted(asyncio.run(go())) == ["first", "second"]
    assert len(Matches(folder / "table" / "play")) == 2


def test_a_person_who_leaves_ends_their_own_match_alone_and_its_scenario_comes_again(folder):
    async def go():
        async with open_table(folder, {"play": a_play()}, Marked()) as (client, persons):
            people = pages(client, persons, 4)
            async with people[0].open(), people[1].open(), people[2].open(), people[3].open():
                for page in people[:2]:
                    await page.until("idle")
                    await page.post("sit", alone=False)
                await people[0].until("ask", "wait")
                given_up = people[0].state["match"]
                other = asyncio.gather(*(page.play(Marked().scripts()["polite"]) for page in people[2:]))
                await people[0].until("ask", "wait")
                assert await people[0].post("leave") == 200
                asking = next((page for page in people[:2] if page.state["phase"] == "ask"), None)
                if asking is people[1]:
                    await asking.post("say", question=asking.state["question"], text="hello")
                for page in people[:2]:
                    assert "the person left" in (await page.until("lost"))["why"]
                await other
                await asyncio.gather(*(page.play(Marked().scripts()["polite"]) for page in people[:2]))
                return given_up, [page.state["phase"] for page in people]

    given_up, phases = asyncio.run(go())
    assert phases == ["over"] * 4
    stored = {episode.id for episode in Matches(folder / "table" / "play")}
    assert len(stored) == 2 and given_up not in stored and f"{given_up[:-1]}1" in stored
    (failure,) = map(json.loads, (folder / "table" / "play" / "failures.jsonl").read_text().splitlines())
    assert failure["match"] == given_up and failure["reason"] == "the person left"


def test_nobody_answers_in_time(folder):
    async def go():
        async with open_table(folder, {"play": a_play(patience_s=0.2)}, Marked()) as (client, persons):
            one, two = pages(client, persons, 2)
            async with one.open(), two.open():
                for page in (one, two):
                    await page.until("idle")
                    await page.post("sit", alone=False)
                assert "did not answer" in (await one.until("lost"))["why"]

    asyncio.run(go())
    assert len(Matches(folder / "table" / "play")) == 0


@pytest.mark.parametrize("partner", [None, "polite"])
def test_a_restart_returns_to_the_open_question(folder, partner):
    script = Marked().scripts()["polite"]

    async def begin():
        async with open_table(folder, {"play": a_play(partner=partner)}, Marked()) as (client, persons):
            people = pages(client, persons, 1 if partner else 2)
            for page in people:
                async with page.open():
                    await page.until("idle")
            async with people[0].open(), people[-1].open():
                for page in people:
                    await page.post("sit", alone=False)
                said = 0
                while said < (1 if partner else 2):
                    asking = next((each for each in people if each.state["phase"] == "ask"), None)
                    if asking is None:
                        await asyncio.sleep(0.01)
                        continue
                    await asking.post("say", question=(last := asking.state["question"]), text=f"word {said}")
                    said += 1
                    await asking.until("ask", "wait", question_not=last)
                asking = None
                while asking is None:
                    asking = next((each for each in people if each.state["phase"] == "ask"), None)
                    await asyncio.sleep(0.01)
                return [page.at.split("/")[2] for page in people], people.index(asking), asking.state

    async def go_on(tokens, number, before):
        async with open_table(folder, {"play": a_play(partner=partner)}, Marked()) as (client, _):
            people = [Page(client, token) for token in tokens]
            async with people[0].open(), people[-1].open():
                state = await people[number].until("ask")
                assert {key: state[key] for key in ("question", "messages", "match", "seat", "seen")} == {
                    key: before[key] for key in ("question", "messages", "match", "seat", "seen")
                }
                for page in people:
                    if page is not people[number]:  # whose turn it is not sees what they said
                        assert (await page.until("wait"))["messages"][-1]["who"] == "you"
                while any(page.state["phase"] != "over" for page in people):
                    for page in people:
                        if page.state["phase"] == "ask":
                            asked = page.state["question"]
                            await page.post("say", question=asked, text=f"later {asked}")
                            await page.until("ask", "wait", "over", question_not=asked)
                    await asyncio.sleep(0.01)

    tokens, number, before = asyncio.run(begin())
    with open(folder / "table" / "play" / "open-0.jsonl", "a") as file:
        file.write('{"match": "torn')
    asyncio.run(go_on(tokens, number, before))
    (episode,) = Matches(folder / "table" / "play")
    assert replay(Marked(), episode).result == episode.result and len(episode.turns) == 4
    assert "word 0" in [turn.text for turn in episode.turns]
    if partner:
        assert script.__name__ and sum(turn.text.startswith("hello") for turn in episode.turns) == 2


def test_no_byte_to_a_chair_before_the_end_holds_the_others_word(folder):
    game = Marked(50)
    words = [word for each in game.scenarios("test") for word in each.data["words"]]

    async def go():
        async with open_table(folder, {"play": a_play()}, game) as (client, persons):
            people = pages(client, persons, 10)

            async def one(page):
                async with page.open():
                    await page.until("idle")
                    await page.play(game.scripts()["polite"], 10)

            await asyncio.gather(*map(one, people))
            return people

    people = asyncio.run(go())
    stored = list(Matches(folder / "table" / "play"))
    assert len(stored) == 50 == len({episode.scenario.id for episode in stored})
    for page in people:
        found: list[set[str]] = [set()]  # the words in all bytes, match by match
        for line in page.raw:
            if b'"phase": "over"' in line:
                assert sum(word in line.decode() for word in words) == 2  # afterwards both are told
                found += [set()] if found[-1] else []
            else:
                found[-1] |= {word for word in words if word in line.decode()}
        seen = [state["seen"]["word"] for state in page.states if state["phase"] == "ask"]
        assert [list(each) for each in found if each] == [[word] for word in dict.fromkeys(seen)] and len(found) == 11


def test_who_waits_is_told_how_much_others_have_written_and_who_is_asked_is_not(folder, monkeypatch):
    others = {f"table/play/s{n}/0/right": 37 for n in range(50)} | {f"table/play/s{n}/1/left": 90 for n in range(50)}
    monkeypatch.setattr(Sitting, "underway", lambda self: others)
    monkeypatch.setattr("parley.table.play.TELL_S", 0.0)

    async def go():
        async with open_table(folder, {"play": a_play()}, Marked()) as (client, persons):
            one, two = pages(client, persons, 2)
            async with one.open(), two.open():
                for page in (one, two):
                    await page.post("sit", alone=False)
                while "ask" not in (one.state["phase"], two.state["phase"]):
                    await asyncio.sleep(0.005)
                asked, waits = (one, two) if one.state["phase"] == "ask" else (two, one)
                while not waits.writing:
                    await asyncio.sleep(0.005)
                assert waits.writing == [{"writing": {"right": 30}}]  # of this match alone, and not to the token
                assert not any(each["writing"] for each in asked.writing)
                assert await asked.post("say", question=asked.state["question"], text="hello") == 200
                while not any(each["writing"] for each in asked.writing):
                    await asyncio.sleep(0.005)
                return len(waits.writing)

    assert asyncio.run(go()) < 10  # said once, not whenever it is looked at


def test_a_payoff_is_drawn_for_each_match_told_to_both_and_stored(folder):
    payoffs, script = ["self", "coop", "comp"], Deal().scripts()["fair"]

    async def go(people=2, matches=4):
        async with open_table(folder, {"play": a_play(payoffs=payoffs)}) as (client, persons):
            sitting = pages(client, persons, people)
            async with sitting[0].open(), sitting[1].open():
                for page in sitting:
                    await page.until("idle", "over")
                await asyncio.gather(*(page.play(script, matches) for page in sitting))
            return sitting

    sitting = asyncio.run(go())
    sitting += asyncio.run(go(matches=2))  # the draw goes on after a restart
    found = {each.id: each for each in Matches(folder / "table/play")}
    order = [row["match"] for row in read_jsonl(folder / "table/play/seatings.jsonl")]
    config = OmegaConf.load(folder / "config.yaml")
    game = instantiate(config.game)
    drawn = [rng(config.seed, "payoff", number).choice(payoffs) for number in range(6)]
    assert [found[match].scenario.data["payoff"] for match in order] == drawn and len({*drawn}) > 1
    for page in sitting:
        for state in page.states:
            if state["phase"] in ("ask", "wait"):
                assert state["aim"] == game.aim(found[state["match"]].scenario)
    for each in found.values():
        assert replay(game, each).result == each.result
        for seat in each.players:
            own = at_seat(each, seat)
            assert own[f"payoff_{each.scenario.data['payoff']}"] == 1.0
            assert Expression("payoff_self + 2 * payoff_coop + 3 * payoff_comp")(own) == 1.0 + payoffs.index(
                each.scenario.data["payoff"]
            )


@pytest.mark.parametrize(("payoffs", "game", "told"), [(["self"], Marked(), "one payoff alone"), (["x"], None, "'x'")])
def test_payoffs_that_the_game_does_not_have_are_told_before_anybody_comes(folder, payoffs, game, told):
    async def go():
        async with open_table(folder, {"play": a_play(payoffs=payoffs)}, game):
            pass

    with pytest.raises(ConfigError, match=told):
        asyncio.run(go())


def test_bookings_survive_and_a_bad_line_names_itself(folder, tmp_path):
    async def go():
        async with open_table(folder, {"play": a_play(partner="polite", matches=1)}, Marked()) as (client, persons):
            (one,) = pages(client, persons, 1)
            async with one.open():
                await one.until("idle")
                await one.play(Marked().scripts()["polite"])
                return await one.post("sit", alone=False)

    assert asyncio.run(go()) == 409  # one match a person
    path = folder / "table" / "play"
    found = Bookings(path, EpisodeStore(path, None))
    (booked,) = {each.match: each for each in found.last.values()}.values()
    assert not found.open
    assert booked.over == "played" and set(booked.players) == {*seats(Marked(), booked.scenario)}
    (path / "seatings.jsonl").write_text('{"match": "x"}\n')
    with pytest.raises(ValueError, match=r"seatings\.jsonl, line 1: lacks the key 'scenario'"):
        Bookings(path, EpisodeStore(path, None))


def test_a_service_that_nobody_can_serve_is_told_before_anybody_comes(folder):
    def nobody():
        raise InputError("nobody judges: say players.judge=NAME")

    async def go():
        game = Marked()
        game.services = {"judge": Tool(nobody)}
        async with open_table(folder, {"play": a_play()}, game):
            pass

    with pytest.raises(InputError, match=r"nobody judges: say players\.judge=NAME"):
        asyncio.run(go())
