"""Hubs that answer, refuse and keep silent (all on this machine), caches, and damaged checkpoints."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, BertTokenizer
from transformers.utils import import_utils

from baselines.common.checkpoints import (
    MODEL_FILES,
    configuration_hash,
    load_model,
    load_tokenizer,
    loading,
    snapshot,
    weight_files,
    weights_hash,
)
from m2kr.common.files import digest, sha256_of
from m2kr.errors import M2KRError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROGRAM = """
import sys
from huggingface_hub import HfApi, snapshot_download
from baselines.common.checkpoints import snapshot
from m2kr.errors import M2KRError
try:
    print("found", snapshot(sys.argv[1]))
except M2KRError as error:
    print("error", error)
"""


def ask(home: Path, name: str = "org/tiny", **variables: str) -> tuple[str, str]:
    """Ask for a model in a process of its own, which is given a minute: huggingface_hub reads its environment once."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**kept, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", **variables},
    )
    kind, _, what = done.stdout.strip().partition(" ")
    assert "Traceback" not in done.stderr
    return kind, what


def cached(home: Path, files: dict[str, str], name: str = "org/tiny") -> Path:
    """Lay out a model as huggingface_hub's cache does."""
    root = home / "hub" / f"models--{name.replace('/', '--')}"
    folder = root / "snapshots" / COMMIT
    for file, content in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(content)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    return folder


@pytest.fixture
def silent() -> Iterator[str]:
    """A hub that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    """A hub at a port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def hub() -> Iterator[tuple[str, dict[str, bytes], list[str]]]:
    """A hub with one model, org/tiny: its address, its files, and the paths of the files that were asked for."""
    files: dict[str, bytes] = {}
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def answer(self, body: bytes, code: int = 200, **headers: str) -> None:
            self.send_response(code)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path.startswith(f"/org/tiny/resolve/{COMMIT}/"):
                name = path.rpartition(f"{COMMIT}/")[2]
                asked.append(name)
                self.answer(files[name], ETag=f'"{name}"', X_Repo_Commit=COMMIT)
            elif path.startswith("/api/models/org/tiny/tree/"):
                entries = [
                    {"type": "file", "path": name, "size": len(body), "oid": "0" * 40} for name, body in files.items()
                ]
                self.answer(json.dumps(entries).encode(), Content_Type="application/json")
            elif path.startswith("/api/models/org/tiny"):
                found = {"id": "org/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
                self.answer(json.dumps(found).encode(), Content_Type="application/json")
            else:
                self.answer(b"{}", 404, X_Error_Code="RepoNotFound")

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", files, asked
    server.shutdown()
    server.server_close()


# --- where a model is -----------------------------------------------------------------------------------------------


def test_a_folder_stays_a_folder(tmp_path: Path) -> None:
    assert snapshot(str(tmp_path)) == tmp_path


def test_a_hub_that_refuses_is_one_clear_error_at_once(tmp_path: Path, closed: str) -> None:
    kind, message = ask(tmp_path, HF_ENDPOINT=closed)
    assert kind == "error"
    assert message.startswith("the model 'org/tiny' could not be loaded (")
    assert "refused" in message
    assert message.endswith(
        "copy its files (config.json, tokenizer files, model.safetensors) into FOLDER and name that folder: "
        "--checkpoint FOLDER."
    )


def test_a_hub_that_keeps_silent_is_given_up_within_seconds(tmp_path: Path, silent: str) -> None:
    kind, message = ask(tmp_path, HF_ENDPOINT=silent)
    assert kind == "error"
    assert "timed out" in message or "did not answer" in message


def test_the_time_limit_can_be_set_and_the_cache_goes_for_a_silent_hub(tmp_path: Path, silent: str) -> None:
    folder = cached(tmp_path, {"config.json": "{}", "model.safetensors": "weights"})
    kind, found = ask(tmp_path, HF_ENDPOINT=silent, HF_HUB_ETAG_TIMEOUT="1")
    assert (kind, Path(found)) == ("found", folder)


def test_offline_a_cached_model_is_found_and_another_is_not(tmp_path: Path) -> None:
    folder = cached(tmp_path, {"config.json": "{}", "1_Dense/pytorch_model.bin": "weights"})
    kind, found = ask(tmp_path, HF_HUB_OFFLINE="1")
    assert (kind, Path(found)) == ("found", folder)
    kind, message = ask(tmp_path, "org/other", HF_HUB_OFFLINE="1")
    assert kind == "error"
    assert "offline mode is enabled" in message


def test_a_cached_model_without_its_weights_is_not_taken_for_whole(tmp_path: Path) -> None:
    cached(tmp_path, {"config.json": "{}"})
    kind, message = ask(tmp_path, HF_HUB_OFFLINE="1")
    assert kind == "error"
    assert "the cache holds it in part only" in message


def test_no_code_and_no_second_copy_of_the_weights_is_downloaded(
    tmp_path: Path, hub: tuple[str, dict[str, bytes], list[str]]
) -> None:
    endpoint, files, asked = hub
    wanted = ["config.json", "model.safetensors", "2_Dense/pytorch_model.bin", "query_tokenizer/vocab.txt"]
    wanted += ["artifact.metadata", "chat_template.jinja"]
    left = ["pytorch_model.bin", "training_args.bin", "openvino/openvino_model.bin", "modeling.py", "tf_model.h5"]
    files.update({name: name.encode() for name in [*wanted, *left, "README.md"]} | {"config.json": b"{}"})
    kind, found = ask(tmp_path, HF_ENDPOINT=endpoint, HF_HUB_DISABLE_XET="1")
    assert kind == "found"
    there = sorted(str(path.relative_to(found)) for path in Path(found).rglob("*") if path.is_file())
    assert there == sorted(wanted) == sorted(set(asked))
    assert (Path(found) / "2_Dense/pytorch_model.bin").read_bytes() == b"2_Dense/pytorch_model.bin"
    assert ask(tmp_path, HF_HUB_OFFLINE="1")[:2] == ("found", found)


def test_a_model_that_the_hub_does_not_have_is_said_to_be_so(
    tmp_path: Path, hub: tuple[str, dict[str, bytes], list[str]]
) -> None:
    kind, message = ask(tmp_path, "org/other", HF_ENDPOINT=hub[0])
    assert kind == "error"
    assert "the hub has no such model, or not for you" in message


@pytest.mark.parametrize("name", ["./models/tiny", "/models/tiny", "a/b/c", "not an id/at all", "~/tiny"])
def test_what_is_neither_folder_nor_hub_id_is_refused_without_asking(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(M2KRError, match="there is no such folder"):
        snapshot(name)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(M2KRError, match="it is a file"):
        snapshot(str(tmp_path / "model.safetensors"))


def test_patterns_that_could_fetch_code_are_a_mistake_of_the_caller(tmp_path: Path) -> None:
    for pattern in ("*", "query_tokenizer/*", "*.py", "modeling*"):
        with pytest.raises(ValueError, match="do not end"):
            snapshot(str(tmp_path), [*MODEL_FILES, pattern])


# --- what identifies it ---------------------------------------------------------------------------------------------


def test_weights_are_identified_by_what_is_loaded(tmp_path: Path) -> None:
    for name in ("model.safetensors", "pytorch_model.bin", "part/pytorch_model.bin", "part/training_args.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert weight_files(tmp_path) == [tmp_path / "model.safetensors", tmp_path / "part/pytorch_model.bin"]
    assert weights_hash(tmp_path / "part") == sha256_of(tmp_path / "part/pytorch_model.bin")
    assert weights_hash(tmp_path) == digest([sha256_of(path) for path in weight_files(tmp_path)])
    both = weights_hash(tmp_path, tmp_path / "part")
    assert both not in (weights_hash(tmp_path), weights_hash(tmp_path / "part", tmp_path))


def test_the_configuration_counts_every_file_and_its_place_but_not_the_weights(tmp_path: Path) -> None:
    seen = {configuration_hash(tmp_path)}
    for name in ("config.json", "tokenizer/config.json", "vocab.txt", "spiece.model", "artifact.metadata"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
        seen.add(configuration_hash(tmp_path))
    assert len(seen) == 6
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "README.md").touch()
    assert configuration_hash(tmp_path) in seen


# --- how it is loaded -----------------------------------------------------------------------------------------------

CPU, FLOAT = torch.device("cpu"), torch.float32
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A BERT of a few hundred weights."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(WORDS))
    return tmp_path / "bert"


def test_a_checkpoint_is_loaded_whole_whatever_its_file_is(bert: Path) -> None:
    model = load_model(BertModel, bert, device=CPU, dtype=torch.bfloat16)
    assert not model.training
    assert model.dtype == torch.bfloat16
    weights = load_model(BertModel, bert, device=CPU, dtype=FLOAT).state_dict()
    (bert / "model.safetensors").unlink()
    torch.save(weights, bert / "pytorch_model.bin")
    for name, value in load_model(BertModel, bert, device=CPU, dtype=FLOAT).state_dict().items():
        assert torch.equal(value, weights[name])


def test_weights_that_are_missing_are_an_error_and_not_made_up(bert: Path) -> None:
    weights = load_model(BertModel, bert, device=CPU, dtype=FLOAT).state_dict()
    del weights["encoder.layer.0.attention.self.query.weight"]
    save_file(weights, bert / "model.safetensors", {"format": "pt"})
    with pytest.raises(M2KRError, match=r"has no encoder\.layer\.0\.attention\.self\.query\.weight and random"):
        load_model(BertModel, bert, device=CPU, dtype=FLOAT)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


def test_a_pickle_that_runs_code_is_refused_unrun(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bert)
    (bert / "model.safetensors").unlink()
    for write in (
        lambda: torch.save({"weight": Bomb()}, bert / "pytorch_model.bin"),
        lambda: (bert / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(), protocol=2)),
    ):
        write()
        with pytest.raises(M2KRError, match="could not be loaded as BertModel"):
            load_model(BertModel, bert, device=CPU, dtype=FLOAT)
        assert not (bert / "exploded").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [("config.json", "{"), ("config.json", '{"hidden_size": -1}'), ("model.safetensors", "cut")],
)
def test_damaged_files_are_one_line(bert: Path, file: str, content: str) -> None:
    (bert / file).write_text(content)
    with pytest.raises(M2KRError, match=r"could not be loaded as BertModel|random numbers stood in") as caught:
        load_model(BertModel, bert, device=CPU, dtype=FLOAT)
    assert "\n" not in str(caught.value)


def test_where_torchvision_is_of_another_build_than_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What PyPI's torchvision raises beside a torch for CPUs alone."""
    there = ModuleType("torchvision")
    there.__spec__ = ModuleSpec("torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision", there)
    with pytest.raises(M2KRError, match=r"nms does not exist\).*'m2kr\[vision\]'.*torch's build"), loading("x"):
        raise RuntimeError("operator torchvision::nms does not exist")


def test_where_torchvision_lacks_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = (lambda: False, import_utils.TORCHVISION_IMPORT_ERROR)
    monkeypatch.setitem(import_utils.BACKENDS_MAPPING, "torchvision", absent)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with (
        pytest.raises(M2KRError, match=r"^x could not be loaded .*torchvision.*'m2kr\[vision\]'") as caught,
        loading("x could not be loaded"),
    ):
        import_utils.requires_backends("DINOv3ViTImageProcessor", ["torchvision"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_folder_without_its_files_is_no_model(bert: Path, file: str) -> None:
    (bert / file).unlink()
    with pytest.raises(M2KRError, match="is no model folder"):
        load_model(BertModel, bert, device=CPU, dtype=FLOAT)


def test_a_tokenizer_is_read_and_one_without_files_refused(bert: Path) -> None:
    tokenizer = load_tokenizer(BertTokenizer, bert, vocabulary=len(WORDS))
    assert tokenizer("a b j")["input_ids"] == [2, 5, 6, 14, 3]
    with pytest.raises(M2KRError, match="do not belong together"):
        load_tokenizer(BertTokenizer, bert, vocabulary=len(WORDS) - 1)
    (bert / "vocab.txt").unlink()
    with pytest.raises(M2KRError, match="has no tokenizer"):
        load_tokenizer(BertTokenizer, bert, vocabulary=len(WORDS))
