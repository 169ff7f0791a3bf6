"""The vLLM backend, with the real engine on a CPU: ids and log-probs are the learner's, nothing old is ever answered.

`make test-vllm` sets up what this needs.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from parley.backends import vllm, vllm_engine
from parley.backends.vllm import VLLMBackend
from parley.batches.packing import collate, supervised
from parley.batches.plan import once
from parley.data.episode import Episode
from parley.games.base import Message, Options
from parley.games.deal import Deal
from parley.games.taboo import Taboo
from parley.learners.device import budget, load
from parley.models import snapshot
from parley.models.adapter import Adapter, LoRA
from parley.models.load import load_model, load_policy, load_tokenizer
from parley.models.renderer import Renderer
from parley.models.snapshot import Snapshot
from parley.models.tiny import Tiny
from parley.play.arena import Arena
from parley.play.pairing import both_seatings, self_play
from parley.play.player import Prompt, Sampling
from parley.play.players import LanguagePlayer, Switchboard
from parley.run.config import Hardware
from parley.run.texts import everything_said
from parley.system.files import InputError

try:
    vllm_engine.available()
except InputError as error:
    pytest.skip(str(error), allow_module_level=True)

pytestmark = pytest.mark.vllm

WORDS = (
    "[message] [propose] hello books hats balls 0 1 2 3 4 5 6 7 8 9 10 i take you get deal they proposed error word "
    "is it a the say no"
)
LAST = 6  # special tokens that are never sampled


def tiny(folder: Path, seed: int, tie: bool = True) -> Snapshot:
    """A small model whose replies are not uniform noise."""
    model = Tiny(width=64, heads=2, layers=2, mlp=128, context=256, tie=tie)
    made = model.create(folder / f"draft{seed}{tie}", [[Message("user", WORDS)]], seed)
    weights = load_model(made.path)
    with torch.no_grad():
        for name, parameter in weights.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(1.5 if "embed" in name else 4.0)
    return snapshot.save(weights, load_tokenizer(made.path), folder / f"model{seed}{tie}", f"m{seed}")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Snapshot]:
    folder = tmp_path_factory.mktemp("models")
    return [tiny(folder, 0), tiny(folder, 1), tiny(folder, 2, tie=False), tiny(folder, 3, tie=False)]


@pytest.fixture(scope="module")
def adapters(models: list[Snapshot], tmp_path_factory: pytest.TempPathFactory) -> list[Snapshot]:
    """Adapters on the first model that change its answers."""
    folder, found = tmp_path_factory.mktemp("adapters"), []
    for number in range(2):
        made = LoRA(r=4, alpha=8).create(models[0], folder / f"fresh{number}", number)
        policy = load_policy(made, trainable=True)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(number)
            for name, parameter in policy.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.5)
        found.append(
            snapshot.save(
                Adapter.of(policy), load_tokenizer(models[0].path), folder / f"a{number}", f"a{number}", models[0].path
            )
        )
    return found


@pytest.fixture
def backend() -> Iterator[VLLMBackend]:
    made = VLLMBackend(kv_gib=0.05, max_batch=64)
    yield made
    made.close()


def prompts(
    policy: str, n: int = 6, sampling: Sampling = Sampling(max_tokens=12), longest: int = 90, seed: int = 0
) -> list[Prompt]:
    draw = random.Random(seed)
    ids = [tuple(draw.randrange(7, 40) for _ in range(draw.randint(longest // 2, longest))) for _ in range(n)]
    return [
        Prompt(
            f"{policy}/m{i}/s.1",
            f"{policy}/m{i}/s",
            (),
            draw.getrandbits(62),
            sampling=sampling,
            token_ids=ids[i],
            policy=policy,
        )
        for i in range(n)
    ]


def answer(backend: VLLMBackend, asked: list[Prompt]) -> dict:
    backend.submit(asked)
    done = {}
    while backend.busy:
        done |= {each.id: each for each in backend.poll()}
    return done


def truth(made: Snapshot, prompt: Prompt, ids: tuple[int, ...]) -> list[float]:
    """Raw log-probs of the sampled ids, by one plain forward."""
    model = load_policy(made)
    with torch.no_grad():
        logits = model(torch.tensor([prompt.token_ids + ids])).logits[0, len(prompt.token_ids) - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()


def correct(made: Snapshot, asked: list[Prompt], done: dict) -> bool:
    pairs = [(truth(made, prompt, done[prompt.id].token_ids), done[prompt.id].logprobs) for prompt in asked]
    return all(list(told) == pytest.approx(true, abs=1e-5) for true, told in pairs)


# --- ids and log-probs are the learner's ------------------------------------------------------------------------------


def hardware(precision: str) -> Hardware:
    return Hardware(
        name="cpu", accelerator="cpu", devices=1, nodes=1, strategy="single", precision=precision, threads=1,
        micro_tokens=2048,
        row_tokens=1024, head_chunk=256, activation_checkpointing=False, memory_gib=8,
    )  # fmt: skip


def play(
    backend: VLLMBackend, game, made: Snapshot, matches: int, sampling: Sampling = Sampling(max_tokens=20)
) -> list[Episode]:
    backend.load(made)
    player = LanguagePlayer(backend, Renderer.load(made.base or made.path), made.version, sampling, "learner")
    episodes: list[Episode] = []
    seatings = self_play(game, game.scenarios("train")[:matches], "learner", 0, "t")
    Arena(game, {"learner": player}, 16).play(seatings, episodes.append)
    return episodes


def apart(episodes: list[Episode], made: Snapshot, precision: str) -> float:
    """The largest difference between recorded log-probs and those of the learner's policy module."""
    profile = hardware(precision)
    policy, worst, seen = load(made, profile), 0.0, 0
    for sample in everything_said(episodes, "learner"):
        for micro in once([sample], budget(policy, profile)):
            with torch.no_grad():
                found_N = policy(collate([sample], micro, supervised([sample])))
            assert sample.logprobs is not None
            seen += len(sample.logprobs)
            worst = max(worst, float((found_N.float() - torch.tensor(sample.logprobs)).abs().max()))
    assert seen > 500
    return worst


@pytest.mark.parametrize("game", [Deal(max_actions=4), Taboo(prompt="compact", turns=3)], ids=["deal", "taboo"])
def test_self_play_in_float32_has_the_learners_logprobs(backend, models, game):
    episodes = play(backend, game, models[0], 24)
    assert len({episode.id for episode in episodes}) == 24
    assert apart(episodes, models[0], "32-true") < 1e-5


def test_self_play_in_bfloat16_has_the_learners_logprobs(models, tmp_path):
    backend = VLLMBackend(kv_gib=0.05, max_batch=64, dtype="bfloat16")
    mild = Tiny(width=64, heads=2, layers=2, mlp=128, context=256).create(
        tmp_path / "mild", [[Message("user", WORDS)]], 0
    )
    assert apart(play(backend, Taboo(prompt="compact", turns=3), mild, 24), mild, "bf16-true") < 2e-2
    backend.close()


def test_a_seed_gives_the_same_reply_and_another_one_another(backend, models):
    backend.load(models[0])
    asked = prompts(models[0].version, 8, Sampling(max_tokens=24))
    first = answer(backend, asked)
    again = answer(backend, asked)
    other = answer(backend, [replace(each, seed=each.seed + 1) for each in asked])
    ids = [[each.token_ids for each in done.values()] for done in (first, again, other)]
    assert sorted(ids[0]) == sorted(ids[1]) != sorted(ids[2])


@pytest.mark.parametrize(
    "sampling", [Sampling(0.0, max_tokens=12), Sampling(1.5, 0.8, 9, 12), Sampling(0.5, max_tokens=12)]
)
def test_logprobs_are_raw_and_banned_ids_never_come(backend, models, sampling):
    backend.load(models[1])
    asked = prompts(models[1].version, 24, sampling)
    done = answer(backend, asked)
    assert correct(models[1], asked, done)
    sampled = {id for each in done.values() for id in each.token_ids}
    assert not sampled & set(range(LAST)) and len(sampled) > 10


# --- replies end as with the transformers backend ---------------------------------------------------------------------


def test_ends(backend, models):
    backend.load(models[0])
    version = models[0].version
    free = answer(backend, prompts(version, 40, Sampling(max_tokens=40)))
    assert {each.finish for each in free.values()} == {"stop", "length"}
    for each in free.values():
        assert (each.token_ids[-1] == LAST) == (each.finish == "stop") and LAST not in each.token_ids[:-1]
        assert "<|" not in each.text and each.policy == version
    base = prompts(version, 1)[0]
    done = answer(backend, [
        replace(base, id="short", options=Options(max_tokens=3)),
        replace(base, id="edge", token_ids=(9,) * 254, sampling=Sampling(max_tokens=40)),
        replace(base, id="full", token_ids=(9,) * 256),
    ])  # fmt: skip
    assert len(done["short"].token_ids) <= 3 and len(done["edge"].token_ids) <= 2
    assert done["full"].finish == "context" and done["full"].token_ids == ()


def test_a_stop_string_ends_the_reply_within_the_ids(backend, models):
    backend.load(models[0])
    asked = prompts(models[0].version, 12, Sampling(max_tokens=20))
    free = answer(backend, asked)
    words = {key: each.text.split()[2] for key, each in free.items() if len(each.text.split()) > 4}
    stopped = answer(
        backend, [replace(each, options=Options(stop=(words[each.id],))) for each in asked if each.id in words]
    )
    assert len(stopped) == len(words) > 5
    for key, each in stopped.items():
        assert each.finish == "stop" and words[key] not in each.text
        assert each.token_ids == free[key].token_ids[: len(each.token_ids)] and len(each.token_ids) <= 3


def test_a_cancelled_prompt_never_comes(backend, models):
    backend.load(models[0])
    asked = prompts(models[0].version, 8, Sampling(max_tokens=20))
    backend.submit(asked)
    backend.poll()
    backend.cancel([asked[2].id, asked[5].id, "unknown"])
    done = set()
    while backend.busy:
        done |= {each.id for each in backend.poll()}
    assert done == {each.id for each in asked} - {asked[2].id, asked[5].id}


def test_what_cannot_be_answered_is_refused(backend, models, adapters, tmp_path):
    prompt = prompts("")[0]
    with pytest.raises(ValueError, match="loaded are none"):
        backend.submit([prompt])
    backend.load(models[0])
    with pytest.raises(ValueError, match="no token_ids"):
        backend.submit([replace(prompt, token_ids=None)])
    folder = tmp_path / "large"
    folder.mkdir()
    config = json.loads((Path(adapters[0].path) / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "r": 1024}))
    with pytest.raises(InputError, match="rank 1024"):
        backend.load(replace(adapters[0], version="large", path=str(folder)))
    with pytest.raises(ValueError, match="at least 1"):
        VLLMBackend(max_batch=0)


# --- a match moves on the moment its reply is there -------------------------------------------------------------------


def test_a_match_ends_while_another_ones_request_still_decodes(backend, models):
    """Two prompts go in together; the short one's stream gets its next turn, twice, before the long one is done."""
    backend.load(models[2])
    version = models[2].version
    long, short = prompts(version, 2, Sampling(max_tokens=60), longest=20)
    order: list[str] = []
    for seed in range(50):  # a long reply that does not end early
        order.clear()
        backend.submit([replace(long, id="long", seed=seed), replace(short, sampling=Sampling(max_tokens=2))])
        turns = 1
        while backend.busy:
            for done in backend.poll():
                order.append(done.id)
                if done.id != "long" and turns < 3:
                    turns += 1
                    ids = (*(short.token_ids or ()), *(done.token_ids or ()), 9, 10)
                    backend.submit(
                        [replace(short, id=f"{short.stream}.{turns}", token_ids=ids, sampling=Sampling(max_tokens=2))]
                    )
        if order[-1] == "long":
            break
    assert order == [short.id, f"{short.stream}.2", f"{short.stream}.3", "long"]


# --- nothing old is ever answered -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [(0, 1), (2, 3)], ids=["tied", "untied"])
def test_new_weights_answer_at_once_and_no_old_cache_is_read(backend, models, pair):
    """Also the head of a model with tied embeddings, which vLLM's own reload leaves as it was."""
    engines = set()
    for number in (*pair, pair[0]):
        made = models[number]
        backend.load(made)
        asked = prompts(made.version, 6)  # the same prompts, of several cache blocks, for every model
        assert correct(made, asked, answer(backend, asked))
        assert correct(made, asked, answer(backend, asked))  # from the cache
        engines |= set(backend._engines)
        backend.unload(made.version)
    assert len(engines) == 1


def test_it_is_the_salt_that_keeps_old_keys_and_values_away(backend, models, monkeypatch):
    ask = vllm._ask
    monkeypatch.setattr(vllm, "_ask", lambda prompt, policy: replace(ask(prompt, policy), salt="same"))
    found = []
    for made in models[:2]:
        backend.load(made)
        asked = prompts(made.version, 6, Sampling(0.0, max_tokens=4))
        found.append(correct(made, asked, answer(backend, asked)))
        backend.unload(made.version)
    assert found == [True, False]


def test_the_next_backend_takes_over_the_engine(models):
    for made in models[:2]:
        backend = VLLMBackend(kv_gib=0.05, max_batch=64)
        backend.load(made)
        asked = prompts(made.version)
        assert correct(made, asked, answer(backend, asked))
        before = list(backend._engines)
        backend.close()
        assert not backend.busy and before[0] in vllm.IDLE
        with pytest.raises(ValueError, match="loaded are none"):
            backend.submit(asked)
    assert len([engine for engine in vllm.IDLE if engine.shape == before[0].shape]) == 1


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
def test_weights_in_training_answer_as_a_fresh_load_and_no_old_prefix_is_read(backend, models, tmp_path, tie):
    """The same prompts, of several cache blocks, before and after each update; whoever has the same weights keeps
    his."""
    start = models[0 if tie else 2]
    still = replace(start, version="still")
    model, old = load_model(start.path), start.version
    for made in (start, still):
        backend.load(made)
        asked = prompts(made.version)
        assert correct(made, asked, answer(backend, asked))
    for number in range(2):
        moved(model.parameters(), number)
        new = f"{start.version}+r{number + 1}"
        backend.update(old, new, model.named_parameters())
        saved = snapshot.save(model, load_tokenizer(start.path), tmp_path / str(number))
        asked = prompts(new)
        for _ in range(2):  # the second time from the cache
            assert correct(saved, asked, answer(backend, asked))
        with pytest.raises(ValueError, match="call load"):
            backend.submit(prompts(old))
        old = new
    asked = prompts("still")
    assert correct(still, asked, answer(backend, asked))
    assert len(backend._engines) == 2


def test_an_engine_after_an_update_is_taken_for_nobody_elses(models):
    """Another run in the same process gives other weights the same version."""
    for start, other in (models[:2], models[1::-1]):
        backend = VLLMBackend(kv_gib=0.05, max_batch=64)
        backend.load(start)
        asked = prompts(start.version)
        assert correct(start, asked, answer(backend, asked))
        backend.update(start.version, "new", load_model(other.path).named_parameters())
        asked = prompts("new")
        assert correct(other, asked, answer(backend, asked))
        backend.close()


def test_an_adapter_in_training_answers_as_a_fresh_load(backend, models, adapters, tmp_path):
    start, other = adapters
    model, old = load_policy(start, trainable=True), start.version
    for made in (models[0], start, other):
        backend.load(made)
    for made in (models[0], start, other):
        asked = prompts(made.version)
        assert correct(made, asked, answer(backend, asked))
    for number in range(2):
        moved((each for each in model.parameters() if each.requires_grad), number)
        new = f"{start.version}+r{number + 1}"
        backend.update(old, new, Adapter.of(model).tensors.items())
        saved = snapshot.save(
            Adapter.of(model), load_tokenizer(models[0].path), tmp_path / str(number), "", models[0].path
        )
        asked = prompts(new)
        assert correct(saved, asked, answer(backend, asked))
        old = new
    for made in (models[0], other):
        asked = prompts(made.version)
        assert correct(made, asked, answer(backend, asked))
    assert len(backend._engines) == 1
    folder = backend._folders[old].name
    backend.unload(old)
    assert not Path(folder).exists()


def moved(parameters, seed: int) -> None:
    """A step of training."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))


# --- several policies at once -----------------------------------------------------------------------------------------


def test_adapters_and_their_base_share_an_engine_and_answer_differently_in_one_batch(backend, models, adapters):
    loaded = [models[0], *adapters]
    for made in loaded:
        backend.load(made)
    asked = [each for made in loaded for each in prompts(made.version, 5, Sampling(0.0, max_tokens=8))]
    done = answer(backend, asked)
    for made in loaded:
        assert correct(made, [each for each in asked if each.policy == made.version], done)
    replies = [tuple(done[each.id].token_ids for each in asked if each.policy == made.version) for made in loaded]
    assert len(set(replies)) == 3 and len(backend._engines) == 1


def test_two_full_models_play_each_other(backend, models):
    game, board = Taboo(prompt="compact", turns=2), Switchboard(backend)
    players = {}
    for name, made in (("learner", models[0]), ("start", models[1])):
        backend.load(made)
        players[name] = LanguagePlayer(
            board.line(), Renderer.load(made.path), made.version, Sampling(max_tokens=12), name
        )
    episodes: list[Episode] = []
    seatings = both_seatings(game, game.scenarios("test")[:8], "learner", "start", 0, "t")
    Arena(game, players, 16).play(seatings, episodes.append)
    assert len(episodes) == 16 and len(backend._engines) == 2
    for name, made in (("learner", models[0]), ("start", models[1])):
        for sample in everything_said(episodes, name):
            (span, *_) = sample.utterances
            prompt = replace(prompts(name)[0], token_ids=sample.token_ids[: span.start])
            true = truth(made, prompt, sample.token_ids[span.start : span.end])
            assert list(sample.logprobs or ())[: len(true)] == pytest.approx(true, abs=1e-5)


def test_a_schema_is_kept(backend, tmp_path):
    """Even by a model that has learnt nothing. What it says is not trained on."""
    made = spelling(tmp_path / "spelling")
    backend.load(made)
    schema = {
        "type": "object",
        "properties": {"books": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["books"],
    }
    asked = prompts(made.version, 4, Sampling(max_tokens=64))
    done = answer(
        backend, [replace(each, options=Options(schema={**schema, "additionalProperties": False})) for each in asked]
    )
    whole = [json.loads(each.text) for each in done.values() if each.finish == "stop"]
    assert whole and all(0 <= each["books"] <= 9 for each in whole)
    assert {each.logprobs for each in done.values()} == {None}  # vLLM's are not the model's own


def spelling(folder: Path) -> Snapshot:
    """A model over single bytes, which can write any text."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.decoders import ByteLevel as Decoder
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(BPE({"<end>": 0, **{char: 1 + at for at, char in enumerate(sorted(ByteLevel.alphabet()))}}, []))
    core.pre_tokenizer, core.decoder = ByteLevel(add_prefix_space=False), Decoder()
    core.add_special_tokens([AddedToken("<end>", special=True, normalized=False)])
    template = "{% for message in messages %}{{ message['content'] + '<end>' }}{% endfor %}"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", chat_template=template)
    sizes = dict(
        hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=256
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=257, eos_token_id=0, bos_token_id=None, **sizes))
    return snapshot.save(model, tokenizer, folder, "spelling")


# --- a good guest -----------------------------------------------------------------------------------------------------


def test_global_randomness_and_threads_are_untouched(backend, models):
    torch.manual_seed(3)
    random.seed(3)
    before, threads = (
        (torch.random.get_rng_state(), random.getstate()),
        (torch.get_num_threads(), torch.set_num_threads),
    )
    backend.load(models[3])
    sampled = prompts(models[3].version, 8)
    answer(backend, sampled + [replace(each, id=f"{each.id}greedy", sampling=Sampling(0.0)) for each in sampled])
    assert torch.equal(before[0], torch.random.get_rng_state()) and before[1] == random.getstate()
    assert threads == (torch.get_num_threads(), torch.set_num_threads)
