"""The entry point: compose -> validate -> launch -> run. Nothing heavy is imported before the config is known to
compose."""

from __future__ import annotations

import copy
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any, cast

import hydra
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import _run_hydra, create_config_search_path, get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.singleton import Singleton
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from .. import __version__
from ..report.differences import differences
from ..report.progress import terminal
from ..report.redact import from_file, hidden, public
from ..run.config import ConfigError, leaves, use_threads
from ..run.errors import TOLD, in_words
from ..system import dotenv, ranks
from ..system.naming import nearest
from . import launch, of_run
from .validation import OF_RUN, validate

CONF, NAME = "parley.conf", "config"


def run(config: DictConfig) -> float | None:
    """One job: validates the config, runs its task, returns the task's figure (for sweepers)."""
    job = HydraConfig.get()
    out = Path(job.runtime.output_dir)
    try:
        use_threads(config)
        _raise(validate(config, job.runtime.choices, out))
        if job.output_subdir is not None:  # tasks that only read a run have none
            _tell(config, job)
        return launch.run(config, out)
    except TOLD as error:
        if job.mode is RunMode.MULTIRUN:
            raise
        sys.exit(_say(error))


def main() -> None:
    """The console script `parley`."""
    if sys.argv[1:] == ["--version"]:
        print(f"parley {__version__}")
        return
    try:
        dotenv.load(Path(".env"), from_file)
        if launch.follows():
            launch.follow()
            return
        with launch.leading():
            _start(check(sys.argv[1:]))
    except ranks.Elsewhere as gone:  # the failed rank reports the reason
        _say(gone)
        sys.exit(launch.GONE)
    except TOLD as error:
        sys.exit(_say(error))
    except KeyboardInterrupt:
        print("\nparley: stopped; the same command with resume=auto goes on from here", file=sys.stderr)
        sys.exit(130)


def _start(arguments: Sequence[str]) -> None:
    """Runs Hydra on `arguments` instead of `sys.argv`."""
    version.setbase("1.3")
    parser = get_args_parser()
    _run_hydra(
        args=parser.parse_args(list(arguments)),
        args_parser=parser,
        task_function=run,
        config_path=f"pkg://{CONF}",
        config_name=NAME,
    )


def _tell(config: DictConfig, job: Any) -> None:
    """Prints what differs from the experiment, or from the run that the command is composed from, as a tree."""
    if str(config.task._target_).startswith(of_run.LOOKING):  # whatever the experiment says is not used
        return
    experiment = job.runtime.choices.get("experiment")
    words = [word for word in job.overrides.task if word.endswith(f"={OF_RUN}")]
    try:
        plain = hydra.compose(NAME, words or [f"experiment={experiment}"])
    except WRONG:  # an experiment that needs overrides to compose
        return
    both = (public(OmegaConf.to_container(each)) for each in (plain, config))
    run = config.run or config.resume if not config.runs else config.runs[0]
    named = f"as {run} was begun" if words else f"experiment={experiment}"
    if (tree := differences(f"{named}, but", *both)) is not None:
        terminal(stderr=True).print(tree)


def _say(error: Exception) -> int:
    print(f"parley: {hidden(in_words(error), ' '.join(sys.argv))}", file=sys.stderr)
    return 2


def _raise(faults: Sequence[str]) -> None:
    if faults:
        many = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
        head = f"{many}, nothing was run (parley --help lists groups, keys and examples)"
        raise ConfigError("\n  - ".join([head, *faults]))


def check(arguments: Sequence[str]) -> list[str]:
    """Finds all faults of a command line, of every job of a sweep, before anything is built. ConfigError lists them.

    Returns the arguments, preceded by overrides that compose them from the run that they name."""
    args, unknown = get_args_parser().parse_known_args(list(arguments))
    flags = [word for word in unknown if word.startswith("-")]
    flags += ["--experimental-rerun"] if args.experimental_rerun else []  # which would unpickle a file
    if args.help or args.hydra_help or args.shell_completion or args.info or args.config_path:
        return list(arguments)
    _raise([f"{flag}: there is no such flag; options are written key=value" for flag in flags])
    with _composer(args.config_dir):
        base = _base(args.overrides)
    base.register()
    with _composer(args.config_dir):
        overrides = [*base.words, *args.overrides]
        commands, faults = _jobs(overrides) if args.multirun else ([overrides], [])
        for number, overrides in enumerate(commands):
            faults += _job_faults(
                args.config_name or NAME, overrides, number if args.multirun else None, bool(args.cfg)
            )
    _raise(list(dict.fromkeys(faults)))
    at = list(arguments).index(args.overrides[0]) if args.overrides else len(arguments)
    return [*arguments[:at], *base.words, *arguments[at:]]


def completed(words: Sequence[str]) -> list[str]:
    """The overrides `words`, preceded by those that compose the command from the run that it names. Hydra must be
    initialised. ConfigError as `of_run.base`."""
    base = _base(words)
    base.register()
    return [*base.words, *words]


def _base(words: Sequence[str]) -> of_run.Base:
    return of_run.base(words, lambda: composed(NAME, words)[0])


def _job_faults(name: str, overrides: list[str], number: int | None, compose_only: bool) -> list[str]:
    config, faults = composed(name, overrides)
    if config is None:
        return faults
    faults += [] if faults else _emptied(overrides, config)
    if compose_only:
        return faults
    settings, choices = config.hydra, config.hydra.runtime.choices
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    out = None
    if not faults:
        use_threads(config)
        out = _directory(settings, number)
    return faults + validate(config, choices, out)


def _emptied(overrides: Sequence[str], config: DictConfig) -> Iterator[str]:
    """Faults of overrides `key={}` of a mapping with entries: Hydra merges mappings, so they change nothing."""
    for text in overrides:
        key, _, value = text.partition("=")
        held = OmegaConf.select(config, key) if value == "{}" and key[:1] not in "+~" else None
        if isinstance(held, DictConfig) and held:
            taken = " ".join(f"~{key}.{name}" for name in map(str, held))
            yield f"{text} changes nothing, since mappings are merged: {taken} empties it"


def _directory(settings: DictConfig, number: int | None) -> Path | None:
    """The job's directory; None if a key in its path has no value, which `validate` reports."""
    try:
        return Path(settings.run.dir if number is None else f"{settings.sweep.dir}/{number}")
    except OmegaConfBaseException:
        return None


@contextmanager
def _composer(config_dir: str | None) -> Iterator[None]:
    """Hydra's compose for this package's `conf/`, and `config_dir` if given; restores global state."""
    before = Singleton.get_state()
    GlobalHydra.instance().clear()
    path = create_config_search_path(f"pkg://{CONF}")
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            _raise([f"--config-dir: there is no directory {config_dir}"])
        path.prepend("command-line", f"file://{Path(config_dir).absolute()}", anchor="schema")
    try:
        Hydra.create_main_hydra2("parley", path)
        yield
    finally:
        Singleton.set_state(before)


# --- faults of a command line that does not compose ---------------------------------------------------------

SYNTAX = frozenset(",=:{}[]()'\"\\$")
WRONG = (HydraException, OmegaConfBaseException, YAMLError)
GLOBAL = ("experiment", "debug", "local")  # groups whose files set keys of the root


def composed(name: str, overrides: Sequence[str]) -> tuple[DictConfig | None, list[str]]:
    """(the config, []); if that fails, the config of the valid overrides, and the fault of each other one."""
    try:
        return _compose(name, overrides), []
    except WRONG as error:
        try:
            base = _compose(name, [])
        except WRONG:
            return None, [_told(error)]
    good: list[str] = []
    faults: list[str] = []
    doubtful: set[str] = set()  # nodes whose group option is invalid: their keys are not checked
    groups = set(GlobalHydra.instance().config_loader().list_groups(""))
    for override in sorted(
        overrides, key=lambda text: (not text.startswith("hydra."), _key(text) not in groups)
    ):  # searchpath first
        try:
            base = _compose(name, [*good, override])
            good.append(override)
        except WRONG as error:
            if _key(override) in groups:
                doubtful |= {_key(override)} if _key(override) != "experiment" else groups
                faults += _file_faults(override, base, groups) or [_explain(override, error, base, groups)]
            elif _key(override).split(".")[0] not in doubtful:
                faults.append(_explain(override, error, base, groups))
    return base, faults


def _compose(name: str, overrides: Sequence[str]) -> DictConfig:
    try:
        return hydra.compose(name, list(overrides), return_hydra_config=True)
    except WRONG:
        raise
    except (ValueError, TypeError, LookupError, OSError, ArithmeticError, RecursionError) as error:  # in Hydra
        raise HydraException(str(error)[:200]) from error


def _key(override: str) -> str:
    return override.split("=")[0].lstrip("+~").split("@")[0]


def _explain(override: str, error: Exception, base: DictConfig, groups: set[str]) -> str:
    key, cause = _key(override), error.__cause__
    if key in groups and not re.fullmatch(r"(?!(null|true|false|[\d.]+)$)[\w./-]+", override.partition("=")[2]):
        options = GlobalHydra.instance().config_loader().get_group_options(key)
        named = ", ".join(option for option in options if option != OF_RUN)
        return f"{_short(override)}: a group takes the name of an option: {named}"
    if isinstance(error, OverrideParseException):
        return _unreadable(override)
    if isinstance(error, MissingConfigException):
        group, _, option = (error.missing_cfg_file or override.replace("=", "/")).rpartition("/")
        asks = override if group == key else f"{override} asks for {group}={option}"
        return f"{asks}: the group {group} has no such option{_options(option, error)}"
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)):
        return f"{override}: there is no key {key}{_nearest_key(key, base, groups)}"
    return f"{override}: {_told(error)}"


def _unreadable(override: str) -> str:
    """Why an override cannot be parsed, and how to quote it, if that helps."""
    key, equals, value = override.partition("=")
    found = sorted(set(value) & SYNTAX)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    quoted = f'{key}="{escaped}"'
    try:
        OverridesParser.create().parse_override(quoted)
    except WRONG:
        found = []
    if not equals or not found or value[0] in "[{":
        return f"{_short(override)}: cannot be read; write key=value, lists as key=[a,b], mappings as key={{a: 1}}"
    held = " ".join(f"`{mark}`" for mark in found)
    return (
        f"{_short(override)}: its value holds {held}, which Hydra reads as syntax: quote it for Hydra and for the "
        f"shell, {_short(shlex.quote(quoted))}"
    )


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}…"


def _options(option: str, error: MissingConfigException) -> str:
    options = [each for each in error.options or () if each != OF_RUN]
    close = get_close_matches(option, options, n=1)
    return (f"; did you mean {close[0]}?" if close else ".") + f" It has {', '.join(options)}"


def _file_faults(override: str, base: DictConfig, groups: set[str]) -> list[str]:
    """Faults of a chosen option's file against the schema; [] if there are none."""
    name = override.replace("=", "/")
    try:
        file = GlobalHydra.instance().config_loader().repository.load_config(name)  # type: ignore[attr-defined]
    except (*WRONG, OSError):
        return []
    if file is None or not isinstance(file.config, DictConfig):
        return []
    if _key(override) in GLOBAL and file.header.get("package") != "_global_":
        return [f"{name}.yaml: its first line must be `# @package _global_`, since it sets keys of the root"]
    prefix = "" if file.header.get("package") == "_global_" else f"{_key(override)}."
    content = cast("dict[str, Any]", OmegaConf.to_container(file.config))
    values = {key: value for key, value in content.items() if key not in ("defaults", "hydra")}
    return [
        fault for key, value in leaves(values) if (fault := _leaf_fault(name, f"{prefix}{key}", value, base, groups))
    ]


def _leaf_fault(name: str, key: str, value: Any, base: DictConfig, groups: set[str]) -> str:
    trial = copy.deepcopy(base)
    OmegaConf.set_struct(trial, None)  # typed nodes stay closed, others are open
    try:
        OmegaConf.update(trial, key, value)
    except (ConfigAttributeError, ConfigKeyError):
        return f"{name}.yaml: there is no key {key}{_nearest_key(key, base, groups)}"
    except OmegaConfBaseException as error:
        return f"{name}.yaml: {key}: {str(error).splitlines()[0]}"
    return ""


def _nearest_key(key: str, base: DictConfig, groups: set[str]) -> str:
    """The nearest full key; else keys with the nearest last part; else the keys beside it."""
    names = [name for name in _names(base) if not name.startswith("hydra")] + sorted(groups)
    close = get_close_matches(key, names, n=1, cutoff=0.75)
    if close:
        return f"; did you mean {close[0]}?"
    parent, _, last = key.rpartition(".")
    ends = get_close_matches(last, {name.rpartition(".")[2] for name in names}, n=1, cutoff=0.75)
    if ends:
        return f"; did you mean {' or '.join(name for name in names if name.rpartition('.')[2] == ends[0])}?"
    return nearest(
        last, [name.rpartition(".")[2] for name in names if name.rpartition(".")[0] == parent and "." in name]
    )


def _names(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, DictConfig):
        for name in map(str, node):
            yield f"{prefix}{name}"
            if not OmegaConf.is_missing(node, name) and not OmegaConf.is_interpolation(node, name):
                yield from _names(node[name], f"{prefix}{name}.")


def _told(error: BaseException) -> str:
    """An error of Hydra or OmegaConf in one line, its cause included."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error.__cause__, OmegaConfBaseException):
        lines = ([] if lines[0].startswith("Error merging override") else lines) + str(error.__cause__).splitlines()[:1]
    return "; ".join(lines)


def _jobs(overrides: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """The command line of each job of a sweep, and the faults of overrides that cannot be read. A range without steps
    (for an optimising sweeper) is left out, because its values are unknown."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    readable: list[list[str]] = []
    faults: list[str] = []
    for text in overrides:
        try:
            parsed = parser.parse_override(text)
            readable.append(_values(parsed, text))
        except WRONG as error:
            faults.append(_explain(text, error, DictConfig({}), set()))
    return [list(job) for job in product(*[values for values in readable if values])], faults


def _values(override: Override, text: str) -> list[str]:
    if not override.is_sweep_override():
        return [text]
    return (
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_discrete_sweep()
        else []
    )
