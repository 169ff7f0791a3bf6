"""Finds all faults of a composed config before anything is built.

Checks the root and the hardware against their dataclasses, nodes against the signature of their `_target_`, and keys
against each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from ..report.redact import hidden, login, secret
from ..run.config import OWN, SCHEDULED, Config, ConfigError, Opponent, leaves, overlaid
from ..run.contents import SAVED, saved
from ..run.directory import ALIKE, FOLDER_NAME, changed_keys, grown
from ..system.naming import nearest
from .nodes import UNKNOWN, Fault, fits, shape, shown, targets

OF_RUN = "of_run"  # the option of each group that is what a run was begun with
SECRET = "looks like a key, and keys come from the environment only: name the variable that holds it (key_env)"
LOGIN = "holds a login, which the run's files would show: take the address from the environment, ${oc.env:NAME}"
OUTSIDE = ("backend", "learner", "model", "logger", "data", "opponents", "policies")
"""Nodes that contact servers: in them a key's name suffices to treat its value as a secret."""
UNBUILT = dict.fromkeys(
    ("parley.cli.tasks.planning.plan", "parley.cli.tasks.measuring.benchmark"), ("game", "model", "data")
)
"""Nodes that a task may not need: missing values are no faults (wrong values are)."""


def validate(config: DictConfig, choices: Mapping[str, str], out: Path | None = None) -> list[str]:
    """All faults of a composed config, one line each; empty if it can run. Imports the targets, builds nothing.

    `choices` maps groups to chosen options (Hydra's runtime.choices), `out` is the run's directory.
    """
    faults: list[Fault] = []
    plain = _plain(config, "", faults)
    faults = [
        fault
        for fault in faults
        if fault.key.split(".")[0] not in UNBUILT.get(OmegaConf.select(config, "task._target_"), ())
    ]
    faults += shape(plain, Config, "")
    for key, value in plain.items():
        faults += targets(value, key)
    faults += _unchosen(plain)
    faults += _places(plain, out)
    faults += _imitation(plain, faults)
    faults += _schedule(plain, faults)
    faults += _policies(plain, faults)
    faults += _models(plain, {"old": ALIKE["old"], "reference": FIXED})
    faults += _processes(plain, choices)
    faults += _opponents(plain.get("opponents"))
    faults += _secrets(_raw(config))
    lines = [f"{_source(fault.key, config)}: {fault.text}{_where(fault.key, choices)}" for fault in faults]
    written = OmegaConf.to_yaml(config)
    return [hidden(line, written) for line in dict.fromkeys([*lines, *_resumes(config, out)])]


def _secrets(raw: Mapping[str, Any]) -> Iterator[Fault]:
    """Keys and logins that would be stored in the run's files (values from the environment are not)."""
    for key, value in leaves(raw):
        node, _, name = key.partition(".")
        if isinstance(value, str) and value and "${" not in value:
            if secret(name if node in OUTSIDE and not name.endswith("_env") else "", value):
                yield Fault(key, SECRET)
            elif login(value):
                yield Fault(key, LOGIN)


def _where(key: str, choices: Mapping[str, str]) -> str:
    group = key.split(".")[0]
    return f" [{group}/{choices[group]}.yaml]" if choices.get(group, OF_RUN) not in (None, OF_RUN) else ""


def _source(key: str, config: DictConfig) -> str:
    """The key that sets the value of `key`: another one for `${…}`."""
    node, last = _above(key, config)
    if node is None or not OmegaConf.is_interpolation(node, last):
        return key
    plain = re.fullmatch(r"\$\{([\w.]+)\}", str(_raw(node)[last]))
    return plain.group(1) if plain and _above(plain.group(1), config)[0] is not None else key


def _above(key: str, config: DictConfig) -> tuple[DictConfig | None, str]:
    """(the node that holds `key`, or None; the last part of the key)."""
    above, _, last = key.rpartition(".")
    node = OmegaConf.select(config, above) if above else config
    return node if isinstance(node, DictConfig) and last in node else None, last


def _raw(node: DictConfig) -> dict[str, Any]:
    return cast("dict[str, Any]", OmegaConf.to_container(node))


def _plain(node: DictConfig | ListConfig, key: str, faults: list[Fault]) -> Any:
    """The node as plain Python; missing values are reported and become UNKNOWN."""
    items = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    values = {item: _value(node, item, f"{key}.{item}" if key else str(item), faults) for item in items}
    return values if isinstance(node, DictConfig) else list(values.values())


def _value(node: Any, item: Any, key: str, faults: list[Fault]) -> Any:
    if OmegaConf.is_missing(node, item):
        faults.append(Fault(key, f"needs a value: say {key}=…"))
        return UNKNOWN
    try:
        value = node[item]
    except InterpolationToMissingValueError:  # reported at the missing value
        return UNKNOWN
    except OmegaConfBaseException as error:
        faults.append(Fault(key, str(error).splitlines()[0]))
        return UNKNOWN
    return _plain(value, key, faults) if OmegaConf.is_config(value) else value


CHOSEN = ("task", "game", "model", "backend", "learner")


def _unchosen(plain: Mapping[str, Any]) -> Iterator[Fault]:
    """Required nodes without a chosen option."""
    for name in CHOSEN:
        node = plain.get(name)
        if node is not UNKNOWN and not (isinstance(node, Mapping) and "_target_" in node):
            yield Fault(name, f"names no target: choose an option, {name}=… (parley --help lists them)")


def _places(plain: Mapping[str, Any], out: Path | None) -> Iterator[Fault]:
    """Faults of the keys that name a run's directory."""
    name = plain.get("name")
    if isinstance(name, str) and not re.fullmatch(FOLDER_NAME, name):
        yield Fault("name", f"is the name of a folder: letters, digits, _ . + - without a path, got {name!r}")
    if out is not None and out.exists() and not out.is_dir():
        yield Fault("hydra.run.dir", f"{out} is a file, and a run lives in a directory")


def _imitation(plain: Mapping[str, Any], known: Sequence[Fault]) -> Iterator[Fault]:
    """Faults of the learner with its overrides for imitation."""
    over = plain.get("imitate", {}).get("learner") if isinstance(plain.get("imitate"), Mapping) else None
    if over and isinstance(plain.get("learner"), Mapping):
        yield from _further(known, overlaid(plain["learner"], over), "imitate.learner")


def _further(known: Sequence[Fault], node: Any, key: str) -> Iterator[Fault]:
    """The faults of a node with overrides, except those that the node has without them."""
    texts = {fault.text for fault in known}
    return (fault for fault in targets(node, key) if fault.text not in texts)


def _keys(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, Mapping) else shown(value)


def _schedule(plain: Mapping[str, Any], known: Sequence[Fault]) -> Iterator[Fault]:
    """Invalid entries of the schedule, and faults of the nodes with the schedule's overrides."""
    schedule, held = plain.get("schedule"), {node: plain.get(node) for node in SCHEDULED}
    entries = schedule.items() if isinstance(schedule, Mapping) else ()
    for name, over in sorted(entries, key=lambda entry: str(entry[0])):
        key = f"schedule.{name}"
        if not re.fullmatch(r"iter_\d{3}", str(name)) or name == "iter_000":
            yield Fault(key, "is no iteration: say iter_001, iter_002, …")
        elif over is UNKNOWN:
            continue
        elif not isinstance(over, Mapping) or not over.keys() <= set(SCHEDULED):
            yield Fault(key, f"changes {_keys(over)}, expected {' or '.join(SCHEDULED)}")
        else:
            held = overlaid(held, over)
            for node in over:
                yield from _further(known, held[node], f"{key}.{node}")


def _policies(plain: Mapping[str, Any], known: Sequence[Fault]) -> Iterator[Fault]:
    """Invalid policy names and keys, and faults of the nodes with a policy's overrides."""
    named = plain.get("policies")
    for name, own in named.items() if isinstance(named, Mapping) else ():
        key = f"policies.{name}"
        if not re.fullmatch(r"\w[\w-]*", str(name)):
            yield Fault(key, "is the name of folders and figures: letters, digits, _ and - only")
        elif own is UNKNOWN:
            continue
        elif own is not None and (not isinstance(own, Mapping) or not own.keys() <= set(OWN)):
            yield Fault(key, f"has {_keys(own)}, expected some of {', '.join(OWN)}")
        else:
            for node, over in (own or {}).items():
                yield from _further(known, overlaid(plain.get(node), over), f"{key}.{node}")


FIXED = ("start", "base", "previous")  # keywords for a fixed reference


def _models(plain: Mapping[str, Any], words: Mapping[str, Sequence[str]]) -> Iterator[Fault]:
    """Values of keys that are neither one of their keywords nor a model."""
    for key, known in words.items():
        value = plain.get(key)
        if not isinstance(value, str) or value in known or (Path(value).expanduser() / "config.json").is_file():
            continue
        from ..models.hub import missing

        if (why := missing(value)) is not None:
            word = nearest(value, known)
            yield Fault(key, f"{value!r} is no model folder{word}" if word else f"{value!r} is no model: {why}")


def _processes(plain: Mapping[str, Any], choices: Mapping[str, str]) -> Iterator[Fault]:
    """A hardware profile that contradicts itself, the adapter, or a person at the table."""
    hardware = plain.get("hardware")
    if not isinstance(hardware, Mapping) or not all(isinstance(hardware.get(key), int) for key in ("devices", "nodes")):
        return
    count, strategy = hardware["devices"] * hardware["nodes"], hardware.get("strategy")
    if strategy == "single" and count > 1:
        yield Fault(
            "hardware.strategy", f"single is for one process, and there are {count} (devices × nodes): say ddp or fsdp"
        )
    if strategy in ("ddp", "fsdp", "fsdp_offload") and count == 1:
        yield Fault("hardware.strategy", f"{strategy} is for several processes, and there is one device: say single")
    backend = plain.get("backend")
    together = backend.get("tensor_parallel", 1) if isinstance(backend, Mapping) else 1
    if isinstance(together, int) and together > 0 and hardware["devices"] % together:
        yield Fault(
            "backend.tensor_parallel",
            f"{together} ranks of one machine share an engine, and this profile has {hardware['devices']} devices on "
            f"each: say a number that divides {hardware['devices']}, or choose another hardware",
        )
    wanted, chosen = hardware.get("adapter"), choices.get("adapter")
    if wanted and chosen and chosen not in (wanted, OF_RUN):
        yield Fault(
            "hardware.adapter",
            f"this profile is for adapter={wanted}, and {chosen} was chosen: change one or the other",
        )
    players = plain.get("players")
    people = [seat for seat, name in players.items() if name == "human"] if isinstance(players, Mapping) else []
    if count > 1 and people:
        yield Fault(
            f"players.{people[0]}",
            f"a person plays in one process only, and this profile has {count}: choose another hardware",
        )


def _opponents(nodes: Any) -> Iterator[Fault]:
    """Opponents with neither or both of path and model."""
    for name, node in nodes.items() if isinstance(nodes, Mapping) else ():
        if node is UNKNOWN:
            continue
        if not isinstance(node, Mapping):
            yield Fault(
                f"opponents.{name}", f"must be a mapping, as {{path: …}} or {{model: …, backend: …}}, got {node!r}"
            )
            continue
        yield from shape(node, Opponent, f"opponents.{name}")
        for key in ("path", "base", "model"):
            if not fits(node.get(key), str | None):
                yield Fault(f"opponents.{name}.{key}", f"must be text, got {node[key]!r}")
        found = [key for key in ("path", "model") if node.get(key) is not None]
        if len(found) != 1:
            got = " and ".join(found) or "neither"
            yield Fault(
                f"opponents.{name}",
                f"needs one of path (a run or a model folder) and model (what a server has), got {got}",
            )


def _resumes(config: DictConfig, out: Path | None) -> Iterator[str]:
    """Why this config cannot continue the run in `out`."""
    if out is None or config.resume == "none":
        return
    if not config.resume:
        yield "resume: is empty; say none, auto, or the directory of a run"
        return
    if (out / SAVED).exists():
        try:
            old = saved(out)
        except ConfigError as error:
            yield f"resume: {error}"
            return
        for key in changed_keys(old, config):
            if key == "iterations" and grown(old, config):
                continue
            before, after = (OmegaConf.select(side, key, default="absent") for side in (old, config))
            yield (
                f"resume: {key} was {before!r} when {out} was started, and is {after!r} now: put it back, or start a "
                f"new run"
            )
    elif config.resume != "auto" and not Path(config.resume).is_dir():
        yield f"resume: there is no directory {config.resume}; say none, auto, or the directory of a run"
