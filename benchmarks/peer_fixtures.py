"""Computes tests/fixtures/peers.json with peers' own functions: their losses and advantages on a few made sequences.

    python benchmarks/peer_fixtures.py verl=CHECKOUT prime_rl=CHECKOUT spiral=CHECKOUT tinker=CHECKOUT \\
        marshal=CHECKOUT trl=

The named functions are taken out of the checkouts, so that nothing else of them need be installed; TRL's loss is that
of the installed package. Peers that are not named keep their numbers. Only numbers are stored, with each commit.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import numpy as np
import torch

FILE = Path(__file__).resolve().parents[1] / "tests/fixtures/peers.json"
LENGTHS = (3, 1, 6, 4, 2, 5)


def functions(source: Path, names: list[str], known: dict[str, Any]) -> SimpleNamespace:
    """The functions, classes and methods (Class.method) `names` of a file, without their decorators, in the namespace
    `known`."""
    tree = ast.parse(source.read_text())
    found = {getattr(node, "name", ""): node for node in tree.body}
    for node in [each for each in tree.body if isinstance(each, ast.ClassDef)]:
        found |= {f"{node.name}.{getattr(each, 'name', '')}": each for each in node.body}
    chosen = [node for name, node in found.items() if name in names]
    for node in chosen:
        node.decorator_list = []  # type: ignore[attr-defined]
    exec(compile(ast.Module(chosen, []), str(source), "exec"), known)
    return SimpleNamespace(**{name: known[name] for name in (each.rpartition(".")[2] for each in names)})


def made() -> dict[str, Any]:
    """Log-probs of six sequences [6, 6] (now, old, reference), their mask, advantages, rewards and groups."""
    draw = np.random.default_rng(20261130)
    mask = np.array([[t < n for t in range(max(LENGTHS))] for n in LENGTHS])
    now = -np.abs(draw.normal(1.2, 0.8, mask.shape)) - 0.01
    near = {
        name: np.minimum(now + draw.normal(0, width, mask.shape), -1e-3)
        for name, width in (("old", 0.3), ("fixed", 0.5))
    }
    advantages = draw.normal(0, 1.5, len(LENGTHS))
    return {"now": now, **near, "mask": mask, "advantages": advantages, "rewards": [8.0, 0.0, 2.5, 2.5, -1.0, 4.0],
            "groups": [0, 0, 1, 1, 1, 0]}  # fmt: skip


def told(data: dict[str, Any], loss: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    """A loss of the log-probs now, and its gradient by sequence."""
    now = torch.tensor(data["now"], requires_grad=True)
    value = loss(now)
    (slope,) = torch.autograd.grad(value, now)
    return {"loss": value.item(), "gradient": _ragged(slope.numpy())}


def _ragged(rows: Any) -> list[list[float]]:
    return [[float(x) for x in row[:n]] for row, n in zip(rows, LENGTHS, strict=True)]


def verl(folder: Path, data: dict[str, Any]) -> dict[str, Any]:
    """Losses and advantages of verl."""
    space: dict[str, Any] = {"torch": torch, "Optional": Optional, "Any": Any}
    masked = functions(folder / "verl/utils/torch_functional.py", [
        "masked_sum", "masked_mean", "masked_var", "masked_whiten"], dict(space))  # fmt: skip
    names = [
        "agg_loss", "compute_policy_loss_vanilla", "compute_policy_loss_gspo", "compute_policy_loss_cispo",
        "compute_grpo_outcome_advantage", "compute_rloo_outcome_advantage",
        "compute_reinforce_plus_plus_outcome_advantage", "kl_penalty_forward",
    ]  # fmt: skip
    Config = type("Config", (SimpleNamespace,), {"get": lambda self, name, other: getattr(self, name, other)})
    Algo = type("Algo", (SimpleNamespace,), {})
    space |= {"np": np, "verl_F": masked, "defaultdict": defaultdict, "ActorConfig": Config, "AlgoConfig": Algo}
    space |= {"DictConfig": Config}
    core = functions(folder / "verl/trainer/ppo/core_algos.py", names, space)
    mask, old = torch.tensor(data["mask"]).double(), torch.tensor(data["old"])
    advantages = torch.tensor(data["advantages"])[:, None].expand(mask.shape)

    def policy(name: str, how: str, low: float, high: float) -> dict[str, Any]:
        config = Config(
            clip_ratio=low, clip_ratio_low=low, clip_ratio_high=high, clip_ratio_c=3.0, global_batch_info={}
        )
        loss = getattr(core, f"compute_policy_loss_{name}")
        return told(data, lambda now: loss(old, now, advantages, mask, loss_agg_mode=how, config=config)[0])

    rewards = torch.zeros_like(mask)
    for row, (reward, n) in enumerate(zip(data["rewards"], LENGTHS, strict=True)):
        rewards[row, n - 1] = reward
    groups = np.array(data["groups"])
    grpo = core.compute_grpo_outcome_advantage
    kl = {name: core.kl_penalty_forward(torch.tensor(data["now"]), torch.tensor(data["fixed"]), name) for name in
          ("kl", "mse", "low_var_kl")}  # fmt: skip
    return {
        "commit": commit(folder),
        "losses": {
            "vanilla": policy("vanilla", "token-mean", 0.2, 0.28),
            "gspo": policy("gspo", "seq-mean-token-mean", 0.1, 0.15),
            "cispo": policy("cispo", "token-mean", 0.2, 0.2),
        },
        "kl": {name: _ragged(value.numpy()) for name, value in kl.items()},
        "advantages": {
            "grpo": _ragged(grpo(rewards.clone(), mask, groups)[0].numpy()),
            "dr_grpo": _ragged(grpo(rewards.clone(), mask, groups, norm_adv_by_std_in_grpo=False)[0].numpy()),
            "rloo": _ragged(core.compute_rloo_outcome_advantage(rewards.clone(), mask, groups)[0].numpy()),
            "reinforce_pp": _ragged(
                core.compute_reinforce_plus_plus_outcome_advantage(rewards, mask, config=Algo(gamma=1.0))[0].numpy()
            ),
        },
    }


def prime_rl(folder: Path, data: dict[str, Any]) -> dict[str, Any]:
    """prime-rl's default loss, a sum over all tokens, and its running role baseline."""
    space: dict[str, Any] = {"torch": torch, "Tensor": torch.Tensor, "dataclass": dataclasses.dataclass}
    space |= {name: defaultdict(lambda: torch.Tensor) for name in ("Float", "Bool")}
    space |= {"DefaultLossConfig": Any, "LossInputs": Any, "LossOutputs": lambda loss, metrics: loss}
    names = ["_safe_mean", "compute_importance_ratio_and_mismatch_kl", "default_loss_fn"]
    loss = functions(folder / "src/prime_rl/trainer/rl/loss.py", names, space).default_loss_fn
    config = SimpleNamespace(dppo_mask_low=0.05, dppo_mask_high=0.1, adv_tau=1.0, kl_tau=1e-3)
    mask = torch.tensor(data["mask"])
    advantages = torch.tensor(data["advantages"])[:, None].expand(mask.shape)
    inputs = {"inference_logprobs": torch.tensor(data["old"])[mask], "advantages": advantages[mask]}

    def summed(now: torch.Tensor) -> torch.Tensor:
        given = SimpleNamespace(trainer_logprobs=now[mask], loss_mask=mask[mask], loss_weights=None, **inputs)
        return loss(given, config)  # type: ignore[no-any-return]

    return {"commit": commit(folder), "losses": {"default": told(data, summed)}}


def spiral(folder: Path, data: dict[str, Any]) -> dict[str, Any]:
    """SPIRAL's running mean: what is taken off each reward of one role, in turn."""
    mean = functions(folder / "spiral/utils.py", ["EMA"], {}).EMA(0.95)
    above = []
    for reward in data["rewards"]:
        above.append(reward - mean.get())
        mean.update(reward)
    return {"commit": commit(folder), "advantages": {"rae": above}}


def tinker(folder: Path, data: dict[str, Any]) -> dict[str, Any]:
    """tinker-cookbook's centred rewards, by group."""
    space = {"torch": torch, "TrajectoryGroup": Any}
    centred = functions(folder / "tinker_cookbook/rl/data_processing.py", ["compute_advantages"], space)
    rewards = [[r for r, g in zip(data["rewards"], data["groups"], strict=True) if g == group] for group in (0, 1)]
    groups = [SimpleNamespace(get_total_rewards=lambda each=each: each) for each in rewards]
    return {
        "commit": commit(folder),
        "advantages": {"centred": [each.tolist() for each in centred.compute_advantages(groups)]},
    }


def marshal(folder: Path, data: dict[str, Any]) -> dict[str, Any]:
    """MARSHAL's loss, and its advantages of one reply each: centred by player, summed, whitened over tokens, once each
    (the configured run whitens the rewards as well, and centres distinct values again)."""
    space: dict[str, Any] = {"torch": torch, "Optional": Optional, "Dict": dict, "DataProto": Any, "AgenticConfig": Any}
    names = [
        "masked_mean", "masked_var", "masked_whiten", "agg_loss", "compute_approx_kl", "compute_reinforce_return",
        "score_normalize", "reward_normalize_by_player", "reward_postprocess_agentic", "compute_advantage",
    ]  # fmt: skip
    space |= {"AdaptiveKLController": Any}
    theirs = functions(folder / "roll/utils/functionals.py", names, space)
    loss = functions(folder / "roll/pipeline/base_worker.py", ["ActorWorker.loss_func"], space).loss_func
    mask = torch.tensor([[0, *row] for row in data["mask"].astype(int).tolist()])  # the first token is a prompt's
    config = SimpleNamespace(
        pg_clip=0.2, pg_clip_high=0.2, dual_clip_loss=True, use_kl_loss=True,
        kl_loss_coef=0.2, entropy_loss_coef=0.0, use_turn_scores=True, reward_clip=None, add_token_level_kl=False,
        reward_normalization=SimpleNamespace(grouping="tags", method="mean", separate_norm_for_selfplay=True),
    )  # fmt: skip

    def of(now: torch.Tensor, how: str) -> torch.Tensor:
        strategy = SimpleNamespace(
            op_compute_log_probs=lambda **_: now, op_compute_entropy=lambda **_: torch.zeros_like(now)
        )
        batch = {
            "response_mask": mask, "input_ids": None, "ref_log_probs": torch.tensor(data["fixed"]),
            "old_log_probs": torch.tensor(data["old"]),
            "advantages": torch.tensor(data["advantages"])[:, None].expand(now.shape),
        }  # fmt: skip
        worker = SimpleNamespace(strategy=strategy, pipeline_config=SimpleNamespace(**vars(config), loss_agg_mode=how))
        return loss(worker, SimpleNamespace(batch=batch), None)[0]  # type: ignore[no-any-return]

    ends = torch.zeros(mask.shape)
    rewards = torch.zeros(mask.shape)
    for row, (reward, n) in enumerate(zip(data["rewards"], LENGTHS, strict=True)):
        ends[row, n], rewards[row, n] = 1.0, reward
    batch = {"token_level_rewards": rewards, "turn_end_positions": ends, "response_mask": mask}
    players = {"group_ids": [f"{group}_p{group}" for group in data["groups"]]}
    given = SimpleNamespace(batch=batch, non_tensor_batch=players, meta_info={})
    theirs.reward_postprocess_agentic(given, config)
    theirs.compute_advantage(given, 1.0, 1.0, "reinforce", whiten_advantages=True)
    return {
        "commit": commit(folder),
        "losses": {
            "marshal": told(data, lambda now: of(now, "token-mean")),
            "by_log": told(data, lambda now: of(now, "seq-mean-token-sum")),
        },
        "advantages": {"marshal": _ragged(batch["advantages"].numpy())},
    }


def trl(folder: Path, data: dict[str, Any]) -> dict[str, Any]:
    """The loss of TRL's GRPOTrainer, which is given the log-probs in place of a model's; of the installed package."""
    import trl as package
    from trl import GRPOTrainer

    mask = torch.tensor(data["mask"]).double()
    inputs = {
        "prompt_ids": torch.zeros(6, 1), "prompt_mask": torch.ones(6, 1), "completion_ids": torch.zeros(6, 6),
        "completion_mask": mask, "advantages": torch.tensor(data["advantages"]), "num_items_in_batch": mask.sum(),
        "old_per_token_logps": torch.tensor(data["old"]), "ref_per_token_logps": torch.tensor(data["fixed"]),
    }  # fmt: skip

    def loss(kind: str, level: str, low: float, high: float, beta: float = 0.0) -> dict[str, Any]:
        def of(now: torch.Tensor) -> torch.Tensor:
            accelerator = SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x)
            args = SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1)
            mine = SimpleNamespace(
                loss_type=kind, importance_sampling_level=level, epsilon_low=low, epsilon_high=high, beta=beta,
                aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=False,
                vllm_importance_sampling_correction=False, model=SimpleNamespace(training=True), args=args,
                current_gradient_accumulation_steps=1, max_completion_length=64, accelerator=accelerator,
                _entropy_bonus_enabled=False, _metrics=defaultdict(lambda: defaultdict(list)),
                _get_per_token_logps_and_entropies=lambda *_, **__: (now, torch.zeros_like(now), None),
            )  # fmt: skip
            return GRPOTrainer._compute_loss(mine, None, inputs)  # type: ignore[no-any-return]

        return told(data, of)

    return {
        "version": package.__version__,
        "losses": {
            "grpo": loss("grpo", "token", 0.2, 0.2, 0.04),
            "dr_grpo": loss("dr_grpo", "token", 0.2, 0.2),
            "dapo": loss("dapo", "token", 0.2, 0.28),
            "cispo": loss("cispo", "token", 0.2, 1.1),
            "gspo": loss("grpo", "sequence", 0.1, 0.15),
        },
    }


def commit(folder: Path) -> str:
    return subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    folders = {name: Path(path) for name, path in (word.split("=", 1) for word in sys.argv[1:])}
    data = made()
    kept = {name: each for name, each in json.loads(FILE.read_text()).items() if name != "inputs"}
    found = kept | {name: globals()[name](folder, data) for name, folder in folders.items()}
    plain = {name: _ragged(data[name]) for name in ("now", "old", "fixed")}
    plain |= {name: [float(x) for x in data[name]] for name in ("advantages", "rewards")}
    FILE.write_text(json.dumps({"inputs": plain | {"groups": data["groups"]}, **found}, indent=1) + "\n")
    print(f"written: {FILE}")
