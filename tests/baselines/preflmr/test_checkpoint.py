"""Checkpoints in every form in which they occur, and what is said about those that cannot be read."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from baselines.preflmr import PreFLMR
from baselines.preflmr.checkpoint import FILES, official_state_dict
from baselines.preflmr.network import PreFLMRNetwork
from m2kr.errors import M2KRError

SAFE, BIN = "model.safetensors", "pytorch_model.bin"


@pytest.fixture
def copy(tmp_path):
    """Copy a checkpoint without its weights, and put others there: {file name: tensors}, with an index if sharded."""

    def make(folder, files):
        for name in ("query_tokenizer", "context_tokenizer"):
            shutil.copytree(folder / name, tmp_path / name, dirs_exist_ok=True)
        shutil.copy(folder / "config.json", tmp_path)
        for old in (*tmp_path.glob("*.safetensors*"), *tmp_path.glob("*.bin*")):
            old.unlink()
        for name, tensors in files.items():
            if name.endswith(".bin"):
                torch.save(tensors, tmp_path / name)
            else:
                save_file({key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / name)
        if len(files) > 1:
            kind = SAFE if all(name.endswith(".safetensors") for name in files) else BIN
            index = {"metadata": {}, "weight_map": {key: name for name, held in files.items() for key in held}}
            (tmp_path / f"{kind}.index.json").write_text(json.dumps(index))
        return tmp_path

    return make


def same(model, other):
    ours, theirs = official_state_dict(model), official_state_dict(other)
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def renamed(tensors, old, new):
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


def test_every_form_of_file_gives_the_same_model(folder, copy):
    whole = load_file(folder / SAFE)
    names = sorted(whole)
    half = [{name: whole[name] for name in part} for part in (names[::2], names[1::2])]
    model = PreFLMR.from_pretrained(folder)
    forms = [
        {SAFE: whole},
        {"model-00001-of-00002.safetensors": half[0], "model-00002-of-00002.safetensors": half[1]},
        {BIN: whole},
        {"pytorch_model-00001-of-00002.bin": half[0], "pytorch_model-00002-of-00002.bin": half[1]},
    ]
    for files in forms:
        assert same(PreFLMR.from_pretrained(copy(folder, files)), model)


def test_a_pickle_of_the_old_format_is_read(folder, copy):
    path = copy(folder, {})
    torch.save(load_file(folder / SAFE), path / BIN, _use_new_zipfile_serialization=False)
    assert same(PreFLMR.from_pretrained(path), PreFLMR.from_pretrained(folder))


@pytest.mark.parametrize("kind", ["preflmr", "flmr"])
def test_every_quirk_of_names_gives_the_same_model(folder, kind, copy):
    folder = folder.parent / kind
    whole = load_file(folder / SAFE)
    model = PreFLMR.from_pretrained(folder)
    double = official_state_dict(model)
    assert len(double) > len(whole)
    only_context = {name: tensor for name, tensor in double.items() if name not in whole}
    only_context |= {
        name: tensor for name, tensor in whole.items() if name.replace("query_", "context_") not in only_context
    }
    aliases = {name.replace(".bert_model.", ".text_model."): tensor for name, tensor in whole.items()}
    positions = {
        "query_text_encoder.bert_model.embeddings.position_ids": torch.arange(64)[None],
        "context_text_encoder.bert_model.embeddings.position_ids": torch.arange(64)[None],
        "query_vision_encoder.vision_model.vision_model.embeddings.position_ids": torch.arange(5)[None],
    }
    variants = {
        "both halves": double,
        "the other half": only_context,
        "aliases too": whole | aliases,
        "aliases only": aliases,
        "a level less": renamed(whole, "vision_model.vision_model.", "vision_model."),
        "a level more": renamed(whole, "vision_model.vision_model.", "vision_model.vision_model.vision_model."),
        "buffers": whole | positions,
    }
    for name, tensors in variants.items():
        assert same(PreFLMR.from_pretrained(copy(folder, {SAFE: tensors})), model), name


@pytest.mark.parametrize(
    "name",
    [
        "context_text_encoder.bert_model.encoder.layer.1.output.dense.weight",
        "context_text_encoder_linear.weight",
        "context_vision_projection.model.0.bias",
        "query_text_encoder.text_model.embeddings.word_embeddings.weight",
    ],
)
def test_unequal_twins_are_refused_by_name(flmr_folder, copy, name):
    tensors = load_file(flmr_folder / SAFE)
    twin = name.replace("context_", "query_").replace("text_model", "bert_model")
    path = copy(flmr_folder, {SAFE: tensors | {name: tensors[twin] + 1}})
    with pytest.raises(M2KRError, match="one tensor") as error:
        PreFLMR.from_pretrained(path)
    assert name in str(error.value)
    assert twin in str(error.value)


def test_everything_wrong_is_told_at_once(folder, copy):
    tensors = load_file(folder / SAFE)
    missing = "transformer_mapping_output_linear.bias"
    short = "query_text_encoder_linear.weight"
    del tensors[missing]
    tensors[short] = tensors[short][:, :4].contiguous()
    tensors["context_text_encoder_linear.weight"] = torch.zeros(8, 16, dtype=torch.long)
    tensors["query_text_encoder.bert_model.encoder.layer.2.output.dense.bias"] = torch.zeros(16)
    with pytest.raises(M2KRError) as error:
        PreFLMR.from_pretrained(copy(folder, {SAFE: tensors}))
    message = str(error.value)
    assert f"missing: {missing};" in message
    assert "unexpected: query_text_encoder.bert_model.encoder.layer.2.output.dense.bias;" in message
    assert f"{short} (8, 4) float32, not (8, 16)" in message
    assert "context_text_encoder_linear.weight (8, 16) int64, not (8, 16)" in message


def test_many_problems_are_counted(folder, copy):
    tensors = {name: tensor for name, tensor in load_file(folder / SAFE).items() if "vision" not in name}
    with pytest.raises(M2KRError, match=r"missing: .* and \d+ more"):
        PreFLMR.from_pretrained(copy(folder, {SAFE: tensors}))


def test_files_that_cannot_be_read_are_named(folder, copy, tmp_path):
    path = copy(folder, {})
    with pytest.raises(M2KRError, match="no weights"):
        PreFLMR.from_pretrained(path)
    (path / SAFE).write_bytes((folder / SAFE).read_bytes()[:-100])
    with pytest.raises(M2KRError, match=f"{SAFE} could not be read"):
        PreFLMR.from_pretrained(path)
    (path / SAFE).unlink()
    (path / BIN).write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(M2KRError, match=f"{BIN} could not be read"):
        PreFLMR.from_pretrained(path)
    torch.save({"epoch": 3}, path / BIN)
    with pytest.raises(M2KRError, match="something else than named tensors"):
        PreFLMR.from_pretrained(path)
    (path / BIN).unlink()
    index = path / f"{SAFE}.index.json"
    for text, told in (
        ("{", "no index"),
        ('{"weight_map": {"a": "model-1.safetensors"}}', "model-1.safetensors, which is missing"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "no file of weights beside it"),
    ):
        index.write_text(text)
        with pytest.raises(M2KRError, match=told):
            PreFLMR.from_pretrained(path)


class Rogue:
    def __reduce__(self):
        return print, ("code of a checkpoint was run",)


def test_code_in_a_pickle_is_not_run(folder, copy, capsys):
    path = copy(folder, {})
    torch.save({"a": Rogue()}, path / BIN)
    with pytest.raises(M2KRError, match="could not be read"):
        PreFLMR.from_pretrained(path)
    assert "was run" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["preflmr", "flmr"])
def test_a_saved_model_is_read_again_bit_for_bit(folder, kind, tmp_path):
    model = PreFLMR.from_pretrained(folder.parent / kind)
    for _ in range(2):  # the second time over the first
        model.save_pretrained(tmp_path / "saved")
    again = PreFLMR.from_pretrained(tmp_path / "saved")
    assert same(again, model)
    assert again.config == model.config
    assert (tmp_path / "saved" / SAFE).read_bytes() == (folder.parent / kind / SAFE).read_bytes()
    assert len(load_file(tmp_path / "saved" / SAFE)) == len(list(model.parameters()))
    texts = ["Show the passage of this picture: a red owl.", "bell, boat"]
    for ours, theirs in (
        (model.query_tokenizer(texts), again.query_tokenizer(texts)),
        (model.document_tokenizer(texts), again.document_tokenizer(texts)),
    ):
        assert torch.equal(ours.input_ids, theirs.input_ids)
    assert not [path for path in (tmp_path / "saved").rglob("*") if path.name.endswith(".tmp")]


def test_a_save_that_fails_leaves_what_was_there(folder, tmp_path, monkeypatch):
    model = PreFLMR.from_pretrained(folder)
    model.save_pretrained(tmp_path / "saved")
    before = {path: path.read_bytes() for path in (tmp_path / "saved").rglob("*") if path.is_file()}

    def fail(tensors, path, metadata):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("baselines.preflmr.checkpoint.save_file", fail)
    with pytest.raises(M2KRError, match="No space left"):
        model.save_pretrained(tmp_path / "saved")
    assert {path: path.read_bytes() for path in (tmp_path / "saved").rglob("*") if path.is_file()} == before


def test_saved_weights_keep_their_type(folder, tmp_path):
    model = PreFLMR.from_pretrained(folder, dtype="bfloat16")
    model.save_pretrained(tmp_path / "saved")
    assert {tensor.dtype for tensor in load_file(tmp_path / "saved" / SAFE).values()} == {torch.bfloat16}
    assert same(PreFLMR.from_pretrained(tmp_path / "saved", dtype="bfloat16"), model)


def test_a_loaded_model_holds_real_tensors_and_the_right_buffers(folder):
    loaded = PreFLMR.from_pretrained(folder)
    built = PreFLMRNetwork(loaded.config)
    buffers = dict(loaded.named_buffers())
    assert buffers.keys() == dict(built.named_buffers()).keys()
    assert all(torch.equal(buffers[name], buffer) for name, buffer in built.named_buffers())
    assert not any(tensor.is_meta for tensor in (*loaded.parameters(), *loaded.buffers()))
    assert not loaded.training
    frozen = [name for name, parameter in loaded.named_parameters() if not parameter.requires_grad]
    assert frozen == [name for name, parameter in built.named_parameters() if not parameter.requires_grad]


def test_a_hub_id_is_resolved_to_a_folder(folder, monkeypatch):
    asked = []

    def snapshot(name, patterns, **_):
        asked.append((name, patterns))
        return folder

    monkeypatch.setattr("baselines.common.checkpoints.snapshot", snapshot)
    assert same(PreFLMR.from_pretrained("org/model"), PreFLMR.from_pretrained(folder))
    assert asked[0] == ("org/model", FILES)


def test_unusable_settings_and_folders_are_refused(folder, tmp_path):
    with pytest.raises(M2KRError, match="dtype 'int8'"):
        PreFLMR.from_pretrained(folder, dtype="int8")
    with pytest.raises(M2KRError, match="device 'cuba'"):
        PreFLMR.from_pretrained(folder, device="cuba")
    with pytest.raises(M2KRError, match=r"config\.json could not be read"):
        PreFLMR.from_pretrained(tmp_path)
