import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from parley.system.files import (
    InputError,
    Locked,
    append_lines,
    digest,
    lock,
    read_json,
    read_jsonl,
    read_text,
    replacing,
    write_json,
    write_text,
)


def test_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "one\ntwo ü\n")
    assert path.read_bytes() == "one\ntwo ü\n".encode()
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write("half")
        raise ZeroDivisionError
    assert path.read_text() == "one\ntwo ü\n"
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_kill_inside_a_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    code = (
        "import os, sys; from parley.system.files import replacing\nwith replacing(sys.argv[1]) as f: f.write('{'); "
        "f.flush(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    assert json.loads(path.read_text()) == {"a": 1}


def test_json_is_checked_before_the_file_is_touched(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, "x"]})
    assert path.read_text() == '{\n  "b": [\n    1,\n    "x"\n  ]\n}\n'
    for bad in ({"b": float("nan")}, {"b": object()}):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, bad)
    assert json.loads(path.read_text()) == {"b": [1, "x"]}


def test_lines_are_appended_and_read_back_with_their_numbers(tmp_path):
    path = tmp_path / "deep" / "rows.jsonl"
    append_lines(path, ['{"n": 1}', '{"n": 2}'])
    append_lines(path, ['{"n": 3}'])
    assert list(read_jsonl(path)) == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert list(read_jsonl(path, lambda row: row["n"])) == [1, 2, 3]
    append_lines(path, ["nonsense"])
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 4: Expecting value"):
        list(read_jsonl(path))
    path.write_text('{"n": 1}\n{"m": 2}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: lacks the key 'n'"):
        list(read_jsonl(path, lambda row: row["n"]))


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[" * 100_000, b"", b"\0" * 40, b'"text"', b"null"])
def test_B12_no_line_of_a_foreign_file_escapes_the_error(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 1}\n' + line + b"\n")
    with pytest.raises(ValueError, match="line 2"):
        list(read_jsonl(path, lambda row: row["n"]))


def test_B12_a_folder_is_no_file(tmp_path):
    for read in (read_text, read_json, lambda path: list(read_jsonl(path))):
        with pytest.raises(InputError, match=f"{tmp_path}: not a regular file"):
            read(tmp_path)


def test_digests_stand_for_values_files_and_folders(tmp_path):
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert len({digest(value) for value in ({"a": 1}, {"a": 2}, {"a": 1.5}, ["a", 1], "a", None)}) == 6
    assert digest({"a": 1}) == "2c6b113b8dd15ffbded9860b43eb0c6c"  # printf '{"a":1}' | b2sum -l 128
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "x").write_text("same")
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    assert digest(tmp_path / "one" / "sub" / "x") == digest(tmp_path / "two" / "sub" / "x")
    (tmp_path / "two" / "sub" / "x").rename(tmp_path / "two" / "sub" / "y")
    assert digest(tmp_path / "one") != digest(tmp_path / "two")


HOLD = (
    "import sys, time; from parley.system.files import lock\nwith lock(sys.argv[1]): print('held', flush=True); "
    "time.sleep(60)"
)


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            with (
                pytest.raises(Locked, match=f"in use by process {process.pid} on {socket.gethostname()}"),
                lock(tmp_path),
            ):
                pass
        finally:
            process.kill()
    with lock(tmp_path):
        assert Path(tmp_path, ".lock").read_text().startswith(f"process {os.getpid()} on ")
        with pytest.raises(Locked), lock(tmp_path):
            pass
    with lock(tmp_path):
        pass
