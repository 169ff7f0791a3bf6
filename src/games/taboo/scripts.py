"""Scripted talkers: the sentences of the lexicon and a few more, so that a tiny model can learn to play from them.

The attacker tells what goes with the word (`it is red`) or asks for something that it goes with (`what is red ?`),
which invites the defender to name one (`cherry is red`). The defender keeps count of the concepts that fit everything
it has heard, and guesses when few are left. If it names one that fits, that may well be the word; one that cannot be it
gives nothing away, and so does staying vague. A good attacker asks, and brings up nothing that leaves only one concept.
Scripts see the observation of the request and nothing else, and what they tell of the word is true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from ..base import Request, Script
from .lexicon import lexicon

SMALL_TALK = ("hello", "hi there", "let me think", "how are you today", "nice to meet you")
VAGUE = ("tell me more", "i am not sure", "go on")
Range: TypeAlias = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Talker:
    """A scripted policy and its skill; each range is drawn from once a match, uniformly.

    slip      chance that an attacker's sentence is about the word by name, which breaks the rules
    ask       chance that the attacker asks instead of telling
    guard     chance that it does without the cues that would leave only one concept
    careless  chance that the defender, if it is asked, names what fits; otherwise what does not fit, or nothing
    curious   chance that it names what fits without being asked: `is it cherry ?`
    nerve     the defender guesses as soon as at most this many concepts fit what it has heard
    last      the same in its last turn
    idle      chance that the attacker makes small talk, which leads nowhere
    """

    slip: Range
    ask: Range
    guard: Range
    careless: Range
    curious: Range
    nerve: Range
    last: Range
    idle: Range

    def __call__(self, request: Request, rng: Random, persona: Random) -> str:
        if request.observation is None:
            raise ValueError(f"request {request.id!r} has no observation, a scripted talker needs one")
        seen = request.observation
        said = {who: [text for speaker, text in seen["history"] if speaker == who] for who in ("you", "partner")}
        if request.seat == "attacker":
            return self._attack(seen["word"], said["you"], said["partner"], rng, persona)
        return self._defend(seen["turns_left"] == 1, said["you"], said["partner"], rng, persona)

    def _attack(self, word: str, own: Sequence[str], heard: Sequence[str], rng: Random, persona: Random) -> str:
        slip, ask, guard, idle = (persona.uniform(*each) for each in (self.slip, self.ask, self.guard, self.idle))
        start = "no . " if heard and heard[-1].startswith("is it ") else ""
        if rng.random() < idle:
            return start + rng.choice(SMALL_TALK)
        world = lexicon()
        cue = self._cue(word, world.found(" ".join(own)), rng.random() < guard, rng)
        if rng.random() < slip:
            return start + world.say(word, cue)
        return start + (world.say("what", cue) + " ?" if rng.random() < ask else world.say("it", cue))

    def _cue(self, word: str, used: Sequence[str], guarded: bool, rng: Random) -> str:
        """A cue of the word that was not used yet, if there is one that can be."""
        world = lexicon()
        new = [cue for cue in world.cues[word] if cue not in used]
        if guarded:
            known = set(world.cues).intersection(*(world.owners[cue] for cue in used if cue in world.cues[word]))
            new = [cue for cue in new if len(known.intersection(world.owners[cue])) > 1]
        return rng.choice(new or [cue for cue in used if cue in world.cues[word]] or world.cues[word])

    def _defend(self, last: bool, own: Sequence[str], heard: Sequence[str], rng: Random, persona: Random) -> str:
        careless, curious, nerve, at_last = (
            persona.uniform(*each) for each in (self.careless, self.curious, self.nerve, self.last)
        )
        world = lexicon()
        evidence = world.found(" ".join(heard))
        fitting = world.fitting(evidence, world.named(" ".join(own)))
        if evidence and fitting and len(fitting) <= (max(nerve, at_last) if last else nerve):
            return f"i know the word! it is {rng.choice(fitting)}"
        topic = world.found(heard[-1] if heard else "")[-1:]
        if not (topic and heard[-1].endswith("?")):
            return (
                f"is it {rng.choice(fitting)} ?"
                if evidence and fitting and rng.random() < curious
                else rng.choice(VAGUE)
            )
        fits = set(fitting)
        wanted = rng.random() < careless
        known = [concept for concept in world.owners[topic[0]] if (concept in fits) == wanted]
        return world.say(rng.choice(known), topic[0]) if known else rng.choice(VAGUE)


def _steady(**skill: float) -> Talker:
    """A talker of the same skill in every match."""
    return Talker(**{name: (value, value) for name, value in skill.items()})


SCRIPTS: Mapping[str, Script] = {
    "naive": _steady(slip=0.1, ask=0.1, guard=0, careless=1, curious=0.3, nerve=6, last=20, idle=0.2),
    "fair": _steady(slip=0.03, ask=0.5, guard=0.5, careless=0.5, curious=0.1, nerve=3, last=4, idle=0.05),
    "skilled": _steady(slip=0, ask=1, guard=1, careless=0, curious=0, nerve=1, last=2, idle=0),
    "demo": Talker(
        slip=(0, 0.15),
        ask=(0, 1),
        guard=(0, 1),
        careless=(0, 1),
        curious=(0, 0.3),
        nerve=(-5, 6),
        last=(-3, 10),
        idle=(0, 0.6),
    ),
}
