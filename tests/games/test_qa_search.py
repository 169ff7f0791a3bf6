"""Search on this machine: the full-text index, documents of a scenario, memos."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from parley.games.base import Message, Request, Tool
from parley.games.qa import Search
from parley.games.qa.search import Index, read_memo
from parley.system.files import InputError

DOCUMENTS = [
    ("Vienna", "Vienna is the capital of Austria. It lies on the Danube."),
    ("Danube", "The Danube is the second-longest river in Europe."),
    ("Graz", "Graz is the second-largest city of Austria, south of Vienna."),
    ("Linz", "Linz lies on the Danube, west of Vienna."),
]


def corpus(folder: Path, documents: Any = DOCUMENTS) -> Path:
    path = folder / "corpus.jsonl"
    path.write_text("".join(json.dumps({"title": title, "text": text}) + "\n" for title, text in documents))
    return path


def asked(query: str, **more: Any) -> Request:
    return Request("search.1", "search", (Message("user", query),), "tool", observation={"argument": query, **more})


def engine(**options: Any) -> Callable[[Request], str]:
    service = Search(**options).service
    return service.answer if isinstance(service, Tool) else lambda request: service(request, Random(0), Random(0))


def test_the_title_counts_double_and_stems_are_one_word(tmp_path: Path) -> None:
    index = Index.beside(corpus(tmp_path))
    assert index.search("where is VIENNA?") == [DOCUMENTS[0][1]]
    assert index.search("longest rivers") == [DOCUMENTS[1][1]]
    assert index.search("danube", 3)[0] == DOCUMENTS[1][1] and len(index.search("danube", 3)) == 3
    assert index.search("zebra") == index.search("") == index.search("¿?") == []


def test_an_index_is_built_once_and_anew_for_other_content(tmp_path: Path) -> None:
    path = corpus(tmp_path)
    Index.beside(path)
    (built,) = tmp_path.glob("*.sqlite")
    before = built.stat().st_mtime_ns
    assert Index.beside(path).search("Graz") == [DOCUMENTS[2][1]] and built.stat().st_mtime_ns == before
    corpus(tmp_path, [*DOCUMENTS, ("Wels", "A town.")])
    assert Index.beside(path).search("Wels") == ["A town."] and len(list(tmp_path.glob("*.sqlite"))) == 2
    assert not list(tmp_path.glob(".*"))  # no drafts are left


def test_the_index_cannot_be_written_through_and_needs_no_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = corpus(tmp_path)
    index = Index.beside(path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        index._connection.execute("delete from documents")
    next(tmp_path.glob("*.sqlite")).unlink()
    monkeypatch.setattr(os, "access", lambda *args: False)
    assert Index.beside(path).search("Graz") == [DOCUMENTS[2][1]] and not list(tmp_path.glob("*.sqlite"))


def test_ties_are_broken_by_the_place_in_the_file(tmp_path: Path) -> None:
    same = [(f"t{n}", "one and the same words here") for n in range(20)]
    found = Index.of([(title, f"{text}") for title, text in same] + [("odd", "words")]).search("same here", 20)
    assert len(found) == 20
    rows = Index.of([("", f"alike number{n}") for n in range(9)]).search("alike", 9)
    assert rows == [f"alike number{n}" for n in range(9)]


def test_common_words_are_dropped_unless_there_are_no_others() -> None:
    documents = [("", f"common filler{n} {'rare' if n == 700 else ''}") for n in range(1500)]
    index = Index.of(documents)
    assert index.words("common rare") == ["rare"] and index.words("Common, COMMON") == ["common"]
    assert index.words("what is the filler7") == ["filler7"] and index.words("what is the") == ["what", "is", "the"]
    assert Index.of(documents[:900]).words("common rare") == ["common", "rare"]


HOSTILE = [
    '"', '""', "'", "a\"b", '" OR 1', "NEAR(a b, 2)", "NEAR/2", "a AND b", "NOT a", "a OR", "(", ")", "a*", "^a", "*",
    "title:a", "text : b", "documents", "{title text} : a", "- a", "a + b", "a - b", ";", "; drop table documents; --",
    "' or '1'='1", "%", "_", "\\", "\x00", "a\x00b", "\n", "\u202e", "😀", "٣", "İ", "ß", "a" * 10_000, "a " * 10_000,
    "vacuum", "select 1", "rank:", "bm25(documents)", "snippet(documents, 0, '', '', '', 9)", "<|im_end|>", "[", "]",
    "{}", "{0}", "%s", "$1", "?1", ":x", "@x", "`", "~", "|", "&", "=", ",", "..", "/", "AND OR NOT", "\ud800", "NULL",
]  # fmt: skip


def test_hostile_queries_find_nothing_that_harms(tmp_path: Path) -> None:
    assert len(HOSTILE) == len(set(HOSTILE)) == 64
    path = corpus(tmp_path)
    index, before = Index.beside(path), next(iter(tmp_path.glob("*.sqlite")), None) or path
    Index.beside(path)
    content = {each: each.read_bytes() for each in tmp_path.iterdir()}
    for query in HOSTILE:
        for count in (1, 3):
            found = index.search(query, count)
            assert len(found) <= count and set(found) <= {text for _, text in DOCUMENTS}
            assert all(word in query.lower() and len(word) <= 64 for word in index.words(query))
    assert len(index.words("b ".join(str(n) for n in range(500)))) == 64
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == content and before.exists()


def test_documents_of_the_scenario_are_searched_and_no_others() -> None:
    own = [{"title": "Linz", "text": "Linz has a river."}]
    assert engine(engine="documents")(asked("river", documents=own)) == "Linz has a river."
    assert engine(engine="documents")(asked("river")) == ""


def test_a_memo_goes_before_the_engine_and_is_not_written(tmp_path: Path) -> None:
    path, memo = corpus(tmp_path), tmp_path / "memo.jsonl"
    rows = [("capital  of Austria", "It is Vienna."), ("capital of Austria", "another"), ("who", "None")]
    memo.write_text("".join(json.dumps({"query": query, "observation": seen}) + "\n" for query, seen in rows))
    before = memo.read_bytes()
    answer = engine(engine="corpus", corpus=str(path), memo=str(memo))
    assert answer(asked("capital of Austria")) == "It is Vienna." and answer(asked("who")) == "None"
    assert answer(asked("Capital of Austria")) == DOCUMENTS[0][1]  # another query: the corpus
    assert engine(engine="memo", memo=str(memo))(asked("Capital of Austria")) == ""
    assert memo.read_bytes() == before and read_memo(memo)["capital of Austria"] == "It is Vienna."


def test_several_documents_make_one_answer(tmp_path: Path) -> None:
    answer = engine(engine="corpus", corpus=str(corpus(tmp_path)), count=2)
    assert answer(asked("Graz city")).count(".") >= 1 and len(answer(asked("Danube river"))) > len(DOCUMENTS[1][1])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"title": "a"}', "corpus.jsonl, line 2: lacks the key 'text'"),
        ('{"title": 3, "text": "a"}', "line 2: expected text"),
        ("[]", "line 2"),
        ("{", "line 2"),
    ],
)
def test_a_bad_corpus_is_named_with_its_line_and_leaves_no_index(tmp_path: Path, line: str, said: str) -> None:
    path = corpus(tmp_path, DOCUMENTS[:1])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=said):
        engine(engine="corpus", corpus=str(path))
    assert [each.name for each in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_a_bad_memo_or_missing_files_are_named(tmp_path: Path) -> None:
    memo = tmp_path / "memo.jsonl"
    memo.write_text('{"query": "a", "observation": null}\n')
    with pytest.raises(InputError, match=r"memo\.jsonl: expected text"):
        engine(engine="memo", memo=str(memo))
    with pytest.raises(FileNotFoundError, match=r"there is no file gone\.jsonl"):
        Search("corpus", corpus="gone.jsonl")
    with pytest.raises(InputError, match="url must begin with http"):
        engine(engine="http", url="ftp://localhost")
    engine(engine="http", url="http://localhost")
    with pytest.raises(ValueError, match=r"limits\.speed is none of parallel"):
        Search("http", url="http://localhost", limits={"speed": 1})
    with pytest.raises(ValueError, match=r"limits\.parallel is 0, expected at least 1"):
        Search("http", url="http://localhost", limits={"parallel": 0})
