"""Model cards and dataset cards of snapshots and exports: the README.md that Hugging Face's tools read.

They are made from the run's config, manifest and figures. Text from there is shown as code; paths on this machine are
left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from ..data.formats.writers import Written
from ..system.files import REFUSED, read_json, read_text
from ..system.naming import hub_id
from . import redact
from .rows import MODES, Figures, Measured
from .run import figure, without_aliases

CARD, CONFIG = "README.md", "config.yaml"
SHOWN = 12  # most figures of one kind of matches
_LICENSE = re.compile(r"\A---\n(?:.*\n)*?license:[ \t]*['\"]?([\w.+-]{1,64})['\"]?[ \t]*\n")


@dataclass(frozen=True, slots=True)
class Made:
    """The snapshot that a card describes: version, policy, iteration and figures.

    base     folder of its base model; None if the run made the model itself
    adapter  whether it is an adapter on `base`
    """

    version: str
    policy: str
    iteration: int
    base: str | None
    adapter: bool
    measured: Measured | None


def model_card(run: Path, made: Made) -> str:
    """The card of a snapshot or a merged model of `run`, as Markdown."""
    config = read_config(run)
    name = base_name(made.base)
    license = base_license(made.base)
    head: dict[str, Any] = {
        "library_name": "peft" if made.adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["parley", "self-play", "dialogue-game"],
        **({"base_model": name} if name and "/" in name else {}),
        **({"license": license} if license else {}),
    }
    base = f"`{_code(name)}`" if name else "none: the run made the model from scratch"
    lines = [
        f"# {_code(made.version)}", "",
        f"Policy `{_code(made.policy)}` after iteration {made.iteration} of a run of parley: a language model that "
        "learned by playing a dialogue game.", "",
        f"- base: {base}",
        f"- licence of the base: {license or 'not stated there; its own terms hold'}",
        *_recipe(config), "",
        "## Figures", "", *_figures(made.measured), "",
        "## Use", "", *_use(made.adapter), "",
        *_origin(run),
    ]  # fmt: skip
    return _front(head) + "\n".join(lines) + "\n"


def data_card(run: Path, out: Path, found: Sequence[Written], keep: str) -> str:
    """The card of an export in `out`, as Markdown. With it, `datasets` loads each file of rows by its name."""
    configs = [
        {"config_name": _unique(each, out), "data_files": each.path.relative_to(out).as_posix()}
        for each in found
        if each.rows
    ]
    head = {"configs": configs, "tags": ["parley", "self-play", "dialogue-game"]} if configs else {"tags": ["parley"]}
    kept = {
        "credit": "the logs and replies that credit chose; replies that it did not choose are marked, or left out",
        "all": "every log of the policies, without illegal replies",
    }[keep]
    lines = [
        "# Self-play of a run of parley", "",
        "Chats that language models wrote while they played a dialogue game. The terms of the models that wrote them, "
        "and of whatever they were made from, may bind who trains on them.", "",
        f"- what was kept: {kept}",
        *_recipe(read_config(run)), "",
        "| name | file | rows | what it is |", "| --- | --- | --- | --- |",
        *(
            f"| {_unique(each, out)} | `{each.path.relative_to(out).as_posix()}` | "
            f"{'–' if each.rows is None else f'{each.rows:,}'} | {each.told} |"
            for each in found
        ), "",
        *_origin(run),
    ]  # fmt: skip
    return _front(head) + "\n".join(lines) + "\n"


def _unique(each: Written, out: Path) -> str:
    """A file's name in an export, with the policy's name if each policy has its own folder."""
    folder = each.path.parent.relative_to(out).as_posix()
    return each.name if folder == "." else f"{folder}-{each.name}"


def _front(head: Mapping[str, Any]) -> str:
    return f"---\n{yaml.safe_dump(dict(head), sort_keys=False, allow_unicode=True)}---\n\n"


def _recipe(config: Mapping[str, Any]) -> Iterator[str]:
    """Game, model, data, objective and length of a run, one line each."""
    yield f"- experiment: `{_code(config.get('name'))}`, seed {_code(config.get('seed'))}"
    for node in ("game", "model", "data", "objective", "adapter"):
        if told := _node(config.get(node)):
            yield f"- {node}: {told}"
    if (imitate := config.get("imitate")) and imitate.get("matches"):
        yield f"- imitation first: {_code(imitate['matches'])} matches of the scripts {_code(imitate.get('players'))}"
    yield f"- self-play: {_code(config.get('iterations'))} iterations of {_code(_play(config))}"


def _play(config: Mapping[str, Any]) -> str:
    play = config.get("play") or {}
    return f"{play.get('scenarios')} scenarios × {play.get('group')} matches × {config.get('rounds', 1)} rounds"


def _node(node: Any) -> str:
    """A node of a config: its class names and plain values, without paths."""
    if not isinstance(node, Mapping):
        return ""
    target = str(node.get("_target_", "")).rpartition(".")[2]
    values = {key: value for key, value in node.items() if key != "_target_"}
    inner = [
        f"{key}: {_node(value)}" for key, value in values.items() if isinstance(value, Mapping) and "_target_" in value
    ]
    plain = [f"{key}={_place(value)}" for key, value in values.items() if isinstance(value, (str, int, float, bool))]
    own = f"`{_code(' '.join([target, *plain]))}`" if target or plain else ""
    return "; ".join([*([own] if own else []), *inner])


def _place(value: Any) -> Any:
    """A value; a path on this machine is cut to its last part."""
    return PurePath(value).name if isinstance(value, str) and value.startswith(("/", "~", ".")) else value


def _figures(measured: Measured | None) -> Iterator[str]:
    """Held-out figures with their 95 % intervals."""
    if measured is None:
        yield "Not measured."
        return
    yield from ("| matches | figure | mean, 95 % interval |", "| --- | --- | --- |")
    for mode in MODES:
        found = getattr(measured, mode)
        nested = bool(found) and all(isinstance(value, Mapping) and "mean" not in value for value in found.values())
        for where, figures in found.items() if nested else [("", found)]:
            yield from _rows(f"{mode} {where}".strip(), figures)


def _rows(where: str, figures: Figures) -> Iterator[str]:
    for name, value in list(figures.items())[:SHOWN]:
        yield f"| {_code(where)} | `{_code(name)}` | {figure(value)} |"


def _use(adapter: bool) -> Iterator[str]:
    kind = "peft import AutoPeftModelForCausalLM" if adapter else "transformers import AutoModelForCausalLM"
    name = kind.rpartition(" ")[2]
    yield from ("```python", f"from {kind}", "from transformers import AutoTokenizer", "")
    yield from (
        f'model = {name}.from_pretrained("FOLDER")',
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        "```",
    )


def _origin(run: Path) -> Iterator[str]:
    """The command, revision and versions from a run's manifest."""
    try:
        manifest = read_json(run / "manifest.json")
        command, git = str(manifest["command"]), manifest.get("git") or {}
        packages = ", ".join(f"{name} {version}" for name, version in manifest.get("packages", {}).items())
    except (FileNotFoundError, *REFUSED):
        return
    yield from ("## Made with", "", f"- command: `{_code(redact.masked(command))}`")
    yield f"- revision of parley: `{_code(git.get('revision', 'unknown'))}`{' with changes' * bool(git.get('dirty'))}"
    yield f"- packages: {_code(packages)}"


def base_name(base: str | None) -> str | None:
    """A base's name: ORG/NAME if it lies in the Hugging Face cache, else the folder's name."""
    return None if base is None else hub_id(base) or PurePath(base).name


def base_license(base: str | None) -> str | None:
    """The licence stated by the card in a base's folder, or None."""
    try:
        text = read_text(Path(base) / CARD)[:65536] if base is not None else ""
    except (FileNotFoundError, *REFUSED):
        return None
    found = _LICENSE.match(text)
    return found[1] if found else None


def read_config(run: Path) -> dict[str, Any]:
    """The config of a run as plain data, without secrets; {} if it cannot be read."""
    try:
        found = yaml.safe_load(without_aliases(read_text(run / CONFIG)))
    except (FileNotFoundError, yaml.YAMLError, *REFUSED):
        return {}
    public = redact.public(found)
    return public if isinstance(public, dict) else {}


def _code(value: Any) -> str:
    """Escapes a value for Markdown: one line, without characters that end code, rows or tags."""
    return re.sub(r"[`|<>\r\n]+", " ", str(value))[:400]
