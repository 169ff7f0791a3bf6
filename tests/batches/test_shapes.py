"""Samples of stated lengths have these lengths, and share what samples of their layout share."""

import pytest
from parley.batches.packing import Budget
from parley.batches.plan import efficiency, plan
from parley.batches.shapes import Shape, draw
from parley.system.files import InputError


def packed(shape: Shape):
    """What one epoch in rows without limit costs."""
    samples = list(draw([shape]))
    (step,) = plan(samples, Budget(10**6, 10**6), seed=0, epochs=1, batch_utterances=10**6)
    return samples, efficiency(step.micros, samples)


def test_a_chat_is_one_stream_with_a_span_for_each_reply():
    samples, cost = packed(Shape("chats", groups=3, prompt=10, replies=(4, 6), between=5))
    assert len(samples) == 3 and [(each.start, each.end) for each in samples[0].utterances] == [(10, 14), (19, 25)]
    assert cost.tokens_packed == 3 * (10 + 4 + 5 + 6 - 1) and cost.tokens_per_utterance == 3 * (13 + 24)


def test_branches_share_the_history_and_nothing_else():
    samples, cost = packed(Shape("branches", groups=2, prompt=10, replies=(4, 6), between=5, instruction=3))
    assert [len(each.token_ids) for each in samples] == [10 + 3 + 4, 10 + 4 + 5 + 3 + 6] * 2
    assert all(each.utterances[0].end == len(each.token_ids) for each in samples)
    first, second = samples[:2]
    assert second.token_ids[:10] == first.token_ids[:10] and second.token_ids[10:14] == first.token_ids[13:17]
    assert cost.tokens_packed == 2 * (10 + (3 + 3) + (4 + 5 + 3 + 5))


def test_pairs_share_the_prompt_and_stay_together():
    samples, cost = packed(Shape("pairs", groups=2, prompt=10, replies=(4, 6)))
    assert len({each.group for each in samples}) == 2 and cost.tokens_packed == 2 * (10 + 3 + 5)


def test_prompts_that_several_groups_have_are_shared_by_them():
    samples, cost = packed(Shape("chats", groups=4, prompt=10, replies=(4,), prompts=2))
    assert len({each.token_ids[:10] for each in samples}) == 2 and cost.tokens_packed == 2 * (10 + 3 + 3)


def test_a_share_takes_that_much_of_every_shape():
    shapes = [Shape("chats", 100, 5, (2,)), Shape("pairs", 50, 5, (2, 2)), Shape("chats", 1, 5, (2,))]
    assert len(list(draw(shapes, 0.1))) == 10 + 2 * 5 + 1


@pytest.mark.parametrize(
    "wrong", [{"layout": "trees"}, {"groups": 0}, {"replies": ()}, {"replies": (0,)}, {"between": -1}]
)
def test_what_no_sample_can_be_is_refused(wrong):
    with pytest.raises(InputError, match=r"stated\.samples"):
        Shape(**{"layout": "chats", "groups": 1, "prompt": 5, "replies": (2,), **wrong})
