"""The learner that hands its chats to a fine-tuning service with OpenAI's API, and waits for the model that comes back.

This is the published route of lm-selfplay (arXiv:2406.18872): the logs that paid, three epochs, batches of one, eight
times the service's own learning rate. There the job was fired and forgotten and the next model named by hand.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import Any, ClassVar, Literal, TypeVar

from ..backends.openai import Server, served
from ..data.formats import openai_chat
from ..data.formats.messages import Log
from ..data.sample import Demonstration
from ..models.snapshot import Snapshot
from ..objectives.base import Objective
from ..objectives.filtered_bc import FilteredBC
from ..system import ranks
from ..system.files import InputError, digest, write_json
from ..system.spending import Ledger, Ticket
from .base import Report

T = TypeVar("T")
LOOKED_THROUGH = 1000  # files or jobs of the account, the newest first, among which one is looked for


@dataclass(frozen=True)
class HostedLearner:
    """Trains a served model through `files` and `fine_tuning.jobs`.

    loss             must be imitation, which is what such a service does
    epochs, batch_size, learning_rate_multiplier   as the service knows them; auto leaves it the choice
    suffix           becomes a part of the new model's name
    url, key_env     see `parley.backends.openai.Server`
    poll_s           between two looks at the job
    timeout_s        of one request; `retries` further attempts where the service cannot be reached, is busy or broken
    price_training   of a million trained tokens; max_cost of all jobs of the run, booked before a job is made
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
                f"a fine-tuning service imitates, it cannot train {type(self.loss).__name__}: say objective=filtered_bc"
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
        """The model that the service made of `snapshot`; every message of weight above 0 in `samples` is trained on
        alike.

        `folder` receives `train.jsonl` as it was sent, `job.json` (what was asked for, before it is waited for) and
        `learn.json`. A call that was cut off goes on waiting for its job. InputError where the service refuses or
        fails.
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
                f"{snapshot.version} is a folder, and a service trains models that it has under a name (model=served)"
            )
        count = openai_chat.write(folder / "train.jsonl", map(_log, samples))
        if not count:
            raise InputError(f"none of the {len(samples)} chats has a message to train on")
        inputs = digest([snapshot.version, digest(folder / "train.jsonl"), seed, name, repr(self._recipe())])
        job = _Job(self, folder, inputs)
        if not job.found("metrics"):
            done = job.ended(snapshot.served, seed, progress)
            utterances = sum(len(_own(chat)) - len(_log(chat).rejected) for chat in samples)
            job.note(
                model=done.fine_tuned_model, metrics={"samples": count, "utterances": utterances, **job.figures(done)}
            )
        write_json(folder / "learn.json", {"inputs": inputs, "metrics": job.found("metrics")})
        return served(job.found("model")), job.found("metrics")

    def _recipe(self) -> tuple[Any, ...]:
        return (self.epochs, self.batch_size, self.learning_rate_multiplier, self.suffix)


@dataclass
class _Job:
    """One job, and what is known of it on disk: written before the next thing is asked for."""

    learner: HostedLearner
    folder: Path
    inputs: str
    state: dict[str, Any] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)  # step -> training loss, as the service told

    def __post_init__(self) -> None:
        server = Server(self.learner.url, self.learner.key_env)
        self.server, self.client = server, server.client(self.learner.timeout_s)
        self.ledger = Ledger(self.learner.ledger, None, self.learner.max_cost)
        self.path = self.folder / "job.json"
        if self.path.exists():
            self.state = json.loads(self.path.read_text())
        if self.state.get("inputs", self.inputs) != self.inputs:
            raise InputError(
                f"{self.path} is of a job with other inputs: give an empty folder, or remove it to train again"
            )
        if not self.state:
            self.note(inputs=self.inputs, token=token_hex(8))

    def found(self, name: str) -> Any:
        return self.state.get(name)

    def note(self, **facts: Any) -> None:
        self.state |= facts
        write_json(self.path, self.state)

    def ended(self, model: str, seed: int, progress: Report | None) -> Any:
        """The finished job: sent, made and waited for, from where an earlier call was cut off. Never two of them."""
        if not self.found("file"):
            self.note(file=self._once(self._sent, self._send).id)
        if not self.found("ticket"):
            self._book()
        if not self.found("job"):
            self.note(job=self._once(self._made, lambda: self._make(model, seed)).id)
        while (
            job := self._patiently(lambda: self.client.fine_tuning.jobs.retrieve(self.state["job"]))
        ).status not in ENDED:
            self._tell(progress)
            time.sleep(self.learner.poll_s)
        self._tell(progress)
        cost = (job.trained_tokens or 0) * self.learner.price_training / 1e6
        self.ledger.settle(Ticket(*self.state["ticket"]), cost, {"model": model, "trained_tokens": job.trained_tokens})
        if job.status != "succeeded" or not job.fine_tuned_model:
            reason = getattr(job.error, "message", None) or "no reason given"
            raise InputError(
                f"the service ended job {job.id} as {job.status}: {reason}. Remove {self.path} and resume to make "
                f"another"
            )
        return job

    def figures(self, job: Any) -> dict[str, float]:
        """What the service told of a finished job."""
        tokens = job.trained_tokens or 0
        last = {"steps": max(self.losses), "loss": self.losses[max(self.losses)]} if self.losses else {}
        return {"tokens": tokens, "cost": tokens * self.learner.price_training / 1e6, **last}

    # --- the file, its price, the job ---

    @property
    def _name(self) -> str:
        return f"parley-{self.state['token']}.jsonl"

    def _sent(self) -> Any:
        return _first(self.client.files.list(purpose="fine-tune", limit=100), lambda file: file.filename == self._name)

    def _send(self) -> Any:
        return self.client.files.create(
            file=(self._name, (self.folder / "train.jsonl").read_bytes()), purpose="fine-tune"
        )

    def _book(self) -> None:
        """Books the most that the job can cost: a token is a byte of the file at least."""
        epochs = self.learner.epochs if isinstance(self.learner.epochs, int) else 0
        most = (self.folder / "train.jsonl").stat().st_size * epochs * self.learner.price_training / 1e6
        ticket = self.ledger.book(f"fine-tuning {self.folder.name}", most)
        assert ticket is not None  # nothing else of this ledger is open
        self.note(ticket=[ticket.id, ticket.most])

    def _made(self) -> Any:
        return _first(self.client.fine_tuning.jobs.list(limit=100), lambda job: job.training_file == self.state["file"])

    def _make(self, model: str, seed: int) -> Any:
        learner = self.learner
        settings: dict[str, Any] = {"n_epochs": learner.epochs, "batch_size": learner.batch_size}
        settings["learning_rate_multiplier"] = learner.learning_rate_multiplier
        more: Mapping[str, Any] = {"suffix": learner.suffix} if learner.suffix else {}
        method: Any = {"type": "supervised", "supervised": {"hyperparameters": settings}}
        return self.client.fine_tuning.jobs.create(
            model=model, training_file=self.state["file"], method=method, seed=seed % 2**31, **more
        )

    def _tell(self, progress: Report | None) -> None:
        """Passes on the steps that the service has told of since the last look."""
        told = self.client.fine_tuning.jobs.list_events
        for event in reversed(
            self._patiently(lambda: list(islice(told(self.state["job"], limit=100), LOOKED_THROUGH)))
        ):
            data = event.data if isinstance(event.data, dict) else {}
            step, loss = data.get("step"), data.get("train_loss")
            if isinstance(step, int) and isinstance(loss, (int, float)) and step not in self.losses:
                self.losses[step] = float(loss)
                if progress is not None:
                    progress({"step": step, "steps": data.get("total_steps") or step, "loss": float(loss), "tokens": 0})

    # --- requests ---

    def _once(self, find: Callable[[], T | None], make: Callable[[], T]) -> T:
        """What `make` makes, or made in an attempt whose answer was lost."""
        return self._patiently(lambda: find() or make())

    def _patiently(self, ask: Callable[[], T]) -> T:
        """`ask`, again where the service cannot be reached, is busy or broken. InputError when it refuses."""
        from openai import APIConnectionError, APIStatusError

        for attempt in range(self.learner.retries + 1):
            try:
                return ask()
            except APIStatusError as error:
                if error.status_code not in (408, 409, 429) and error.status_code < 500:
                    raise InputError(f"the fine-tuning service refuses: {self.server.told(error)}") from None
                lost: Exception = error
            except (APIConnectionError, json.JSONDecodeError) as error:
                lost = error
            time.sleep(min(60.0, self.learner.backoff_s * 2**attempt))
        raise InputError(
            f"the fine-tuning service does not answer: {self.server.told(lost)}. Resume later: nothing is asked for "
            f"twice"
        )


ENDED = ("succeeded", "failed", "cancelled")


def _first(found: Iterable[T], wanted: Callable[[T], bool]) -> T | None:
    return next(filter(wanted, islice(found, LOOKED_THROUGH)), None)


def _log(chat: Demonstration) -> Log:
    """The chat with its untrained replies marked, as the writer wants them."""
    return Log(chat.messages, rejected=tuple(at for at in _own(chat) if not chat.weights[at]))


def _own(chat: Demonstration) -> list[int]:
    """The positions of the seat's own messages."""
    return [at for at, message in enumerate(chat.messages) if message.role == "assistant"]
