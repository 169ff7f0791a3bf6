"""Benchmarks: the harness's figures are those of our own log-probs and of greedy decoding; task folders are data; runs
hold figures."""

import json
import math
import random
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from parley.cli.tasks import measuring, training
from parley.cli.tasks.measuring import _measured
from parley.data.sample import Sample, Utterance
from parley.games.base import Message
from parley.learners.likelihood import logprobs
from parley.models import snapshot
from parley.models.adapter import LoRA, QLoRA
from parley.models.load import load_policy, load_tokenizer
from parley.models.snapshot import Snapshot
from parley.models.tiny import Tiny
from parley.report.estimates import estimate
from parley.run import harness as benchmark
from parley.run.config import ConfigError
from parley.run.harness import Benchmark
from parley.system.files import InputError
from safetensors.torch import load_file, save_file

from commands import parley

WORDS = ["red", "green", "blue", "grey", "sky", "sea", "leaf", "stone", "has", "what", "colour", "?", "Answer:"]
COMMON = (
    "dataset_path: json\ndataset_kwargs: {{data_files: {{test: {file}, train: {file}}}, cache_dir: "
    "{cache}}}\ntest_split: test\n"
)
CHOICE = """task: colours
output_type: multiple_choice
training_split: train
doc_to_text: "what colour has {{thing}} ? Answer:"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
LIKELY = """task: likely
output_type: loglikelihood
doc_to_text: "what colour has {{thing}} ? Answer:"
doc_to_target: " {{choices[answer]}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
"""
SAYS = """task: says
output_type: generate_until
doc_to_text: "what colour has {{thing}} ? Answer:"
doc_to_target: "{{said}}"
generation_kwargs: {until: ["?"], max_gen_toks: 3, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
ALL = ["colours", "likely", "says"]
DRAW = random.Random(0)
DOCS = [
    {
        "thing": DRAW.choice(WORDS[4:8]),
        "choices": [" ".join(DRAW.choices(WORDS[:4], k=k)) for k in (1, 2, 3)],
        "answer": DRAW.randrange(3),
    }
    for _ in range(12)
]
needs_harness = pytest.mark.skipif(
    find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed (make test-benchmark)"
)


def cpu():
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", []).hardware


@pytest.fixture(scope="module", params=["full", "lora", "qlora"])
def model(request, tmp_path_factory) -> Snapshot:
    """A snapshot with weights at random, and adapters that do something."""
    place = tmp_path_factory.mktemp("models")
    base = Tiny(width=32, heads=2, layers=2, mlp=64, context=64).create(
        place / "base", [[Message("user", " ".join(WORDS))]], 0
    )
    loud(base.path, "model.safetensors", 0.3)
    base = snapshot.of(base.path)
    if request.param == "full":
        return base
    made = {"lora": LoRA, "qlora": QLoRA}[request.param](r=4, alpha=16).create(base, place / "adapter", 0)
    loud(made.path, snapshot.ADAPTER, 0.1)
    return snapshot.of(made.path, base=base.path)


def loud(folder: str, name: str, scale: float) -> None:
    """Gives matrices values that tell words apart."""
    draw = torch.Generator().manual_seed(1)
    path = Path(folder) / name
    old = load_file(path)
    new = {
        key: torch.randn(each.shape, generator=draw) * scale if each.ndim == 2 else each for key, each in old.items()
    }
    save_file(new, path, metadata={"format": "pt"})


def encoded(policy: Snapshot, doc: dict, answer: str = "") -> tuple[list[int], list[int]]:
    tokenizer = load_tokenizer(policy.base or policy.path)
    return tokenizer.encode(f"what colour has {doc['thing']} ? Answer:"), tokenizer.encode(answer) if answer else []


def likelihoods(policy: Snapshot) -> list[list[float]]:
    """log p of every option of every document, by our own policy module."""
    samples = []
    for doc in DOCS:
        for choice in doc["choices"]:
            before, after = encoded(policy, doc, choice)
            samples.append(
                Sample(str(len(samples)), (*before, *after), (Utterance(len(before), len(before) + len(after)),))
            )
    found = logprobs(samples, policy, cpu())
    return [found[at : at + 3] for at in range(0, len(found), 3)]


def greedy(policy: Snapshot, doc: dict) -> str:
    """Three words, each the likeliest of those that may be said, one forward pass at a time."""
    network, tokenizer = load_policy(policy), load_tokenizer(policy.base or policy.path)
    ids, _ = encoded(policy, doc)
    never, said = network.generation_config.suppress_tokens, []
    for _ in range(3):
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([ids + said])).logits[0, -1]
        logits[never] = -math.inf
        said.append(int(logits.argmax()))
        if said[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(said, skip_special_tokens=True).partition("?")[0]


def folder_of_tasks(place: Path, docs: list[dict]) -> Path:
    place.mkdir(parents=True)
    (place / "data.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    for name, text in (("colours", CHOICE), ("likely", LIKELY), ("says", SAYS)):
        (place / f"{name}.yaml").write_text(COMMON.format(file=place / "data.jsonl", cache=place / "cache") + text)
    return place


def run(bench: Benchmark, policy: Snapshot, out: Path) -> dict:
    return bench.run(policy, out, cpu(), 0, lambda count: None)


@needs_harness
def test_the_figures_are_those_of_a_slow_direct_computation(model, tmp_path):
    said = [greedy(model, doc) for doc in DOCS]
    docs = [
        {**doc, "said": words if at < 9 else "nothing of the kind"}
        for at, (doc, words) in enumerate(zip(DOCS, said, strict=True))
    ]
    state = random.getstate(), torch.random.get_rng_state()
    found = run(Benchmark(ALL, include=str(folder_of_tasks(tmp_path / "tasks", docs)), batch=5), model, tmp_path)
    assert random.getstate() == state[0] and torch.equal(torch.random.get_rng_state(), state[1])

    options = likelihoods(model)
    right = [
        float(max(range(3), key=each.__getitem__) == doc["answer"]) for each, doc in zip(options, DOCS, strict=True)
    ]
    by_letter = [
        [log / len(choice) for log, choice in zip(each, doc["choices"], strict=True)]
        for each, doc in zip(options, DOCS, strict=True)
    ]
    normed = [
        float(max(range(3), key=each.__getitem__) == doc["answer"]) for each, doc in zip(by_letter, DOCS, strict=True)
    ]
    assert 0 < sum(right) < len(DOCS)
    assert found["colours"] == {
        "acc": pytest.approx(estimate(right, range(12)).to_json(), abs=1e-5),
        "acc_norm": pytest.approx(estimate(normed, range(12)).to_json(), abs=1e-5),
    }
    chosen = [each[doc["answer"]] for each, doc in zip(options, DOCS, strict=True)]
    assert found["likely"]["perplexity"]["mean"] == pytest.approx(math.exp(-sum(chosen) / len(chosen)), rel=1e-4)
    assert found["says"]["exact_match"]["mean"] == 0.75 and found["says"]["exact_match"]["n"] == 12
    assert len(set(said)) > 1 and json.loads((tmp_path / "results.json").read_text())["n-shot"] == {
        name: 0 for name in ALL
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Snapshot:
    place = tmp_path_factory.mktemp("small")
    return Tiny(width=32, heads=2, layers=1, mlp=64, context=64).create(
        place / "m", [[Message("user", " ".join(WORDS))]], 0
    )


@needs_harness
def test_limit_shots_and_chat_change_what_is_asked(small, tmp_path):
    include = str(folder_of_tasks(tmp_path / "tasks", [{**doc, "said": "red"} for doc in DOCS]))
    found = run(Benchmark(["colours", "says"], shots={"colours": 2}, include=include, limit=5), small, tmp_path)
    assert found["colours"]["acc"]["n"] == found["says"]["exact_match"]["n"] == 5
    assert json.loads((tmp_path / "results.json").read_text())["n-shot"] == {"colours": 2, "says": 0}
    plain, chat = (
        run(Benchmark(["likely"], include=include, chat=chat), small, tmp_path)["likely"] for chat in (False, True)
    )
    assert plain["perplexity"]["mean"] != chat["perplexity"]["mean"]


@needs_harness
@pytest.mark.slow
def test_two_processes_share_the_requests(small, tmp_path):
    """By the command line: the figures of one process alone."""
    include = str(folder_of_tasks(tmp_path / "tasks", [{**doc, "said": "red"} for doc in DOCS]))
    alone = run(Benchmark(ALL, include=include), small, tmp_path)
    words = ["task=benchmark", "benchmark=tasks", f"benchmark.tasks=[{','.join(ALL)}]", f"benchmark.include={include}"]
    words += ["model=hf", f"model.path={small.path}", "hardware=cpu_x2", "hydra.run.dir=out"]
    done = parley(*words, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "out/benchmark.json").read_text())["figures"]["model"]
    assert found["colours"] == alone["colours"] and found["says"] == alone["says"]
    assert found["likely"]["perplexity"]["mean"] == pytest.approx(alone["likely"]["perplexity"]["mean"], rel=1e-5)
    assert (
        "perplexity" in done.stdout and "it/s" not in done.stdout + done.stderr and "bootstrapping" not in done.stdout
    )


BAD = {
    "doc_to_text: !function utils.text": "asks for code",
    "class: {a: b}": "asks for code",
    "metric_list: [{metric: bleurt}]": "asks for code .metric: bleurt",
    "metric_list: [{metric: acc, hf_evaluate: true}]": "asks for code .hf_evaluate",
    "doc_to_text: !!python/name:os.system": "asks for code",
    "include: ../../other.yaml": "lies outside",
    "task: [": "cannot be read",
}


@needs_harness
@pytest.mark.parametrize("line", BAD)
def test_a_folder_of_tasks_is_data(line, tmp_path):
    (tmp_path / "other.yaml").write_text("task: other\n")
    (tmp_path / "tasks/deep").mkdir(parents=True)
    (tmp_path / "tasks/deep/one.yaml").write_text(f"{line}\n" if line.startswith("task") else f"task: one\n{line}\n")
    with pytest.raises(InputError, match=BAD[line]):
        Benchmark(["one"], include=str(tmp_path / "tasks")).check()


@needs_harness
def test_a_template_cannot_reach_out(small, tmp_path):
    include = folder_of_tasks(tmp_path / "tasks", DOCS)
    file = include / "likely.yaml"
    file.write_text(file.read_text().replace("{{thing}}", "{{thing.__class__.__mro__}}"))
    with pytest.raises(InputError, match="cannot be filled in: access to attribute '__class__'"):
        run(Benchmark(["likely"], include=str(include)), small, tmp_path)


@needs_harness
def test_what_is_missing_is_said_once(tmp_path):
    include = folder_of_tasks(tmp_path / "tasks", DOCS)
    (include / "data.jsonl").unlink()
    with pytest.raises(InputError, match=r"colours cannot be loaded: .*data\.jsonl"):
        Benchmark(["colours"], include=str(include)).check()
    with pytest.raises(InputError, match="there is no folder"):
        Benchmark(["colours"], include=str(tmp_path / "nowhere")).check()
    with pytest.raises(InputError, match="shots names likely"):
        Benchmark(["colours"], shots={"likely": 2})


@needs_harness
@pytest.mark.slow
@pytest.mark.parametrize("name", ["spag", "open_llm"])
def test_the_published_lists_are_the_harness_s_own(name):
    """The one name that it does not have is told; so it has all others."""
    with initialize_config_module("parley.conf", version_base="1.3"):
        node = compose("config", [f"benchmark={name}"]).benchmark
    with pytest.raises(InputError) as told:
        Benchmark([*node.tasks, "piqqa"]).check()
    assert str(told.value).splitlines() == ["benchmark.tasks:", "  - there is no task piqqa; did you mean piqa?"]
    assert set(node.shots) <= set(node.tasks)


@pytest.mark.parametrize("own", [None, 3, 0])
def test_open_llm_has_the_shots_of_spins_evaluation(own, monkeypatch):
    """The harness's own task is told them, but for one that takes none."""

    class Task:
        def __init__(self):
            self.known = {"num_fewshot": own}

        def get_config(self, key):
            return self.known[key]

        def set_config(self, key, value):
            self.known[key] = value

        def set_fewshot_seed(self, seed):
            self.known["seed"] = seed

    monkeypatch.setattr(benchmark, "find_spec", lambda name: True)
    with initialize_config_module("parley.conf", version_base="1.3"):
        made = instantiate(compose("config", ["benchmark=open_llm"]).benchmark, _convert_="all")
    told = {}
    for name in made.tasks:
        task = Task()
        made._examples(task, name, 7)
        told[name] = task.known
    published = {"arc_challenge": 25, "hellaswag": 10, "truthfulqa_mc2": 0, "mmlu": 5, "winogrande": 5, "gsm8k": 5}
    expected = dict.fromkeys(published, 0) if own == 0 else published
    assert told == {name: {"num_fewshot": shots, "seed": 7} for name, shots in expected.items()}


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(benchmark, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'parley-lm\[benchmark\]'"):
        Benchmark(["piqa"])


# --- in a run --------------------------------------------------------------------------------------------------------

SMALL = [
    "experiment=spin_tiny", "iterations=1", "model.width=32", "model.layers=1", "model.mlp=64",
    "imitate.learner.epochs=1",
    "play.scenarios=8", "eval.scenarios=4", "eval.greedy=4", "eval.validation=4", "eval.transcripts=1",
    "learner.epochs=1",
    "play.sampling.max_tokens=4", "eval.sampling.max_tokens=4",
]  # fmt: skip


def config(*words: str):
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", list(words))


@needs_harness
def test_every_iteration_of_a_run_has_its_figures_and_a_look_back_finds_the_same(tmp_path, capsys):
    asked = [
        "benchmark=tasks",
        "benchmark.tasks=[colours,likely]",
        f"benchmark.include={folder_of_tasks(tmp_path / 'tasks', DOCS)}",
    ]
    training.selfplay(config(*SMALL, *asked), tmp_path / "run")
    said = " ".join(capsys.readouterr().out.split())
    assert all(word in said for word in ("perplexity", "iteration 0", "iteration 1"))
    iterations = json.loads((tmp_path / "run/summary.json").read_text())["iterations"]
    rows = [row["policies"]["learner"] for row in iterations]
    assert [row["benchmark"]["colours"]["acc"]["n"] for row in rows] == [12, 12]
    assert "benchmark/learner" in iterations[1]["seconds"]
    flat = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["learner.benchmark.likely.perplexity"] for row in flat] == [
        row["benchmark"]["likely"]["perplexity"]["mean"] for row in rows
    ]
    page = (tmp_path / "run/report/index.html").read_text()
    assert "benchmark colours" in page and 'aria-label="likely perplexity by iteration"' in page
    (tmp_path / "run/iter_001/benchmark/learner/stage.json").touch()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("benchmark/learner/*")}
    training.selfplay(config(*SMALL, *asked, f"resume={tmp_path}/run"), tmp_path / "run")
    assert (
        before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("benchmark/learner/*")}
        and len(before) == 4
    )

    measuring.benchmark(config("task=benchmark", *asked), tmp_path / "back", str(tmp_path / "run"), None, "all")
    found = json.loads((tmp_path / "back/benchmark.json").read_text())
    assert list(found["figures"]) == ["start", "iter_001"]
    assert list(found["figures"].values()) == [row["benchmark"] for row in rows]
    assert len((tmp_path / "back/metrics.jsonl").read_text().splitlines()) == 2


@needs_harness
@pytest.mark.parametrize("model", ["qlora"], indirect=True)
def test_the_task_takes_an_adapter_on_its_base(model, tmp_path, capsys):
    asked = [
        "benchmark=tasks",
        "benchmark.tasks=[likely]",
        f"benchmark.include={folder_of_tasks(tmp_path / 'tasks', DOCS)}",
    ]
    measuring.benchmark(
        config("task=benchmark", "model=hf", f"model.path={model.path}", *asked),
        tmp_path / "out",
        None,
        model.base,
        "kept",
    )
    chosen = [each[doc["answer"]] for each, doc in zip(likelihoods(model), DOCS, strict=True)]
    found = json.loads((tmp_path / "out/benchmark.json").read_text())["figures"]["model"]["likely"]["perplexity"]
    assert found["mean"] == pytest.approx(math.exp(-sum(chosen) / len(chosen)), rel=1e-4)
    assert "perplexity" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"is an adapter that names no base: say model\.base"):
        measuring.benchmark(
            config("task=benchmark", "model=hf", f"model.path={model.path}", *asked),
            tmp_path / "two",
            None,
            None,
            "kept",
        )


def test_a_task_without_benchmark_or_model_says_what_to_give(tmp_path):
    with pytest.raises(ConfigError, match="say benchmark=spag"):
        measuring.benchmark(config("task=benchmark"), tmp_path / "one", None, None, "kept")
    if find_spec("lm_eval"):
        with pytest.raises(ConfigError, match="which model"):
            measuring.benchmark(config("task=benchmark", "benchmark=spag"), tmp_path / "two", None, None, "kept")


def test_the_model_of_a_package_can_be_asked():
    words = ["task=benchmark", "model=smollm2", "model.package=no_such_package"]
    with pytest.raises(InputError, match=r"no_such_package is not installed: make smollm"):
        _measured(config(*words), None, None, "kept")


def test_figures_of_groups_stand_for_their_tasks():
    row = {"alias": "x", "sample_len": 4}
    found = benchmark.figures(
        {
            "results": {
                "a": {**row, "acc,none": 0.5, "acc_stderr,none": 0.1},
                "b": {**row, "acc,none": 1.0, "acc_stderr,none": "N/A"},
                "c": {**row, "em,strict": 0.25},
            },
            "groups": {"g": {**row, "sample_len": 8, "acc,none": 0.75, "acc_stderr,none": 0.05}},
            "group_subtasks": {"g": ["a", "b"]},
        }
    )
    assert set(found) == {"g", "c"} and found["c"]["em_strict"] == {
        "mean": 0.25,
        "low": None,
        "high": None,
        "n": 4,
        "clusters": 4,
    }
    assert found["g"]["acc"]["low"] == pytest.approx(0.75 - 2.3646 * 0.05, abs=1e-3)
