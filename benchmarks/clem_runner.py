"""One of clemcore's own runners over instance files of a game, timed; for the python of an environment with clemcore.

    python clem_runner.py GAME_FOLDER NAME RESULTS BATCH MODEL FILE…

BATCH 1 is the sequential runner. MODEL is `scripted` (see clem_replies), or a model folder for clemcore's own backend.
FILE is an instance file below GAME_FOLDER/in. The first one is played for nothing, so that all is imported. A line of
JSON for each file: CPU-seconds, those inside the model's forward pass, and the replies of each instance.
"""

import json
import sys
from functools import wraps
from pathlib import Path
from time import process_time

from clem_replies import merged, reply
from clemcore import backends
from clemcore.clemgame import GameBenchmark, GameBenchmarkCallbackList, GameInstances, GameRegistry
from clemcore.clemgame.callbacks import files
from clemcore.clemgame.runners import dispatch

TOKENS = 30  # of a reply


class Scripted(backends.BatchGenerativeModel):
    def generate_response(self, messages):
        return self.generate_batch_response([messages])[0]

    def generate_batch_response(self, batch):
        texts = [reply(merged(messages)) for messages in batch]
        return [(list(messages), {"text": text}, text) for messages, text in zip(batch, texts, strict=True)]


def model_of(name):
    if name == "scripted":
        return Scripted(backends.ModelSpec(model_name="scripted", backend="scripted"))
    from clemcore.backends.huggingface_local_api import HuggingfaceLocal

    settings = {"premade_chat_template": True, "eos_to_cull": "<\\|im_end\\|>", "padding_side": "left"}
    spec = backends.ModelSpec(
        model_name="smol", backend="huggingface_local", huggingface_id=name, model_config=settings
    )
    made = HuggingfaceLocal().get_model_for(spec)
    made.set_gen_args(temperature=0.0, max_tokens=TOKENS)
    return made


def forward_timed(spent):
    """Counts the CPU time of every forward pass."""
    from transformers import LlamaForCausalLM

    plain = LlamaForCausalLM.forward

    @wraps(plain)
    def forward(*args, **options):
        began = process_time()
        try:
            return plain(*args, **options)
        finally:
            spent[0] += process_time() - began

    LlamaForCausalLM.forward = forward


def callbacks(folder, models):
    """Those of `clem run`."""
    results = files.ResultsFolder(folder, run_dir=backends.Model.to_identifier(models))
    infos = backends.Model.to_infos(models)
    return GameBenchmarkCallbackList([
        files.InstanceFileSaver(results), files.ExperimentFileSaver(results, player_model_infos=infos),
        files.InteractionsFileSaver(results, player_model_infos=infos),
        files.RunFileSaver(results, player_model_infos=infos), files.PlayerFileSaver(results),
        files.SignalFileSaver(results),
    ])  # fmt: skip


def said(folder):
    """experiment and id -> the replies of the players, in order."""
    found = {}
    for file in sorted(folder.rglob("interactions.json")):
        data = json.loads(file.read_text())
        events = [event for turn in data["turns"] for event in turn]
        key = f"{data['meta']['experiment_name']}:{data['meta']['game_id']}"
        found[key] = [each["action"]["content"] for each in events if each["from"] != "GM"]
    return found


def main(folder, name, results, batch, model, *stems):
    spent = [0.0]
    if model != "scripted":
        forward_timed(spent)
    registry = GameRegistry()
    registry.register_from_directories(folder, 0)
    spec = next(each for each in registry if each.game_name == name)
    models = [model_of(model)] * spec.players
    with GameBenchmark.load_from_spec(spec) as benchmark:
        for number, stem in enumerate(stems):
            spec.instances = stem
            place, began, inside = Path(results) / f"{number}", process_time(), spent[0]
            rows = GameInstances.from_game_spec(spec)
            dispatch.run(benchmark, rows, models, callbacks=callbacks(place, models), batch_size=int(batch))
            row = {"cpu_s": process_time() - began, "model_s": spent[0] - inside, "said": said(place)}
            if number:
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
