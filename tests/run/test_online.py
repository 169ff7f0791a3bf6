"""Online objectives as options: each is built, and what does not suit a policy gradient is refused beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from parley.credit import Advantage
from parley.objectives.policy_gradient import PolicyGradient
from parley.run.build import build
from parley.run.config import ConfigError

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
