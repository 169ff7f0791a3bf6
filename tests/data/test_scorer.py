import pytest
from parley.data.scorer import RuleScorer, Scored, read_scored, read_scores, write_scores
from parley.data.store import EpisodeStore, Matches
from parley.games.base import Result
from test_episode import episode


def test_the_rules_own_scores_for_each_seat():
    result = Result({"a": 3.0, "b": 1.0}, "deal", metrics={"joint": 4.0, "score": {"a": 6, "b": 2}})
    assert RuleScorer()(episode(result=result)) == {
        "return": {"a": 3.0, "b": 1.0},
        "joint": {"a": 4.0, "b": 4.0},
        "score": {"a": 6, "b": 2},
    }


def test_scores_stand_beside_the_episodes_and_can_be_made_again(tmp_path):
    path = tmp_path / "scores.jsonl"
    with EpisodeStore(tmp_path) as store:
        for number in (2, 0, 1):
            store.append(episode(id=f"m/{number}", result=Result({"a": float(number), "b": 0.0}, "end")))
        shard = (tmp_path / "0.jsonl").read_bytes()
        write_scores(path, RuleScorer(), Matches(store.folder))
        first = path.read_bytes()
        write_scores(path, RuleScorer(), Matches(store.folder))
        assert path.read_bytes() == first
        assert [(match, scores["return"]["a"]) for match, scores in read_scores(path)] == [
            ("m/0", 0.0),
            ("m/1", 1.0),
            ("m/2", 2.0),
        ]
        assert list(read_scored(path, Matches(store.folder))) == [
            Scored(one, RuleScorer()(one)) for one in store.read(ordered=True)
        ]
        assert (tmp_path / "0.jsonl").read_bytes() == shard
        assert len(store.ids()) == 3  # the scores are no shard


def test_scores_of_other_episodes_are_refused(tmp_path):
    path = tmp_path / "scores.jsonl"
    with EpisodeStore(tmp_path) as store:
        store.append(episode(id="m/1"))
        write_scores(path, RuleScorer(), Matches(store.folder))
        store.append(episode(id="m/2"))
        with pytest.raises(ValueError, match="has the scores of nothing where m/2 is stored: run the scorer again"):
            list(read_scored(path, Matches(store.folder)))
        write_scores(path, RuleScorer(), Matches(store.folder))
    with EpisodeStore(tmp_path / "fewer") as store:
        store.append(episode(id="m/1"))
        with pytest.raises(ValueError, match="scores of m/2, which is not stored"):
            list(read_scored(path, Matches(store.folder)))
    path.write_text('{"id": "m/1"}\n')
    with pytest.raises(ValueError, match=r"scores\.jsonl, line 1: lacks the key 'scores'"):
        list(read_scores(path))
