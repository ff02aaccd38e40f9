#!/usr/bin/env bash
# sentence-transformers 6.2.0: a ColModernVBERT is loaded, and its queries lose their augmentation tokens.
#
# Guess: MultiVectorEncoder, which names this model among those it reads, encodes as its processor's process_queries
# and process_images do.
# Seen: it calls the processor itself, which for this model, unlike ColPali's and ColQwen2's, adds neither the ten
# augmentation tokens behind a query nor the words around a picture. Texts are encoded without a warning; a picture
# ends in a TypeError.
. "$(dirname "$0")/lib/environment.sh"
run_with 'sentence-transformers==6.2.0' 'transformers==5.23.0' 'torch==2.13.0' 'pillow==13.0.0' <<'PY'
import logging

import torch
from PIL import Image
from sentence_transformers import MultiVectorEncoder
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    ColModernVBertConfig,
    ColModernVBertForRetrieval,
    ColModernVBertProcessor,
    Idefics3ImageProcessorPil,
    ModernVBertConfig,
    PreTrainedTokenizerFast,
)

logging.disable(logging.WARNING)
special = ["<|begin_of_text|>", "<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
special += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
letters = {token: row for row, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
backend = Tokenizer(models.BPE(vocab=letters, merges=[]))
backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, additional_special_tokens=special, **names)
ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
text = {**tiny, **ids, "model_type": "modernbert", "vocab_size": len(tokenizer), "bos_token_id": None}
vlm = ModernVBertConfig(
    text_config={**text, "eos_token_id": None},
    vision_config={**tiny, "model_type": "siglip_vision_model", "image_size": 32, "patch_size": 16},
    image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    pixel_shuffle_factor=2,
)
ColModernVBertForRetrieval(ColModernVBertConfig(vlm_config=vlm, embedding_dim=16)).save_pretrained("model")
pixels = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
processor = ColModernVBertProcessor(pixels, tokenizer, image_seq_len=1)
processor.save_pretrained("model")
model = MultiVectorEncoder("model", device="cpu")
wanted = processor.process_queries(["owl"])["input_ids"].shape[1]
found = len(model.encode_query(["owl"])[0])
print(f"vectors of a query: {found}, where its processor makes {wanted} tokens")
assert found == wanted - 10
try:
    model.encode_document([Image.new("RGB", (40, 30))])
except TypeError as error:
    print("a picture:", str(error).splitlines()[0])
else:
    raise AssertionError("a picture is read")
PY
