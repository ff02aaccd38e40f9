#!/usr/bin/env bash
# transformers 5.23.0: AutoTokenizer takes the vocabulary from tokenizer.json, and for many classes nothing else.
#
# Guess: the normalizer, the splitting and the template of tokenizer.json are used, as by the library tokenizers and by
# transformers 4; what save_pretrained writes is what from_pretrained reads.
# Seen: where tokenizer_config.json names BertTokenizer, DistilBertTokenizer, MPNetTokenizer and the like, these parts
# are made anew as the class has them. A query marker in the template is lost, words of a cased vocabulary are asked in
# lower case unless the config forbids it, and "x-ray" is cut up although the file joins it. No warning, and the next
# save_pretrained writes it so. PreTrainedTokenizerFast.from_pretrained reads the file as it is.
. "$(dirname "$0")/lib/environment.sh"
run_with 'transformers==5.23.0' 'tokenizers==0.23.3' <<'PY'
import json
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[Q]", "Owl", "owl", "xray", "x", "-", "ray", "of", "an"]
backend = Tokenizer(models.WordPiece({word: row for row, word in enumerate(words)}, unk_token="[UNK]"))
backend.normalizer = normalizers.Replace("-", "")  # "x-ray" is "xray"; capitals stay
backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
template = [(token, words.index(token)) for token in ("[CLS]", "[SEP]", "[Q]")]
backend.post_processor = processors.TemplateProcessing("[CLS] [Q] $A [SEP]", None, template)
special = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), words))
text = "x-ray of an Owl"


def read(folder, reader):
    tokenizer = reader.from_pretrained(folder)
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


stated = backend.encode(text).tokens
print("tokenizers:", stated)
assert stated == ["[CLS]", "[Q]", "xray", "of", "an", "Owl", "[SEP]"]
for name in ("BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "MPNetTokenizer", "PreTrainedTokenizerFast"):
    folder = Path(name)
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, **special}))
    got = read(folder, AutoTokenizer)
    print(f"AutoTokenizer, {name}:", got)
    if name == "PreTrainedTokenizerFast":
        assert got == stated
    else:
        assert got[1:-1] == ["x", "-", "ray", "of", "an", "owl"]
        assert read(folder, PreTrainedTokenizerFast) == stated

tokenizer = AutoTokenizer.from_pretrained("BertTokenizer")
tokenizer.backend_tokenizer.post_processor = backend.post_processor
assert "[Q]" in tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
tokenizer.save_pretrained("saved")
assert "[Q]" in Tokenizer.from_file("saved/tokenizer.json").encode(text).tokens
got = read("saved", AutoTokenizer)
print("a template that was set, saved and read again:", got)
assert "[Q]" not in got
AutoTokenizer.from_pretrained("saved").save_pretrained("again")
assert "[Q]" not in Tokenizer.from_file("again/tokenizer.json").encode(text).tokens
PY
