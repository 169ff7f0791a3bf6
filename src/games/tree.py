"""The game tree of an enumerable game: exact values, best responses and exploitability of policies.

Chance draws a scenario uniformly; a node is a request, its moves are the listed legal replies. An information set is a
seat with its view, the prompt of a language model; because views only grow, seats have perfect recall. The code is
independent of the game.

A policy is a behaviour strategy: information set -> reply -> probability, for all seats together.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ..system.files import InputError
from .base import Game, Message, Reply, Request, Scenario

Info: TypeAlias = tuple[str, tuple[Message, ...]]
Policy: TypeAlias = Mapping[Info, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Node:
    """A decision of a seat, or the end of a match (with `returns` and no children)."""

    info: Info | None = None
    children: Mapping[str, Node] = field(default_factory=dict)
    returns: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tree:
    """A whole game.

    seats     the game's roles, in order
    roots     (probability, first node) of each scenario
    requests  one request of each information set
    nodes     number of nodes, ends included
    """

    seats: tuple[str, ...]
    roots: tuple[tuple[float, Node], ...]
    requests: Mapping[Info, Request]
    nodes: int

    def replies(self, info: Info) -> tuple[str, ...]:
        """The legal replies of an information set."""
        return tuple((self.requests[info].observation or {})["legal"])


@dataclass(frozen=True, slots=True)
class Response:
    """A seat's best response: the reply in each of its information sets, and its return in points."""

    value: float
    replies: Mapping[Info, str]


def grown(game: Game, at_most: int) -> Tree:
    """Builds the tree of `game`. InputError if it does not declare `facts.enumerable`, or has more than `at_most`
    nodes."""
    if not game.facts.enumerable:
        raise InputError(
            f"{game.name} cannot be walked: its facts do not declare it enumerable (games that do: kuhn, leduc, matrix)"
        )
    deals = Counter(json.dumps(each.data, sort_keys=True) for each in game.scenarios("test"))
    grower = _Grower(game, at_most)
    total = deals.total()
    roots = [(count / total, grower.node(Scenario("deal", json.loads(data)), [])) for data, count in deals.items()]
    return Tree(game.roles, tuple(roots), grower.requests, grower.nodes)


class _Grower:
    """Builds the tree by playing every sequence of legal replies."""

    def __init__(self, game: Game, at_most: int) -> None:
        self.game, self.at_most, self.nodes = game, at_most, 0
        self.requests: dict[Info, Request] = {}

    def node(self, scenario: Scenario, said: Sequence[str]) -> Node:
        """The node after these replies. Simultaneous requests become consecutive decisions, none of which sees the
        others."""
        self.nodes += 1
        if self.nodes > self.at_most:
            raise InputError(
                f"{self.game.name} has more than {self.at_most:,} nodes: say task.at_most=… to enumerate it anyway, "
                "or train an exploiter against the policy"
            )
        match, left = self.game.match(scenario, 0), list(said)
        open_ = match.start()
        while open_ and len(left) >= len(open_):
            open_ = match.step([Reply(request.id, left.pop(0)) for request in open_])
        if not open_:
            return Node(returns=dict(match.result().returns))
        request = open_[len(left)]
        info = (request.seat, request.messages)
        self.requests.setdefault(info, request)
        replies = (request.observation or {})["legal"]
        return Node(info, {reply: self.node(scenario, [*said, reply]) for reply in replies})


def values(tree: Tree, policy: Policy) -> dict[str, float]:
    """Expected return of each seat if all play `policy`, in points."""
    total = dict.fromkeys(tree.seats, 0.0)
    for reach, node in _reached(tree, policy):
        for seat, each in node.returns.items():
            total[seat] += reach * each
    return total


def reaches(tree: Tree, policy: Policy) -> dict[Info, float]:
    """Probability that a match of `policy` reaches each information set."""
    total = dict.fromkeys(tree.requests, 0.0)
    for reach, node in _reached(tree, policy):
        if node.info is not None:
            total[node.info] += reach
    return total


def _reached(tree: Tree, policy: Policy) -> Iterator[tuple[float, Node]]:
    """(probability, node) of all nodes that `policy` reaches."""
    waiting = list(tree.roots)
    while waiting:
        reach, node = waiting.pop()
        yield reach, node
        if node.info is not None:
            chances = policy[node.info]
            waiting += [
                (reach * p, child) for said, child in node.children.items() if (p := chances.get(said, 0.0)) > 0
            ]


def best_response(tree: Tree, seat: str, policy: Policy) -> Response:
    """The best response of `seat` while the others play `policy`; the first listed reply among equals."""
    members: dict[Info, list[tuple[float, Node]]] = defaultdict(list)

    def gather(node: Node, reach: float) -> None:
        if node.info is None:
            return
        mine = node.info[0] == seat
        if mine:
            members[node.info].append((reach, node))
        for said, child in node.children.items():
            gather(child, reach if mine else reach * policy[node.info].get(said, 0.0))

    for chance, root in tree.roots:
        gather(root, chance)
    best: dict[Info, str] = {}

    def worth(node: Node) -> float:
        if node.info is None:
            return node.returns[seat]
        if node.info[0] == seat:
            return worth(node.children[best[node.info]])
        chances = policy[node.info]
        return sum(p * worth(child) for said, child in node.children.items() if (p := chances.get(said, 0.0)) > 0)

    for info in sorted(members, key=lambda each: -len(each[1])):  # later decisions have longer views
        gains = {said: sum(p * worth(node.children[said]) for p, node in members[info]) for said in tree.replies(info)}
        best[info] = max(gains, key=gains.__getitem__)
    return Response(sum(chance * worth(root) for chance, root in tree.roots), best)


def gains(tree: Tree, policy: Policy) -> dict[str, float]:
    """Each seat's gain by its best response, in points; their sum is NashConv."""
    now = values(tree, policy)
    return {seat: best_response(tree, seat, policy).value - now[seat] for seat in tree.seats}


def exploitability(tree: Tree, policy: Policy) -> float:
    """NashConv divided by the number of seats: the gain of a best responder in a random seat (in a zero-sum game its
    average winnings per match, in points)."""
    found = gains(tree, policy)
    return sum(found.values()) / len(found)


def averaged(tree: Tree, policies: Sequence[Policy]) -> Policy:
    """The uniform mixture of `policies` (one is drawn before each match) as a behaviour strategy: in each information
    set the policies are weighted by their own reach probabilities (equally if all are 0)."""
    sums: dict[Info, dict[str, float]] = {info: dict.fromkeys(tree.replies(info), 0.0) for info in tree.requests}
    for policy in policies:
        for info, reach in _own_reaches(tree, policy).items():
            for said in sums[info]:
                sums[info][said] += reach * policy[info].get(said, 0.0)
    return {info: _normal(found) or _mean(policies, info) for info, found in sums.items()}


def uniform(tree: Tree) -> Policy:
    """The policy that plays all legal replies with equal probability."""
    return {info: dict.fromkeys(replies := tree.replies(info), 1 / len(replies)) for info in tree.requests}


def _own_reaches(tree: Tree, policy: Policy) -> dict[Info, float]:
    """Probability of a seat's own replies on the way to each of its information sets."""
    found: dict[Info, float] = {}

    def walk(node: Node, own: Mapping[str, float]) -> None:
        if node.info is None:
            return
        seat = node.info[0]
        found[node.info] = own.get(seat, 1.0)
        for said, child in node.children.items():
            walk(child, {**own, seat: own.get(seat, 1.0) * policy[node.info].get(said, 0.0)})

    for _, root in tree.roots:
        walk(root, {})
    return found


def _normal(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {said: each / total for said, each in weights.items()} if total > 0 else {}


def _mean(policies: Sequence[Policy], info: Info) -> dict[str, float]:
    return {said: sum(each[info].get(said, 0.0) for each in policies) / len(policies) for said in policies[0][info]}
