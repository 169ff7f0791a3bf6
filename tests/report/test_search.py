"""Search across runs: pages equal a plain filter and sort, indexes follow their stores, nothing foreign gets out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from parley.data.store import EpisodeStore, encode
from parley.games.deal import Deal
from parley.report.estimates import values
from parley.report.search import Query, Search
from parley.report.traits import traits
from parley.run.match import play_match

LONG = 60.0  # seconds of reading: all there is


@pytest.fixture(scope="module")
def base():
    game = Deal()
    return play_match(game, dict.fromkeys(game.roles, "fair"), game.scenarios("train")[0])


def some(base, stage, count, seed=0):
    """Matches whose outcomes and metrics are drawn, with many ties; some lack a metric."""
    chance = Random(f"{stage} {seed}")
    for number in range(count):
        metrics = {name: chance.randrange(5) for name in ("score", "words") if chance.random() < 0.9}
        result = replace(base.result, outcome=chance.choice(["agreement", "cap"]), metrics=metrics)
        yield replace(base, id=f"{stage}/s{number}/{seed}", result=result)


def stored(folder, found):
    with EpisodeStore(folder) as store:
        for each in found:
            store.append(each)
    return found


def searched(search, runs, query, count):
    """All pages, one after the other."""
    found, after = [], None
    while page := search.find(runs, query, after, count):
        found += page
        after = page[-1].place
    return found


@pytest.mark.parametrize("count", [1, 7, 1000])
def test_pages_equal_a_plain_filter_and_sort(base, tmp_path, count):
    runs, all_of = {}, {}
    for key in ("b", "a"):
        runs[key] = tmp_path / key
        own = [
            each
            for stage in ("iter_001/eval/sampled", "iter_000/play")
            for each in stored(tmp_path / key / stage, [*some(base, stage, 23, key)])
        ]
        all_of[key] = {each.id: each for each in own}
    search = Search(tmp_path / "indexes")
    assert search.refresh(runs, LONG) == 0
    assert search.words(runs, "outcome") == ["agreement", "cap"] and search.words(runs, "metric") == ["score", "words"]
    for query in (
        Query(), Query("cap"), Query(metric="words"), Query("cap", "score", 2), Query("", "score", 1, 3),
        Query("agreement", "words", most=2.5), Query("no such"), Query("", "no such"), Query("cap", "score", 9),
    ):  # fmt: skip
        found = searched(search, runs, query, count)
        places = [(-each.place.value, [*runs].index(each.place.run), -each.place.number) for each in found]
        assert len(set(places)) == len(places)
        assert places == sorted(places, key=None if query.metric else lambda each: each[1:])
        plain = [
            (key, each.id, values(each)[query.metric] if query.metric else 0.0)
            for key, own in all_of.items()
            for each in own.values()
            if query.outcome in ("", each.result.outcome)
            and (not query.metric or query.least <= values(each).get(query.metric, float("nan")) <= query.most)
        ]
        assert sorted((each.place.run, each.traits.match, each.place.value) for each in found) == sorted(plain)
        assert all(each.traits == traits(all_of[each.place.run][each.traits.match]) for each in found)
        assert all(each.traits.match.startswith(each.stage) for each in found)


def test_an_index_follows_its_stores_and_is_made_anew_where_they_are_others(base, tmp_path):
    run, stage = tmp_path / "run", "iter_001/play"
    runs, search = {"r": run}, Search(tmp_path / "indexes")
    matches = [*some(base, stage, 30)]
    stored(run / stage, matches[:10])

    def held():
        search.refresh(runs, LONG)
        return {each.traits.match for each in searched(search, runs, Query(), 100)}

    assert held() == {each.id for each in matches[:10]}
    with open(run / stage / "0.jsonl", "ab") as file:
        file.write(encode(matches[10]) + encode(matches[11])[:40])  # a line that is being written
    assert held() == {each.id for each in matches[:11]}
    assert search.episode("r", run, matches[10].id) == matches[10]
    stored(run / stage, matches[11:20])  # cuts the torn line off
    assert held() == {each.id for each in matches[:20]}
    (run / stage / "0.jsonl").write_bytes(b"".join(map(encode, matches[20:])))  # the same file with others in it
    with pytest.raises(KeyError):
        search.episode("r", run, matches[10].id)
    assert held() == {each.id for each in matches[20:]}
    for harm in (b"no database at all", b"SQLite format 3\0" + b"\xff" * 5000):
        (tmp_path / "indexes" / "r.sqlite").write_bytes(harm)
        assert held() == {each.id for each in matches[20:]}
    (run / stage / "0.jsonl").unlink()
    assert held() == set() and search.find(runs, Query("cap"), None, 5) == []


def test_reading_stops_when_its_time_is_up_and_goes_on_the_next_time(base, tmp_path):
    stored(tmp_path / "run" / "iter_000/play", matches := [*some(base, "iter_000/play", 5)])
    runs, search = {"r": tmp_path / "run"}, Search(tmp_path / "indexes")
    assert search.refresh(runs, -1.0) == sum(len(encode(each)) for each in matches)
    assert search.find(runs, Query(), None, 9) == []
    assert search.refresh(runs, LONG) == 0 and len(search.find(runs, Query(), None, 9)) == 5


def test_nothing_of_people_and_nothing_from_outside_of_a_run_is_found(base, tmp_path):
    run, stage = tmp_path / "run", "iter_001/play"
    good, person, terminal, consented = some(base, stage, 4)
    stored(run / stage, [
        good,
        replace(person, players={"first": "person:ab", "second": "fair"}),
        replace(terminal, players={"first": "human", "second": "fair"}),
        replace(consented, extra={"consent": {"first": {"training": True}}}),
    ])  # fmt: skip
    stored(run / "table/play", [*some(base, "table/play", 3)])
    stored(tmp_path / "elsewhere", [*some(base, "elsewhere", 3)])
    (run / "iter_001/eval").mkdir()
    (run / "iter_001/eval/sampled").symlink_to(tmp_path / "elsewhere")
    (run / stage / "1.jsonl").symlink_to(tmp_path / "elsewhere" / "0.jsonl")
    (run / stage / "open-0.jsonl").write_bytes(encode(replace(good, id="open")))
    with open(run / stage / "2.jsonl", "wb") as file:
        file.write(b"\xff\n{}\n[1]\n" + b"[" * 100_000 + b"\n" + json.dumps({"id": 3}).encode() + b"\n")
        file.write(encode(replace(good, id="x\x1b[2J\u202e", scenario=replace(good.scenario, id="<b>"))))
    runs, search = {"r": run}, Search(tmp_path / "indexes")
    assert search.refresh(runs, LONG) == 0
    found = {each.traits.match for each in search.find(runs, Query(), None, 99)}
    assert found == {good.id, "x�[2J�"}
    for match in (person.id, terminal.id, consented.id, "table/play/s0/0", "open"):
        with pytest.raises(KeyError):
            search.episode("r", run, match)
    assert not list(Path(run).rglob("*.sqlite*"))
