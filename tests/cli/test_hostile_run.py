"""A hostile run folder, opened by every task: nothing of it is run, and nothing is written but the task's own folder.

The tasks run in a process with an audit hook, which sees every file that is opened, every process and every connection.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

OLD = Path(__file__).parents[1] / "fixtures/run_0_1_0"
MATCH = "iter_001/play/deal:1-3-1:0-1-7:3-1-4/0"
LOOKING = [
    f"task=show match={MATCH}",
    f"task=replay match={MATCH}",
    "task=export",
    "task=export task.keep=all",
    "task=plan",
]
USING = [
    "task=merge", "task=learn", "task=play", "task=tournament", "task=benchmark", "task=exploit game=kuhn",
    "task=exploiter task.target=fair", "task=judge scorer=judge players.judge=fair", "task=table table.port=0",
    "task=people", "task=dimensions", "task=report",
]  # fmt: skip
READING = ["task=runs task.folders=[{run}]", "task=compare runs=[{run},{run}@0]"]  # figures and configs, nothing else
SEATED = "opponents.old.path={run} players.second=old"
KINDS = ("nodes", "words", "tags", "paths")
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate")
RUNS = (
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "pickle.find_class", "socket.connect"
)  # fmt: skip
PROCESSES = ("git", "uname")


def evil(outside: Path) -> dict[str, Any]:
    """Nodes that would write, run or load if they were built."""
    write = {"_target_": "parley.system.files.write_text", "path": str(outside / "written"), "text": "x"}
    return {
        "game": write,
        "scorer": write | {"text": "scorer"},
        "model": {"_target_": "torch.load", "f": str(outside / "x.pt"), "weights_only": False},
        "backend": {"_target_": "os.system", "command": f"touch {outside}/ran"},
        "objective": {"credit": {"_target_": "subprocess.getoutput", "cmd": f"touch {outside}/ran"}, "loss": write},
        "schedule": {"iter_001": {"objective": {"credit": {"_target_": "builtins.eval"}}}},
        "policies": {"learner": {"objective": {"credit": write}}},
        "data": {"_target_": "parley.data.sources.lewis.LewisDialogues", "path": str(outside)},
    }


def hostile(folder: Path, kind: str) -> Path:
    """A run that somebody sent, and what lies beside it."""
    run, outside = folder / "sent", folder / "outside"
    shutil.copytree(OLD, run)
    outside.mkdir()
    (outside / "x.pt").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    config = yaml.safe_load((run / "config.yaml").read_text())
    if kind == "nodes":
        (run / "config.yaml").write_text(json.dumps(config | evil(outside)))  # which is YAML, without aliases
    elif kind == "words":
        config |= {"game": config["game"] | {"contexts": f"${{parley.run:x,{outside}/made}}", "x": "${oc.env:HOME}"}}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    elif kind == "tags":
        (run / "config.yaml").write_text(f"a: !!python/object/apply:os.system ['touch {outside}/ran']")
    for stage in ("iter_000/start", "iter_001/learn"):
        path = run / stage / "stage.json"
        data = json.loads(path.read_text())
        data["outputs"]["snapshot"] |= {"path": "../outside", "base": "../outside"}
        path.write_text(json.dumps(data))
    (outside / "config.json").write_text('{"model_type": "llama", "auto_map": {"AutoModelForCausalLM": "evil.Model"}}')
    (outside / "evil.py").write_text("open('ran', 'w')")
    shutil.copy(outside / "x.pt", outside / "pytorch_model.bin")
    (run / ".hydra/overrides.yaml").write_text(f"- hydra.run.dir={outside}/made\n- '+x=${{oc.env:HOME}}'\n")
    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="folders are found by /proc")
def test_A1_a_hostile_run_folder_runs_nothing_and_writes_nothing(tmp_path: Path) -> None:
    runs = {kind: hostile(tmp_path / kind, kind) for kind in KINDS}
    before, mine = {kind: contents(tmp_path / kind) for kind in KINDS}, tmp_path / "mine"
    commands = [(kind, f"{words} run={{run}}") for kind in KINDS for words in LOOKING]
    commands += [("nodes", f"{words} run={{run}}") for words in USING] + [("nodes", SEATED), ("paths", SEATED)]
    commands += [(kind, words) for kind in ("nodes", "tags") for words in READING]
    (mine / "tmp").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, __file__, json.dumps([words.format(run=runs[kind]) for kind, words in commands])],
        cwd=mine, capture_output=True, text=True, check=False,
        env={
            **os.environ, "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(mine / "tmp"),
            "TORCHINDUCTOR_CACHE_DIR": str(mine / "tmp/inductor"),  # torch sets it in tests that compiled something
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for (kind, words), (code, told, events) in zip(commands, json.loads(done.stdout.splitlines()[-1]), strict=True):
        assert "Traceback" not in told and code in (0, 2), (kind, words, told)
        assert kind in ("words", "paths") or words in READING or code == 2, (kind, words, told)
        assert [each for each in events if not allowed(each, mine)] == [], (kind, words)
    assert {kind: contents(tmp_path / kind) for kind in KINDS} == before


def allowed(event: list[str], mine: Path) -> bool:
    """Whether a task may do this: write into its own folder, and look what it runs on."""
    name, *arguments = event
    if name in ("subprocess.Popen", "os.posix_spawn"):
        return Path(arguments[0]).name in PROCESSES
    return name in ("open", *CHANGES) and Path(arguments[0]).is_relative_to(mine)


# --- the process with the hook ---------------------------------------------------------------------------------------


def watched(commands: list[str]) -> list[Any]:
    """Runs the commands; of each its exit code, what it said, and what it did besides reading."""
    import parley.cli.main as command

    events: list[list[str]] = []

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(given[0], (str, bytes)) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            path = os.path.abspath(os.fsdecode(given[0]))
            events.extend([] if path == "/dev/null" else [[event, path]])
        elif event in CHANGES and isinstance(given[0], (str, bytes)):
            folder = os.readlink(f"/proc/self/fd/{given[-1]}") if type(given[-1]) is int and given[-1] >= 0 else ""
            events.append([event, os.path.abspath(os.path.join(folder, os.fsdecode(given[0])))])
        elif event in RUNS:
            events.append([event, *map(str, given[:2])])

    sys.addaudithook(hook)
    found = []
    for words in commands:
        sys.argv = ["parley", *words.split(), "imitate.matches=0"]
        events.clear()
        told, code = io.StringIO(), 0
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            try:
                command.main()
            except SystemExit as end:
                code = int(end.code or 0)
        found.append((code, told.getvalue(), [list(each) for each in events]))
    return found


if __name__ == "__main__":
    print(json.dumps(watched(json.loads(sys.argv[1]))))
