"""Online objectives as options: each is built, and what does not suit a policy gradient is refused beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from parley.batches.packing import Budget, pack
from parley.credit import Advantage
from parley.data.store import Matches
from parley.objectives.policy_gradient import PolicyGradient
from parley.run.build import build, running
from parley.run.config import ConfigError
from parley.run.loop import Loop

FORMS = [
    "policy_gradient", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "reinforce_pp", "rae", "marshal", "tinker",
    "prime_rl",
]  # fmt: skip
ON_POLICY = "play.sampling.temperature=1.0"


def config(*words: str) -> Any:
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", list(words))


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_built(name: str, tmp_path: Path) -> None:
    recipe = build(config(f"objective={name}", ON_POLICY), tmp_path).policies["learner"].recipe(1)
    assert isinstance(recipe.credit, Advantage) and isinstance(recipe.learner.loss, PolicyGradient)
    assert recipe.credit.zeros or not recipe.learner.loss.penalised


WORDS = {
    "mean of the others": ("baseline", "leave_one_out"), "running mean by seat, decay 0.95": ("baseline", "ema"),
    "`of: reply`": ("of", "reply"), "`scale: group`": ("scale", "group"), "`scale: tokens`": ("scale", "tokens"),
    "cispo": ("kind", "cispo"), "no clip": ("kind", "importance"), "mask of probabilities": ("kind", "mask"),
    "mean log-ratio": ("ratio", "utterance"), "dual clip 1.4": ("dual", 1.4), "clip 0.2 and 0.28": ("high", 0.28),
    "clip 3e-4 and 4e-4": ("high", 4e-4), "no lower bound, at most 5": ("high", 4.0), "KL k1": ("kl", "k1"),
    "KL k3": ("kl", "k3"), "k3 0.04": ("kl_coef", 0.04), "k3 0.2": ("kl_coef", 0.2), "k1 0.05": ("kl_coef", 0.05),
    "k1 0.01": ("kl_coef", 0.01), "squared log-ratio to the sampler 1e-3": ("kl_coef", 2e-3),
    "in the reward": ("kl_in", "reward"), "per utterance": ("per", "utterance"), "sums over replies": ("length", 1),
    "sums divided by `play.sampling.max_tokens`": ("length", "${play.sampling.max_tokens}"),
}  # fmt: skip


def test_the_page_says_of_each_form_what_its_file_sets() -> None:
    """A phrase stands in a form's row of docs/online.md if and only if its file has the setting."""
    root = Path(__file__).parents[2]
    cells = [line.split("|") for line in (root / "docs/online.md").read_text().splitlines() if line.startswith("| `")]
    told = {each[1].strip(" `"): f"{each[2]} {each[3]}" for each in cells if len(each) == 6}
    assert [name for name in told if name in FORMS] == FORMS
    for name in FORMS[1:]:
        file = OmegaConf.to_container(OmegaConf.load(root / f"conf/objective/{name}.yaml"))
        assert isinstance(file, dict)
        own = {**file.get("credit", {}), **file.get("loss", {})}
        for words, (key, value) in WORDS.items():
            assert (words in told[name]) == (own.get(key) == value), f"{name}: {words}"


def test_sampling_that_gives_no_ratio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"temperature: is 0\.7, .*say play\.sampling\.temperature=1\n"):
        build(config("objective=grpo", "play.sampling.top_k=50"), tmp_path)
    with pytest.raises(ConfigError, match=r"say play\.sampling\.top_p=1"):
        build(config("objective=grpo", ON_POLICY, "play.sampling.top_p=0.9"), tmp_path)


def test_a_penalty_wants_the_replies_that_it_is_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"say objective\.credit\.zeros=true"):
        build(config("objective=policy_gradient", ON_POLICY, "objective.loss.kl_coef=0.1"), tmp_path)


@pytest.mark.slow
def test_a_round_with_branches_is_trained_on(tmp_path: Path) -> None:
    """Each match has two continuations of one of its turns, which share its tokens and are compared with it."""
    words = [
        "objective=policy_gradient", ON_POLICY, "play.scenarios=3", "play.group=2", "play.branches=2", "seed=3",
        "imitate.matches=60", "imitate.validation=0",
    ]  # fmt: skip
    with running(config(*words), tmp_path / "run") as run:
        loop = Loop(run)
        history = [loop.start()]
        loop.iteration(1, history)
    matches = list(Matches(tmp_path / "run/iter_001/play"))
    roots = {each.id: each for each in matches if each.parent is None}
    assert len(roots) == 6 and len(matches) == 18
    for each in matches:
        if each.parent is not None:
            root, turns = roots[each.parent[0]], each.parent[1]
            assert each.turns[:turns] == root.turns[:turns] and len(each.turns) > turns
            assert each.policies == root.policies
    learned = run.outputs("iter_001/learn")["learner"]
    assert learned["learn"]["steps"] >= 1 and learned["credit"]["logs"] > 12
    credited = Advantage(by=["scenario", "seat", "opponents", "prefix"])(
        Matches(tmp_path / "run/iter_001/play"), "learner"
    )
    trees = pack(credited.samples, [[at] for at in range(len(credited.samples))], Budget(10**6, 10**6))
    assert sum(sum(micro.sizes) for micro in trees) < 0.8 * sum(len(sample.token_ids) for sample in credited.samples)
