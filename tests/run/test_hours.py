"""How long a run takes: tokens by kind of work over tokens a second."""

import shlex

import pytest
from hydra import compose, initialize_config_module
from parley.cli.main import check
from parley.cli.tasks.planning import plan
from parley.data.episode import Call, Episode, Turn
from parley.games.base import Result, Scenario
from parley.models.folders import unequal
from parley.models.published import shape
from parley.run import probe
from parley.run.config import ConfigError
from parley.run.hours import Speed, Tokens, engine, matches, of_match, streams, words
from parley.system.files import InputError


def composed(command: str):
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", shlex.split(command))


def test_seconds_are_those_of_each_kind_of_work_on_all_devices():
    work = Tokens(read=6000, written=300, trained=900) + Tokens(written=100)
    assert work.seconds(Speed(1000, 50, 300), 1) == 6 + 8 + 3
    assert (work * 2).seconds(Speed(1000, 50, 300), 4) == (6 + 8 + 3) / 2
    assert Tokens(trained=10).seconds(Speed(None, None, 5), 1) == 2


def test_a_rate_that_is_given_goes_before_one_that_is_measured():
    given = Speed(None, 7, None).over(Speed(1, 2, 3, "measured"))
    assert (given.prefill, given.decode, given.train, given.source) == (1, 7, 3, "given; measured")
    assert Speed(None, None, None).over(Speed(1, 2, 3, "measured")).source == "measured"
    assert Speed(4, 5, 6).over(Speed(1, 2, 3, "measured")) == Speed(4, 5, 6)
    with pytest.raises(InputError, match=r"stated\.speed\.train=0"):
        Speed(1, 1, 0)


def test_a_matchs_tokens_are_those_that_its_models_read_and_wrote():
    call = Call((1, 2, 3), (4, 5), (0.0, 0.0), "v")
    turns = (
        Turn("a.1", "a", "act", "x", call=call),
        Turn("b.1", "b", "act", "y"),
        Turn("a.2", "a", "act", "z", call=call),
    )

    def match(turns):
        return Episode("m", "g", 1, Scenario("s", {}), 0, {}, {}, turns, Result({}, "end"))

    assert of_match([match(turns), match(turns[1:]), match(turns[1:2])]) == Tokens(9 / 2, 6 / 2)
    assert of_match([]) == Tokens()


def test_matches_of_an_iteration_are_counted_from_the_config():
    small = "play.scenarios=10 play.group=4 eval.scenarios=5 eval.group=2 eval.greedy=3 eval.validation=7"
    assert matches(composed(small), 2) == (40, 7 * 2 + (5 * 2 + 3) + 2 * 5 * (2 + 1))
    more = f"{small} rounds=3 play.branches=1 'eval.opponents=[previous]'"
    assert matches(composed(more), 2) == (240, 14 + 13 + 30 + 2 * 5 * 2)
    assert matches(composed(f"{small} metric=versus.start.score"), 2)[1] == 2 * 14 + 13 + 30
    assert matches(composed(small), 1)[1] == 14 + 13


def test_hours_are_told_or_how_to_know_them():
    work = {"play": Tokens(written=3600), "learning": Tokens(trained=7200)}
    said = " ".join(words(work, Speed(1, 1, 1), 2, 4))
    assert "play 30.0 min, learning 1.0 h an iteration; all 4 iterations 6.0 h on 2 devices, which are 12.0" in said
    assert "task.probe=true" in " ".join(words(work, Speed(1, None, 1), 2, 4))
    assert "how many tokens a match has is not known" in " ".join(words({}, Speed(1, 1, 1), 1, 1))


def test_rates_are_measured_on_a_model_of_the_shape(monkeypatch):
    monkeypatch.setattr(probe, "LEAST_S", 0.02)
    monkeypatch.setattr(probe, "LENGTH", 16)
    shaped = shape("llama2_7b")
    shaped.update({"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4})
    shaped.update({"num_key_value_heads": 2, "vocab_size": 100, "head_dim": 16})
    hardware = composed("").hardware
    speed = probe.probe(shaped, None, hardware, 8, 2)
    assert speed.complete and speed.prefill > speed.decode and "measured here" in speed.source
    with pytest.raises(InputError, match="a device has 8"):
        probe.probe(shape("llama2_7b"), None, hardware, 8, 2)


@pytest.mark.parametrize("experiment", ["deal_llm", "spag_llama2_7b"])
def test_a_stated_experiment_has_hours(experiment, capsys, tmp_path):
    speed = "stated.speed.prefill=6000 stated.speed.decode=1500 stated.speed.train=2500"
    command = f"task=plan experiment={experiment} hardware=gpu hardware.memory_gib=1000 {speed}"
    check(shlex.split(command))
    plan(composed(command), tmp_path, None, False)
    said = " ".join(capsys.readouterr().out.split())
    assert "read" in said and "device-hours" in said and "of training (given): play" in said


def test_spags_recipe_fits_eight_gpus_of_40_gib(capsys, tmp_path):
    plan(composed("task=plan experiment=spag_llama2_7b hardware=a100x8_40gib_fsdp"), tmp_path, None, False)
    said = " ".join(capsys.readouterr().out.split())
    assert "needed │ 17.4" in said and "there is │ 40.000 │ hardware=a100x8_40gib_fsdp" in said


@pytest.mark.slow
def test_spags_recipe_with_offload_keeps_shards_and_optimiser_in_host_memory(capsys, tmp_path):
    plan(composed("task=plan experiment=spag_llama2_7b hardware=a100x8_40gib_offload"), tmp_path, None, False)
    said = " ".join(capsys.readouterr().out.split())
    assert "weights │ 0.000" in said and "in host memory" in said and "needed │ 4.01" in said
    assert "host │ 12.55" in said  # a rank's share of weights, gradients and AdamW's two numbers, in float32
    assert pytest.approx(12.55, abs=0.01) == 6_738_415_616 * 16 / 8 / 2**30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "says"),
    [
        ("backend=vllm_servers 'backend.urls=[http://127.0.0.1:8000/v1]'", "shared by 8 ranks"),
        ("backend=vllm backend.tensor_parallel=2 backend.kv_gib=8", "shared by 2 devices: 12.1 GiB of weights"),
    ],
)
def test_a_13b_is_played_and_trained_on_eight_gpus_of_40_gib(capsys, tmp_path, backend, says):
    command = f"task=plan experiment=deal_llm stated.model=llama2_13b hardware=a100x8_40gib_fsdp {backend}"
    check(shlex.split(command))
    plan(composed(command), tmp_path, None, False)
    said = " ".join(capsys.readouterr().out.split())
    assert "needed │ 10.8" in said and says in said


def test_an_engine_that_ranks_share_needs_its_part_of_a_device():
    weights = 2.0 * 13_015_864_320
    told, why = engine(weights, 8.0, 2, 40.0)
    assert "shared by 2 devices: 12.1 GiB of weights and 8 GiB of keys and values on a device of 40 GiB" in told
    assert why is None and "an engine needs 44.2 GiB" in str(engine(weights, 20.0, 1, 40.0)[1])
    assert unequal(shape("llama2_13b"), 8) is None and "40 attention heads" in str(unequal(shape("llama2_13b"), 3))


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"stated\.speed\.decode"):
        check(shlex.split("task=plan experiment=deal_llm stated.speed.decode=0"))


def test_shares_and_the_devices_that_sample_in_the_time_of_learning():
    work = {"play": Tokens(read=3000), "evaluation": Tokens(read=1000), "learning": Tokens(trained=1000)}
    told = list(words(work, Speed(1.0, 1.0, 1.0), 2, 1))[-1]
    assert "play 60%, evaluation 20%, learning 20%" in told and "8 devices for play" in told


def test_keys_and_values_of_a_stream():
    mistral = shape("mistral_7b")  # 32 layers, 8 heads of 128: 2 * 32 * 8 * 128 * 2 bytes a token
    told = streams(mistral, Tokens(900, 124), 2, 2, 16.0)
    assert told is not None and "128 KiB a token, 64.0 MiB a stream of 512 tokens; 16 GiB hold 256 streams" in told
    assert "16 GiB hold 512 streams" in str(streams(mistral, Tokens(900, 124), 2, 2, 16.0, together=2))
    assert streams(mistral, Tokens(), 2, 2, 16.0) is None
