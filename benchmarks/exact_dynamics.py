"""The policy gradient in a small game without model or sampling: softmax policies that follow their true gradients."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from parley.games.tree import Info, Node, Policy, Tree, exploitability


def gradients(tree: Tree, policy: Policy, magnet: Policy, kl_coef: float) -> dict[Info, dict[str, float]]:
    """By logit: the gradient of the own seat's expected return less `kl_coef` times KL(policy || magnet), both
    weighted by how likely the policy comes to the information set (as a sampled round weighs them)."""
    reach: dict[Info, float] = defaultdict(float)
    paid: dict[Info, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def walk(node: Node, chance: float) -> dict[str, float]:
        """Expected returns from a node on; notes what each reply pays there."""
        if node.info is None:
            return dict(node.returns)
        total: dict[str, float] = defaultdict(float)
        reach[node.info] += chance
        for said, child in node.children.items():
            p = policy[node.info][said]
            found = walk(child, chance * p)
            paid[node.info][said] += chance * found[node.info[0]]
            for seat, each in found.items():
                total[seat] += p * each
        return total

    for chance, root in tree.roots:
        walk(root, chance)
    return {info: _gradient(policy[info], paid[info], reach[info], magnet[info], kl_coef) for info in tree.requests}


def _gradient(
    own: dict[str, float], paid: dict[str, float], reach: float, magnet: dict[str, float], kl_coef: float
) -> dict[str, float]:
    worth = {said: paid[said] - kl_coef * reach * math.log(p / magnet[said]) for said, p in own.items()}
    mean = sum(p * worth[said] for said, p in own.items())
    return {said: p * (worth[said] - mean) for said, p in own.items()}


def steps(
    tree: Tree, start: Policy, kl_coef: float, magnet_steps: int | None, rate: float
) -> Iterator[tuple[int, float]]:
    """(step, exploitability) of gradient ascent on the logits, beginning at `start`, for ever. The magnet is the
    start; after every `magnet_steps` steps (None: never) it is the policy of then."""
    policy = {info: {said: max(p, 1e-9) for said, p in own.items()} for info, own in start.items()}
    magnet, step = policy, 0
    while True:
        yield step, exploitability(tree, policy)
        step += 1
        found = gradients(tree, policy, magnet, kl_coef)
        policy = {info: _moved(own, found[info], rate) for info, own in policy.items()}
        if magnet_steps and step % magnet_steps == 0:
            magnet = policy


def _moved(own: dict[str, float], gradient: dict[str, float], rate: float) -> dict[str, float]:
    weights = {said: p * math.exp(rate * gradient[said]) for said, p in own.items()}
    total = sum(weights.values())
    return {said: max(each / total, 1e-12) for said, each in weights.items()}
