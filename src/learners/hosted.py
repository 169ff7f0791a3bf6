"""A learner that uploads chats to a fine-tuning service with OpenAI's API, and waits for the fine-tuned model.

This is the published method of lm-selfplay (arXiv:2406.18872): the kept logs, three epochs, batch size 1, learning rate
multiplier 8. The published script only started the job; the next model's name was entered by hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import Any, ClassVar, Literal, TypeVar

from ..backends.answer import count, short
from ..backends.openai import Server, served
from ..data.formats import openai_chat
from ..data.formats.messages import Log
from ..data.sample import Demonstration
from ..data.typed import wrong
from ..models.snapshot import Snapshot
from ..objectives.base import Objective
from ..objectives.filtered_bc import FilteredBC
from ..system import ranks
from ..system.files import REFUSED, InputError, digest, read_json, write_json
from ..system.files import reason as reason_of
from ..system.spending import Ledger, Ticket
from .base import Report

T = TypeVar("T")
LOOKED_THROUGH = 1000  # number of the account's newest files or jobs to search


@dataclass(frozen=True)
class HostedLearner:
    """Trains a served model through `files` and `fine_tuning.jobs`.

    loss             must be imitation; the service offers nothing else
    epochs, batch_size, learning_rate_multiplier   the service's hyperparameters; auto lets it choose
    suffix           part of the new model's name
    url, key_env     see `parley.backends.openai.Server`
    poll_s           seconds between two polls of the job
    timeout_s        seconds of one request; `retries`: further attempts if the service cannot be reached, is busy or
                     fails
    price_training   price of a million trained tokens; max_cost: limit over all jobs of the run, booked before a
                     job starts
    """

    hosted: ClassVar[bool] = True
    reads: ClassVar[Literal["chats"]] = "chats"
    sessions: ClassVar[bool] = False

    loss: Objective
    epochs: int | Literal["auto"] = 3
    batch_size: int | Literal["auto"] = 1
    learning_rate_multiplier: float | Literal["auto"] = 8.0
    suffix: str | None = None
    url: str | None = None
    key_env: str | None = None
    poll_s: float = 20.0
    timeout_s: float = 60.0
    retries: int = 8
    backoff_s: float = 1.0
    price_training: float = 0.0
    max_cost: float | None = None
    ledger: Path | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.loss, FilteredBC):
            raise InputError(
                f"a fine-tuning service can only imitate, not train {type(self.loss).__name__}: "
                "say objective=filtered_bc"
            )
        if self.max_cost is not None and (self.price_training <= 0 or self.epochs == "auto"):
            raise InputError(
                f"max_cost={self.max_cost:g} can only be held with a price_training and a number of epochs"
            )

    def learn(
        self,
        samples: Sequence[Demonstration],
        snapshot: Snapshot,
        folder: Path,
        *,
        seed: int,
        name: str,
        reference: Snapshot | None = None,
        progress: Report | None = None,
    ) -> tuple[Snapshot, dict[str, Any]]:
        """Returns the model that the service trained from `snapshot`. All messages of weight above 0 in `samples` count
        equally.

        Writes `train.jsonl` (the uploaded file), `job.json` (the request, before waiting) and `learn.json` to `folder`.
        A call that was killed goes on waiting for its job. InputError if the service refuses or fails.
        """
        return ranks.shared(lambda: self._learn(samples, snapshot, folder, seed, name, progress))

    def _learn(
        self,
        samples: Sequence[Demonstration],
        snapshot: Snapshot,
        folder: Path,
        seed: int,
        name: str,
        progress: Report | None,
    ) -> tuple[Snapshot, dict[str, Any]]:
        if snapshot.served is None:
            raise InputError(
                f"{snapshot.version} is a folder, but a service trains only models with a name (model=served)"
            )
        if not openai_chat.write(folder / "train.jsonl", map(_log, samples)):
            raise InputError(f"none of the {len(samples)} chats has a message to train on")
        inputs = digest([snapshot.version, digest(folder / "train.jsonl"), seed, name, repr(self._recipe())])
        job = _Job(self, folder, inputs)
        if not job.state.model:
            done = job.ended(snapshot.served, seed, progress)
            utterances = sum(len(_own(chat)) - len(_log(chat).rejected) for chat in samples)
            metrics = {"samples": len(samples), "utterances": utterances, **job.figures(done)}
            job.note(model=done.fine_tuned_model, metrics=metrics)
        assert job.state.model is not None
        metrics = dict(job.state.metrics or {})
        write_json(folder / "learn.json", {"inputs": inputs, "metrics": metrics})
        return served(job.state.model), metrics

    def _recipe(self) -> tuple[Any, ...]:
        return (self.epochs, self.batch_size, self.learning_rate_multiplier, self.suffix)


@dataclass(frozen=True)
class _State:
    """What is known of a job: `token` is in the name of its file, `ticket` is (id, the most it can cost)."""

    inputs: str
    token: str
    file: str | None = None
    ticket: tuple[str, float] | None = None
    job: str | None = None
    model: str | None = None
    metrics: Mapping[str, float] | None = None


@dataclass
class _Job:
    """One fine-tuning job and its state on disk, written before each further request."""

    learner: HostedLearner
    folder: Path
    inputs: str
    losses: dict[int, float] = field(default_factory=dict)  # step -> training loss, as reported by the service

    def __post_init__(self) -> None:
        server = Server(self.learner.url, self.learner.key_env)
        self.server, self.client = server, server.client(self.learner.timeout_s)
        self.ledger = Ledger(self.learner.ledger, None, self.learner.max_cost)
        self.path = self.folder / "job.json"
        if self.path.exists():
            self.state = _stored(self.path)
            if self.state.inputs != self.inputs:
                raise InputError(
                    f"{self.path} is of a job with other inputs: give an empty folder, or remove it to train again"
                )
        else:
            self.state = _State(self.inputs, token_hex(8))
            self.note()

    def note(self, **facts: Any) -> None:
        self.state = replace(self.state, **facts)
        write_json(self.path, asdict(self.state))

    def ended(self, model: str, seed: int, progress: Report | None) -> Any:
        """Uploads, starts and awaits the job, resuming where an earlier call was killed; never starts two. Returns the
        finished job."""
        if not self.state.file:
            self.note(file=self._patiently(lambda: _text(self._sent() or self._send(), "id")))
        if not self.state.ticket:
            self._book()
        if not self.state.job:
            self.note(job=self._patiently(lambda: _text(self._made() or self._make(model, seed), "id")))
        while (job := self._patiently(self._look)).status not in ENDED:
            self._tell(progress)
            time.sleep(self.learner.poll_s)
        self._tell(progress)
        facts = {"model": model, "trained_tokens": count(job.trained_tokens)}
        assert self.state.ticket is not None
        self.ledger.settle(Ticket(*self.state.ticket), self._cost(job), facts)
        if job.status != "succeeded" or not (isinstance(job.fine_tuned_model, str) and job.fine_tuned_model):
            reason = short(getattr(job.error, "message", None) or "no reason given")
            raise InputError(
                f"the service ended job {self.state.job} as {job.status}: {reason}. Remove {self.path} and resume to "
                f"make another"
            )
        return job

    def figures(self, job: Any) -> dict[str, float]:
        """The metrics that the service reports for a finished job."""
        last = {"steps": max(self.losses), "loss": self.losses[max(self.losses)]} if self.losses else {}
        return {"tokens": count(job.trained_tokens) or 0, "cost": self._cost(job), **last}

    def _cost(self, job: Any) -> float:
        """The cost of the tokens that the service says it trained; the most that it can be where it says none for a
        finished job, or no number of tokens."""
        told, tokens = job.trained_tokens, count(job.trained_tokens)
        assert self.state.ticket is not None
        if told is None and job.status != "succeeded":
            return 0.0
        return tokens * self.learner.price_training / 1e6 if tokens else self.state.ticket[1]

    # --- the file, its price, the job ---

    @property
    def _name(self) -> str:
        return f"parley-{self.state.token}.jsonl"

    def _sent(self) -> Any:
        return _first(self.client.files.list(purpose="fine-tune", limit=100), lambda file: file.filename == self._name)

    def _send(self) -> Any:
        return self.client.files.create(
            file=(self._name, (self.folder / "train.jsonl").read_bytes()), purpose="fine-tune"
        )

    def _book(self) -> None:
        """Books the maximum cost of the job: a token takes at least one byte of the file."""
        epochs = self.learner.epochs if isinstance(self.learner.epochs, int) else 0
        most = (self.folder / "train.jsonl").stat().st_size * epochs * self.learner.price_training / 1e6
        ticket = self.ledger.book(f"fine-tuning {self.folder.name}", most)
        assert ticket is not None  # nothing else of this ledger is open
        self.note(ticket=(ticket.id, ticket.most))

    def _made(self) -> Any:
        return _first(self.client.fine_tuning.jobs.list(limit=100), lambda job: job.training_file == self.state.file)

    def _make(self, model: str, seed: int) -> Any:
        learner = self.learner
        settings: dict[str, Any] = {"n_epochs": learner.epochs, "batch_size": learner.batch_size}
        settings["learning_rate_multiplier"] = learner.learning_rate_multiplier
        more: Mapping[str, Any] = {"suffix": learner.suffix} if learner.suffix else {}
        method: Any = {"type": "supervised", "supervised": {"hyperparameters": settings}}
        return self.client.fine_tuning.jobs.create(
            model=model, training_file=str(self.state.file), method=method, seed=seed % 2**31, **more
        )

    def _look(self) -> Any:
        job = self.client.fine_tuning.jobs.retrieve(str(self.state.job))
        return job if isinstance(job.status, str) else _text(job, "status")

    def _tell(self, progress: Report | None) -> None:
        """Reports the steps that the service has logged since the last poll."""
        told = self.client.fine_tuning.jobs.list_events
        for event in reversed(
            self._patiently(lambda: list(islice(told(str(self.state.job), limit=100), LOOKED_THROUGH)))
        ):
            data: Any = getattr(event, "data", None)
            data = data if isinstance(data, dict) else {}
            step, loss, steps = count(data.get("step")), data.get("train_loss"), count(data.get("total_steps"))
            if step is not None and _loss(loss) and step not in self.losses:
                self.losses[step] = float(loss)
                if progress is not None:
                    progress({"step": step, "steps": steps or step, "loss": float(loss), "tokens": 0})

    # --- requests ---

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Calls `ask`, and retries if the service cannot be reached, is busy, fails or sends what cannot be read.
        InputError if it refuses."""
        from openai import APIStatusError, OpenAIError

        for attempt in range(self.learner.retries + 1):
            try:
                return ask()
            except APIStatusError as error:
                if error.status_code not in (408, 409, 429) and error.status_code < 500:
                    raise InputError(f"the fine-tuning service refuses: {self.server.told(error)}") from None
                lost: Exception = error
            except InputError:
                raise
            except (OpenAIError, *REFUSED) as error:
                lost = error
            time.sleep(min(60.0, self.learner.backoff_s * 2**attempt))
        raise InputError(
            f"the fine-tuning service does not answer: {self.server.told(lost)}. Resume later: what is done is "
            "not repeated"
        )


ENDED = ("succeeded", "failed", "cancelled")
MOST_LOSS = 1e9  # of a step; a larger one, or what is no number, is left out


def _stored(path: Path) -> _State:
    """The state of a job that was begun. InputError names a file that cannot be read."""
    try:
        told = read_json(path)
        state = _State(**{**told, "ticket": tuple(told["ticket"]) if told.get("ticket") else None})
        what = wrong(state)
    except REFUSED as error:
        what = reason_of(error)
    if what is not None:
        raise InputError(f"{path} is no state of a job ({what}): put it back, or remove it to make another job")
    return state


def _loss(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < MOST_LOSS


def _text(answer: Any, name: str) -> str:
    """What a service's answer says under `name`. ValueError if it is no text, which another attempt may mend."""
    text = getattr(answer, name, None)
    if not isinstance(text, str) or not text:
        raise ValueError(f"the service's answer has no {name}: {short(answer)}")
    return text


def _first(found: Iterable[T], wanted: Callable[[T], bool]) -> T | None:
    return next(filter(wanted, islice(found, LOOKED_THROUGH)), None)


def _log(chat: Demonstration) -> Log:
    """The chat with its untrained replies marked, in the form that the writer expects."""
    return Log(chat.messages, rejected=tuple(at for at in _own(chat) if not chat.weights[at]))


def _own(chat: Demonstration) -> list[int]:
    """The positions of the seat's own messages."""
    return [at for at, message in enumerate(chat.messages) if message.role == "assistant"]
