"""Few-shot examples for the layout few_shot, written for parley: as many per task as in FireAct, on other questions.
Each begins with the question."""

from __future__ import annotations

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "hotpotqa": (
        """
Which river flows through the capital of Austria?
Thought: I need the capital of Austria first.
Action: search[capital of Austria]
Observation: Vienna is the capital and the largest city of Austria.
Thought: The capital is Vienna. Now I need its river.
Action: search[river that flows through Vienna]
Observation: Vienna lies in the east of the country, on the banks of the Danube.
Thought: The Danube flows through Vienna.
Action: finish[Danube]
""",
        """
Were Marie Curie and Frédéric Chopin born in the same country?
Thought: I have to look up where each of them was born.
Action: search[birthplace of Marie Curie]
Observation: Marie Curie was born in Warsaw in 1867.
Thought: Warsaw is in Poland. Now Chopin.
Action: search[birthplace of Frédéric Chopin]
Observation: Chopin was born in Żelazowa Wola, a village west of Warsaw.
Thought: Both places are in Poland, so they were born in the same country.
Action: finish[yes]
""",
        """
In which year was the author of Frankenstein born?
Thought: I know that Mary Shelley wrote Frankenstein, and I need her year of birth.
Action: search[Mary Shelley year of birth]
Observation: None
Thought: Nothing was found. I try other words.
Action: search[Mary Shelley novelist born]
Observation: Mary Wollstonecraft Shelley (30 August 1797 – 1 February 1851) was an English novelist.
Thought: She was born in 1797.
Action: finish[1797]
""",
        """
Which is taller, the Eiffel Tower or the Chrysler Building?
Thought: I need both heights.
Action: search[height of the Eiffel Tower]
Observation: With its antennas the tower is 330 metres tall.
Thought: The Eiffel Tower has 330 metres. Now the Chrysler Building.
Action: search[height of the Chrysler Building]
Observation: The Chrysler Building is 319 metres tall.
Thought: 330 metres are more than 319 metres.
Action: finish[Eiffel Tower]
""",
    ),
    "strategyqa": (
        """
Could a bicycle be carried in a shipping container?
Thought: I need the size of a shipping container.
Action: search[inner length of a 20-foot shipping container]
Observation: Inside, a 20-foot container is about 5.9 metres long and 2.35 metres wide.
Thought: A bicycle is less than two metres long, so it fits.
Action: finish[yes]
""",
        """
Did Mozart hear a recording of his own music?
Thought: I need to know when Mozart died and when sound was first recorded.
Action: search[year of death of Mozart]
Observation: Wolfgang Amadeus Mozart died in Vienna in 1791.
Thought: Now the first recording of sound that could be played.
Action: search[when was the phonograph invented]
Observation: Thomas Edison invented the phonograph in 1877.
Thought: He died long before anything was recorded.
Action: finish[no]
""",
        """
Would a vegan order a cheese omelette?
Thought: An omelette is made of eggs, and cheese of milk. Vegans eat neither.
Action: finish[no]
""",
        """
Is Lake Baikal deeper than the Eiffel Tower is tall?
Thought: I need the depth of Lake Baikal.
Action: search[greatest depth of Lake Baikal]
Observation: At 1,642 metres Baikal is the deepest lake in the world.
Thought: The Eiffel Tower has about 330 metres, which is less than 1,642.
Action: finish[yes]
""",
    ),
    "mmlu": (
        """
Which planet has the shortest year?
A. Earth
B. Mercury
C. Mars
D. Jupiter
Thought: The nearer a planet is to the Sun, the shorter is its year. The nearest is Mercury.
Action: finish[B]
""",
        """
What is the derivative of x^2 with respect to x?
A. x
B. 2
C. 2x
D. x^3/3
Thought: By the power rule it is 2x.
Action: finish[C]
""",
        """
Which organ makes insulin?
A. Liver
B. Heart
C. Pancreas
D. Kidney
Thought: I want to be sure where insulin is made.
Action: search[organ that makes insulin]
Observation: Insulin is made by the beta cells of the pancreatic islets.
Thought: The islets are in the pancreas.
Action: finish[C]
""",
    ),
}
