import errno
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace

import pytest
from parley.data.store import EpisodeStore, encode
from test_episode import TURNS, episode


def numbered(*numbers):
    return [episode(TURNS, id=f"play/s-1/{number}", seed=number) for number in numbers]


def fill(folder, *numbers, shard=0):
    with EpisodeStore(folder, shard) as store:
        for one in numbered(*numbers):
            store.append(one)


def test_what_is_appended_is_read_back_equal_from_all_shards(tmp_path):
    fill(tmp_path, 3, 1)
    fill(tmp_path, 10, 2, shard=10)
    fill(tmp_path, 0, shard=2)
    fill(tmp_path, 4)
    (tmp_path / "scores.jsonl").write_text("not a shard\n")
    store = EpisodeStore(tmp_path, None)
    assert list(store.read()) == numbered(3, 1, 4, 0, 10, 2)
    assert list(store.read(ordered=True)) == numbered(0, 1, 10, 2, 3, 4)
    assert store.ids() == {f"play/s-1/{number}" for number in (0, 1, 2, 3, 4, 10)}
    assert (store.torn, store.duplicates) == (0, 0)


def test_a_line_is_the_json_of_the_episode(tmp_path):
    one = episode(TURNS)
    assert json.loads(encode(one)) == json.loads(json.dumps(one.to_json()))
    assert encode(one).count(b"\n") == 1
    assert encode(one).isascii()


def test_an_empty_or_missing_folder_has_no_episodes(tmp_path):
    store = EpisodeStore(tmp_path / "none", None)
    assert (store.ids(), list(store.read()), list(store.read(ordered=True))) == (set(), [], [])
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match="reading only"):
        store.append(episode())


def test_torn_at_every_byte_the_line_is_cut_and_the_match_owed(tmp_path):
    whole = b"".join(encode(one) for one in numbered(1, 2))
    start, path = len(encode(numbered(1)[0])), tmp_path / "0.jsonl"
    for end in range(start, len(whole) + 1):
        path.write_bytes(whole[:end])
        complete = end == len(whole)
        assert EpisodeStore(tmp_path, None).ids() == ({"play/s-1/1", "play/s-1/2"} if complete else {"play/s-1/1"})
        assert path.stat().st_size == end  # a reader repairs nothing
        with EpisodeStore(tmp_path) as store:
            assert store.torn == (start < end < len(whole))
            if not complete:
                store.append(numbered(2)[0])
        assert path.read_bytes() == whole


def test_a_torn_line_longer_than_the_blocks_of_the_search(tmp_path):
    long = episode(id="long", players={"a": "x" * 200_000, "b": "y"})
    for before in ([], numbered(1)):
        whole = b"".join(encode(one) for one in before)
        (tmp_path / "0.jsonl").write_bytes(whole + encode(long)[:-1])
        with EpisodeStore(tmp_path) as store:
            assert store.torn == 1
        assert (tmp_path / "0.jsonl").read_bytes() == whole


def test_the_torn_tail_of_another_shard_is_left_to_its_owner(tmp_path):
    fill(tmp_path, 1)
    (tmp_path / "1.jsonl").write_bytes(encode(numbered(2)[0])[:50])
    with EpisodeStore(tmp_path, 0) as store:
        assert store.ids() == {"play/s-1/1"}
        assert list(store.read()) == list(store.read(ordered=True)) == numbered(1)
    assert (tmp_path / "1.jsonl").stat().st_size == 50


FOREIGN = {
    "no json": b"hello\n",
    "another object": b'{"game": "chess"}\n',
    "another schema": encode(numbered(9)[0]).replace(b'"schema":2', b'"schema":3'),
    "a list": b"[1, 2]\n",
    "an empty line": b"\n",
    "not text": b"\xff\xfe\x00\n",
    "a half line": encode(numbered(9)[0])[:80] + b"\n",
    "an unknown field": encode(numbered(9)[0]).replace(b'"outcome":', b'"extra":1,"outcome":'),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_line_is_refused_with_file_and_number(tmp_path, name):
    fill(tmp_path, 1, 2)
    with open(tmp_path / "0.jsonl", "ab") as file:
        file.write(FOREIGN[name])
    fill(tmp_path, 3)
    for ordered in (False, True):
        with pytest.raises(ValueError, match=r"0\.jsonl, line 3: "):
            list(EpisodeStore(tmp_path, None).read(ordered))
    if name != "an unknown field":  # the ids are found without reading what lies between head and end
        with pytest.raises(ValueError, match=r"0\.jsonl, line 3: "):
            EpisodeStore(tmp_path, None).ids()


def test_the_schema_error_says_which(tmp_path):
    (tmp_path / "0.jsonl").write_bytes(FOREIGN["another schema"])
    with pytest.raises(ValueError, match="episode schema 3, this parley reads 1 and 2"):
        EpisodeStore(tmp_path, None).ids()


def test_the_first_of_two_lines_with_one_id_stands(tmp_path):
    fill(tmp_path, 1, 2)
    with EpisodeStore(tmp_path, 1) as store:
        store.append(replace(numbered(2)[0], seed=77))
        for ordered in (False, True):
            assert list(store.read(ordered)) == numbered(1, 2)
            assert store.duplicates == 1


def test_an_episode_that_is_not_plain_json_is_refused_and_leaves_no_trace(tmp_path):
    with EpisodeStore(tmp_path) as store:
        for bad in (float("nan"), float("inf"), {1, 2}, object()):
            with pytest.raises(ValueError, match="match play/s-1/0 cannot be stored"):
                store.append(episode(players={"a": bad, "b": ""}))
        store.append(episode())
        assert list(store.read()) == [episode()]


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_store import EpisodeStore, numbered
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
store = EpisodeStore(sys.argv[1])
try:
    for one in numbered(*range(100)):
        store.append(one)
except OSError as error:
    print(error.errno, error)
    store.close()
"""


def test_B07_a_full_disk_is_one_clear_error_and_the_file_stays_whole(tmp_path):
    size = len(encode(numbered(1)[0]))
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), os.path.dirname(__file__), str(size * 5 // 2)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{errno.EFBIG} ")
    assert "the matches before are stored" in done.stdout and "0.jsonl" in done.stdout
    assert list(EpisodeStore(tmp_path, None).read()) == numbered(0, 1)
    assert (tmp_path / "0.jsonl").stat().st_size == 2 * size
    fill(tmp_path, 2)
    assert list(EpisodeStore(tmp_path, None).read()) == numbered(0, 1, 2)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_without_a_single_byte_left(tmp_path):
    (tmp_path / "0.jsonl").symlink_to("/dev/full")
    store = EpisodeStore(tmp_path)
    with pytest.raises(OSError, match="cannot append"):
        store.append(episode())
    with pytest.raises(ValueError, match="closed"):
        store.append(episode())
    store.close()


def test_reading_holds_one_episode_at_a_time(tmp_path):
    with EpisodeStore(tmp_path) as store:
        for number in range(300):
            store.append(episode(id=str(number), players={"a": "x" * 100_000, "b": ""}))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert (
            sum(len(one.players["a"]) for one in store.read())
            == sum(len(one.players["a"]) for one in store.read(True))
            == 30_000_000
        )
        assert len(store.ids()) == 300
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # KiB; the file has 30 MB
