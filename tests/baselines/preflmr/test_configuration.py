"""config.json in its official form: read, written back, and refused by the name of the field."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from baselines.preflmr import PreFLMRConfig
from baselines.preflmr.configuration import TextConfig, VisionConfig
from m2kr.errors import M2KRError
from tests.baselines.preflmr.make_fixtures import configuration

MAPPED = {
    "use_transformer_mapping_network": True,
    "transformer_mapping_config_base": "bert-base-uncased",
    "transformer_mapping_num_hidden_layers": 1,
}


def test_what_is_absent_or_null_is_the_default():
    for text, vision in ((None, None), ({}, {}), ({"hidden_size": None}, {"patch_size": None})):
        config = PreFLMRConfig.from_json({"model_type": "flmr", "text_config": text, "vision_config": vision})
        assert config.text_config == TextConfig()
        assert config.vision_config == VisionConfig()
        assert config.mapping is None
        assert config.dim == 128
        assert config.mask_instruction_token is None
    assert PreFLMRConfig.from_json({}) == PreFLMRConfig()


def test_the_official_files_are_read_and_written_back(golden):
    paths = [*sorted(golden.glob("configs/*")), golden / "preflmr", golden / "flmr"]
    assert len(paths) == 6
    for path in paths:
        config = PreFLMRConfig.from_folder(path)
        value = json.loads((path / "config.json").read_text())
        written = json.loads(json.dumps(config.to_json()))
        assert PreFLMRConfig.from_json(written) == config
        for name, given in value.items():
            if name in written and not isinstance(given, dict):
                assert written[name] == given, name
        for part in ("text_config", "vision_config"):
            for name, given in value[part].items():
                if name in written[part]:
                    assert written[part][name] == given
    assert PreFLMRConfig.from_folder(golden / "configs" / "preflmr_vit_g").vision_config.hidden_act == "gelu"
    assert PreFLMRConfig.from_folder(golden / "configs" / "preflmr_vit_l").vision_config.hidden_act == "quick_gelu"


def test_a_mapping_network_is_that_of_its_base_unless_changed():
    plain = PreFLMRConfig.from_json(MAPPED)
    assert plain.mapping.num_hidden_layers == 1
    assert plain.mapping.hidden_size == 768
    tiny = PreFLMRConfig.from_json(configuration("preflmr"))
    assert (tiny.mapping.hidden_size, tiny.mapping.intermediate_size, tiny.mapping.num_attention_heads) == (16, 32, 2)
    assert tiny.to_json()["transformer_mapping_config"] == {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    assert "transformer_mapping_config" not in plain.to_json()
    own = MAPPED | {
        "transformer_mapping_config_base": None,
        "transformer_mapping_config": {
            "vocab_size": 9,
            "hidden_size": 768,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
        },
    }
    config = PreFLMRConfig.from_json(own)
    assert PreFLMRConfig.from_json(config.to_json()) == config
    assert config.mapping.vocab_size == 9


def test_another_text_encoder_is_known_by_name_or_by_its_sizes():
    bge = PreFLMRConfig.from_json({"text_config": {"text_encoder_base_model": "BAAI/bge-m3", "query_maxlen": 64}})
    text = bge.text_config
    assert (text.family, text.vocab_size, text.hidden_size, text.num_hidden_layers) == ("xlm-roberta", 250002, 1024, 24)
    assert (text.num_attention_heads, text.max_position_embeddings, text.pad_token_id) == (16, 8194, 1)
    assert text.max_tokens == 8192
    assert text.query_maxlen == 64
    sizes = {
        "vocab_size": 9,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 4,
    }
    other = PreFLMRConfig.from_json(
        {"text_config": {"model_type": "xlm-roberta", "text_encoder_base_model": "org/own", **sizes}}
    )
    assert (other.text_config.family, other.text_config.hidden_size, other.text_config.type_vocab_size) == (
        "xlm-roberta",
        8,
        1,
    )
    for config in (bge, other):
        assert PreFLMRConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"model_type": "clip"}, "model_type is 'clip'"),
        ({"text_config": {"model_type": "t5"}}, "text_config.model_type is 't5'"),
        ({"text_config": {"text_encoder_base_model": "org/what"}}, "text_config.text_encoder_base_model is 'org/what'"),
        ({"text_config": {"model_type": "xlm-roberta"}}, "text_config.vocab_size is missing"),
        (
            {"text_config": {"model_type": "bert", "text_encoder_base_model": "BAAI/bge-m3"}},
            "text_config.model_type is 'bert', but",
        ),
        ({"text_config": {"projection_dim": 64}}, "text_config.projection_dim is 64"),
        ({"text_config": {"position_embedding_type": "relative_key"}}, "text_config.position_embedding_type"),
        ({"text_config": 3}, "text_config is 3"),
        ({"text_config": {"hidden_size": "768"}}, "text_config.hidden_size is '768'"),
        ({"text_config": {"hidden_size": 768.5}}, "text_config.hidden_size is 768.5"),
        ({"text_config": {"hidden_size": True}}, "text_config.hidden_size is True"),
        ({"text_config": {"hidden_size": -768}}, "text_config.hidden_size is -768"),
        ({"text_config": {"hidden_size": 100}}, "text_config: hidden_size 100 cannot be divided"),
        ({"vision_config": {"model_type": "siglip"}}, "vision_config.model_type is 'siglip'"),
        ({"vision_config": {"num_attention_heads": 0}}, "vision_config: hidden_size"),
        ({"mask_punctuation": "yes"}, "mask_punctuation is 'yes'"),
        ({"mask_instruction_token": 5}, "mask_instruction_token is 5"),
        ({"query_mask_input_ids_skip_list": 1}, "query_mask_input_ids_skip_list is 1"),
        ({"query_mask_input_ids_skip_list": ["1"]}, "query_mask_input_ids_skip_list is ['1']"),
        ({"use_transformer_mapping_network": True}, "transformer_mapping_config.vocab_size is missing"),
        (MAPPED | {"transformer_mapping_config_base": "org/what"}, "transformer_mapping_config_base is 'org/what'"),
        (MAPPED | {"transformer_mapping_config_base": "xlm-roberta-base"}, "is no BERT"),
        (MAPPED | {"transformer_mapping_config_base": "bert-large-uncased"}, "1024 wide and the text encoder 768"),
        (MAPPED | {"use_vision_encoder": False}, "use_vision_encoder is false"),
        (
            {
                "query_concat_output_from_text_encoder": False,
                "query_concat_output_from_vision_encoder": False,
            },
            "a query has no vectors",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_the_name_of_the_field(value, told):
    with pytest.raises(M2KRError) as error:
        PreFLMRConfig.from_json(value)
    assert told in str(error.value)


@pytest.mark.parametrize(("text", "told"), [("{", "invalid JSON"), ("[]", "not an object"), (None, "No such file")])
def test_a_file_that_is_no_configuration_is_named(tmp_path, text, told):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(M2KRError, match=told):
        PreFLMRConfig.from_folder(tmp_path)


def test_the_package_is_imported_without_torch():
    code = "import baselines.preflmr, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
