"""Models by path: hub ids from the cache and from a hub of our own, adapters on their base, GGUF files."""

import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants as hub
import pytest
import torch
from parley.games.base import Message
from parley.models import snapshot
from parley.models.hub import Pretrained
from parley.models.load import load_model, load_policy
from parley.models.tiny import Tiny
from parley.system.files import InputError
from peft import LoraConfig, get_peft_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "m"
    Tiny(width=32, heads=2, layers=1, mlp=64, context=64).create(folder, [[Message("user", "a b c")]], 0)
    return folder


@pytest.fixture(scope="module")
def tuned(made, tmp_path_factory):
    """A LoRA adapter as peft saves it; its config names a model of the hub as the base."""
    folder = tmp_path_factory.mktemp("adapters") / "tuned"
    model = get_peft_model(load_model(made), LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False))
    model.peft_config["default"].base_model_name_or_path = "lab/small"
    model.save_pretrained(folder)
    return folder


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's protocol that a download of lab/small needs."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool):
        server = self.server
        server.asked.append(self.path)
        name = self.path.rpartition("/")[2]
        if self.path.startswith("/api/models/lab/small/revision/"):
            data = json.dumps({"id": "lab/small", "sha": COMMIT, "siblings": []}).encode()
        elif self.path.startswith("/api/models/lab/small/tree/"):
            names = sorted(path.name for path in server.folder.iterdir())
            files = [(each, (server.folder / each).read_bytes()) for each in names]
            data = json.dumps(
                [
                    {"type": "file", "path": each, "size": len(text), "oid": hashlib.sha1(text).hexdigest()}
                    for each, text in files
                ]
            ).encode()
        elif self.path.startswith("/lab/small/resolve/"):
            data = (server.folder / name).read_bytes()
        else:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(made, tmp_path, monkeypatch):
    """A hub with lab/small on it, an empty cache, and a client that would go there."""
    served = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    served.asked, served.folder = [], shutil.copytree(made, tmp_path / "served")
    for name in ("pytorch_model.bin", "modeling_evil.py"):
        (served.folder / name).write_text("raise SystemExit")
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    place = f"http://127.0.0.1:{served.server_port}"
    monkeypatch.setattr(hub, "ENDPOINT", place)
    monkeypatch.setattr(hub, "HUGGINGFACE_CO_URL_TEMPLATE", place + "/{repo_id}/resolve/{revision}/{filename}")
    yield served
    served.shutdown()
    served.server_close()


def lay(folder: Path, id: str, cache: Path) -> Path:
    """Puts `folder` into a hub cache as the client would have."""
    place = cache / f"models--{id.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    return place / "snapshots" / COMMIT


def test_an_id_is_read_from_the_cache_without_a_request(server, made, tmp_path):
    folder = lay(made, "lab/small", tmp_path / "cache")
    found = Pretrained("lab/small").create(tmp_path / "unused", [], 0)
    assert found == snapshot.of(folder, "small") and found.version.partition("-")[2] == snapshot.digest(made)[:12]
    assert server.asked == [] and not (tmp_path / "unused").exists()


@pytest.mark.parametrize("path", ["lab/small", "lab/no..such"])
def test_an_absent_id_is_one_line_and_no_request(server, path, tmp_path):
    with pytest.raises(InputError, match=r"say model\.download=true") as caught:
        Pretrained(path).create(tmp_path, [], 0)
    assert "\n" not in str(caught.value) and server.asked == []


def test_a_download_takes_safetensors_and_no_code(server, made, tmp_path):
    found = Pretrained("lab/small", download=True).create(tmp_path, [], 0)
    names = {path.name for path in Path(found.path).iterdir()}
    assert names == {path.name for path in made.iterdir()} and found.version == snapshot.of(made, "small").version
    asked = len(server.asked)
    assert asked > 0 and Pretrained("lab/small").create(tmp_path, [], 0) == found and len(server.asked) == asked


def test_a_download_of_what_is_not_there_is_one_line(server, tmp_path):
    with pytest.raises(InputError, match="lab/other cannot be downloaded") as caught:
        Pretrained("lab/other", download=True).create(tmp_path, [], 0)
    assert "\n" not in str(caught.value)


def test_a_cache_that_lacks_a_shard_is_refused(server, made, tmp_path):
    folder = lay(made, "lab/small", tmp_path / "cache")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"model-00002-of-00002\.safetensors, which is missing"):
        Pretrained("lab/small").create(tmp_path, [], 0)


def test_an_adapter_stands_on_the_base_that_it_names(server, made, tuned, tmp_path):
    """As a folder and as an id, on a hub id and on the folder that `base` says instead."""
    base = lay(made, "lab/small", tmp_path / "cache")
    lay(tuned, "lab/tuned", tmp_path / "cache")
    ids = torch.tensor([[2, 4, 7, 8, 6, 5]])
    for source in (Pretrained(str(tuned)), Pretrained("lab/tuned"), Pretrained("lab/tuned", base=str(made))):
        policy = source.create(tmp_path, [], 0)
        assert policy.base == str(base if source.base is None else made) and policy.version.startswith("tuned-")
        with torch.inference_mode():
            adapted, plain = (model(ids).logits for model in (load_policy(policy), load_model(made)))
        assert not torch.allclose(adapted, plain, atol=1e-3)
    assert server.asked == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "only LORA is supported"),
        ({"base_model_name_or_path": None}, r"say model\.base="),
        ({"base_model_name_or_path": "lab/absent"}, "lab/absent is no folder here and not in the Hugging Face cache"),
    ],
)
def test_adapters_that_cannot_stand_are_refused(server, tuned, tmp_path, change, message):
    config = shutil.copytree(tuned, tmp_path / "adapter") / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(InputError, match=message):
        Pretrained(str(config.parent)).create(tmp_path, [], 0)


def test_pickled_adapters_and_a_base_without_an_adapter_are_refused(made, tuned, tmp_path):
    weights = shutil.copytree(tuned, tmp_path / "adapter") / snapshot.ADAPTER
    weights.rename(weights.with_name("adapter_model.bin"))
    with pytest.raises(InputError, match="convert its weights to safetensors"):
        Pretrained(str(weights.parent), base=str(made)).create(tmp_path, [], 0)
    with pytest.raises(InputError, match="is no adapter"):
        Pretrained(str(made), base=str(made)).create(tmp_path, [], 0)


def test_a_gguf_file_is_converted(made, tmp_path, monkeypatch):
    monkeypatch.setattr("parley.models.hub.converted", lambda file: snapshot.of(made))
    assert Pretrained("models/Small.Q4.gguf").create(tmp_path, [], 0) == snapshot.of(made, "Small.Q4")


def test_a_folder_without_an_architecture_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        Pretrained(str(tmp_path)).config()
