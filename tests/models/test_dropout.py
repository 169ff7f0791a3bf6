"""Dropout with masks drawn by name: the share, the scale, the places, and that a step meets the same masks again."""

import pytest
import torch
from parley.models.dropout import Dropout, blocks
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM


def llama(**more) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return LlamaForCausalLM(LlamaConfig(**sizes, **more))


IDS = torch.arange(24).view(2, 12)


def test_it_acts_in_training_only_and_by_key():
    model = llama()
    plain = model.eval()(IDS).logits
    dropout = Dropout(model, 0.3)
    assert torch.equal(model.eval()(IDS).logits, plain)
    model.train()
    state = torch.get_rng_state()
    dropout.key = 1
    one, again = model(IDS).logits, model(IDS).logits
    dropout.key = 2
    other = model(IDS).logits
    assert torch.equal(one, again) and not torch.allclose(one, other) and not torch.allclose(one, plain)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_share_and_the_scale():
    model = llama().train()
    Dropout(model, 0.25).key = 3
    embedded = model.get_input_embeddings()(IDS.repeat(8, 4))
    with torch.no_grad():
        plain = model.get_input_embeddings().weight[IDS.repeat(8, 4)]
    zero = embedded == 0
    assert abs(zero.float().mean().item() - 0.25) < 0.02
    lanes = zero.view(-1, 4).float()  # four values share a random number
    assert (lanes.mean(0) - 0.25).abs().max() < 0.03 and (lanes.T.corrcoef() - torch.eye(4)).abs().max() < 0.06
    assert torch.allclose(embedded[~zero], plain[~zero] / 0.75)


@pytest.mark.parametrize(
    "model", [llama(), GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=2))]
)
def test_embeddings_attention_and_feed_forward_of_every_block(model):
    Dropout(model.train(), 0.5)
    hooked = [name.rpartition(".")[2] for name, module in model.named_modules() if module._forward_hooks]
    assert len(hooked) == 1 + 2 * len(blocks(model)) == 5
    assert sum("attn" in name for name in hooked) == sum("mlp" in name for name in hooked) == 2


def test_activation_checkpointing_meets_the_same_masks():
    gradients = []
    for checkpointed in (False, True):
        model = llama(use_cache=False).train()
        if checkpointed:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        Dropout(model, 0.3).key = 5
        model(IDS).logits.square().mean().backward()
        gradients.append(torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None]))
    assert torch.allclose(*gradients, atol=1e-7)


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_a_share_that_is_none_is_refused(p):
    with pytest.raises(ValueError, match="expected at least 0 and less than 1"):
        Dropout(llama(), p)
