"""How long a run takes (task=plan): tokens by kind of work, divided by tokens a second of one device.

Prefill reads prompt tokens, decode writes replies one token at a time, training is forward and backward over packed
rows. Scheduling, loading and the idle end of a stage are left out, so a plan is a lower bound of wall time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..data.episode import Episode
from ..system.files import InputError


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second of one device; None where it is not known. `source` says whence."""

    prefill: float | None
    decode: float | None
    train: float | None
    source: str = "given"

    def __post_init__(self) -> None:
        for name in ("prefill", "decode", "train"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise InputError(f"stated.speed.{name}={value:g}: expected tokens a second, above 0")

    def over(self, other: Speed) -> Speed:
        """These rates, and those of `other` where there is none."""
        if all(each is None for each in (self.prefill, self.decode, self.train)):
            return other
        return Speed(
            self.prefill or other.prefill, self.decode or other.decode, self.train or other.train,
            self.source if self.complete else f"{self.source}; {other.source}",
        )  # fmt: skip

    @property
    def complete(self) -> bool:
        """Whether all three rates are known."""
        return None not in (self.prefill, self.decode, self.train)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of some work, over all devices: read (prefill), written (decode), trained."""

    read: float = 0.0
    written: float = 0.0
    trained: float = 0.0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.read + other.read, self.written + other.written, self.trained + other.trained)

    def __mul__(self, times: float) -> Tokens:
        return Tokens(self.read * times, self.written * times, self.trained * times)

    def seconds(self, speed: Speed, devices: int) -> float:
        """Seconds on so many devices that are all at work; infinite where a rate is not known and there is work."""
        pairs = ((self.read, speed.prefill), (self.written, speed.decode), (self.trained, speed.train))
        return sum(tokens / (rate * devices) if rate else math.inf for tokens, rate in pairs if tokens)


def of_match(matches: Iterable[Episode]) -> Tokens:
    """Mean tokens of a match, over those of `matches` in which a language model spoke; none without any."""
    read = written = count = 0
    for episode in matches:
        calls = [turn.call for turn in episode.own if turn.call is not None]
        read += sum(len(call.prompt_ids) for call in calls)
        written += sum(len(call.sampled_ids) for call in calls)
        count += bool(calls)
    return Tokens(read / count, written / count) if count else Tokens()


def matches(config: Any, roles: int) -> tuple[int, int]:
    """(matches of play, matches of evaluation) of an iteration, in a game of so many roles that the policies play.

    Greedy self-play over the whole test split is counted as `eval.scenarios`. What only the start and the kept
    iteration play, against scripts and in `eval.final`, is left out.
    """
    play, evaluated = config.play, config.eval
    played = play.scenarios * play.group * (1 + play.branches) * config.rounds
    held_out = evaluated.validation * (evaluated.validation_group or evaluated.group)
    held_out *= roles if ".versus." in f".{config.metric}" else 1
    alone = evaluated.scenarios * evaluated.group + (evaluated.greedy or evaluated.scenarios)
    versus = roles * evaluated.scenarios * (evaluated.group + 1) if roles > 1 else 0
    previous = roles * evaluated.scenarios * evaluated.group if "previous" in evaluated.opponents and roles > 1 else 0
    return played, held_out + alone + versus + previous


def words(work: Mapping[str, Tokens], speed: Speed, devices: int, iterations: int) -> Iterator[str]:
    """What an iteration and a run take, a paragraph a line. `work` is an iteration's, by stage; an entry "start" is
    what the run begins with."""
    for name, each in work.items():
        counts = (("read", each.read), ("written", each.written), ("trained", each.trained))
        told = ", ".join(f"{count:,.0f} {kind}" for kind, count in counts if count)
        yield f"Tokens of {name}{'' if name == 'start' else ', an iteration'}: {told}."
    if "play" not in work:
        yield "Play and evaluation are not counted: how many tokens a match has is not known (stated.match)."
    if not speed.complete:
        yield (
            "Time: not known. Give tokens a second of one device (stated.speed.prefill=… stated.speed.decode=… "
            "stated.speed.train=…), or measure this machine with task.probe=true."
        )
        return
    hours = {name: each.seconds(speed, devices) / 3600 for name, each in work.items()}
    once = hours.pop("start", 0.0)
    whole = once + iterations * sum(hours.values())
    parts = ", ".join(f"{name} {_hours(each)}" for name, each in hours.items())
    yield (
        f"Time at {speed.prefill:,.0f} tokens a second and device of prefill, {speed.decode:,.0f} of decode, "
        f"{speed.train:,.0f} of training ({speed.source}): {parts} an iteration; all {iterations} iterations "
        f"{_hours(whole)} on {devices} device{'s' * (devices > 1)}, which are {whole * devices:,.1f} device-hours. "
        "Scheduling, loading and the idle end of a stage come on top."
    )
    if (both := sum(hours.values())) and "play" in work:
        yield _shares(hours, both, devices)


def _shares(hours: Mapping[str, float], both: float, devices: int) -> str:
    """The stages' shares of an iteration, and how many servers would sample in the time of learning."""
    shares = ", ".join(f"{name} {each / both:.0%}" for name, each in hours.items())
    sampling, learning = both - hours["learning"], hours["learning"]
    servers = f"{math.ceil(devices * sampling / learning):,}" if learning else "no number of"
    return (
        f"Shares of an iteration: {shares}. {servers} devices for play (backend=vllm_servers) would take as long for "
        f"play and evaluation as these {devices:,} take to learn; the two take turns."
    )


def streams(shaped: Any, match: Tokens, roles: int, width: int, gib: float | None, together: int = 1) -> str | None:
    """The keys and values of a match's streams, for a model of the config `shaped` in numbers of `width` bytes; None
    where the config does not tell. `gib` is what each of `together` devices that share an engine has for them.

    A token has a key and a value in each layer: 2 x layers x heads of keys and values x size of a head x width bytes.
    """
    config = shaped.get_text_config(decoder=True)
    names = ("num_hidden_layers", "num_attention_heads", "hidden_size")
    layers, heads, hidden = (getattr(config, name, None) for name in names)
    if not (layers and heads and hidden and (match.read or match.written)):
        return None
    kept = getattr(config, "num_key_value_heads", None) or heads
    token = 2 * layers * kept * (getattr(config, "head_dim", None) or hidden // heads) * width
    stream = (match.read + match.written) / roles
    told = f"Keys and values: {token / 1024:,.0f} KiB a token, {stream * token / 2**20:,.1f} MiB a stream of "
    room = (
        ""
        if not gib
        else f"; {gib:g} GiB hold {_held(gib, together, kept) / (stream * token):,.0f} streams at their longest"
    )
    return f"{told}{stream:,.0f} tokens{room}. Beginnings that streams share are counted for each."


def _held(gib: float, together: int, heads: int) -> float:
    """Bytes of keys and values that `together` devices hold with `gib` each; a head is on one of them at least."""
    return gib * 2**30 * min(together, heads)


def engine(weights: float, kv_gib: float, together: int, there: float) -> tuple[str, str | None]:
    """What an engine with so many bytes of weights needs on each of the devices that share it, and, where that is more
    than the `there` GiB of one, why it does not fit. What the engine computes with, some GiB, is not counted."""
    each = weights / together / 2**30
    shared = f", shared by {together} devices" if together > 1 else ""
    told = (
        f"An engine of backend=vllm{shared}: {each:,.1f} GiB of weights and {kv_gib:g} GiB of keys and values on a "
        f"device of {there:g} GiB, while the learner is away."
    )
    why = None
    if each + kv_gib > there:
        why = (
            f"this plan does not fit: an engine needs {each + kv_gib:.1f} GiB of a device, which has {there:g} "
            f"(hardware.memory_gib). Say a larger backend.tensor_parallel, or a smaller backend.kv_gib"
        )
    return told, why


def _hours(value: float) -> str:
    return f"{value:,.1f} h" if value >= 1 else f"{value * 60:.1f} min"
