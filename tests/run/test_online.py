"""Online objectives as options: each is built, and what does not suit a policy gradient is refused beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
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
