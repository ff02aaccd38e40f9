"""Small encoders to begin with, where none are downloaded: a BERT and a CLIP with random weights and own vocabularies.

`train_clip` trains a CLIP contrastively, on pictures and what is said of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from PIL.Image import Image
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modality_types import Modality
from sentence_transformers.base.modules import InputModule
from tokenizers import BertWordPieceTokenizer, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel, CLIPTokenizer

from baselines.common.checkpoints import load_model, load_tokenizer, quiet_loading
from baselines.common.clip_pixels import ClipPixels
from baselines.preflmr.training.stages import StageConfig
from baselines.preflmr.training.trainer import train
from m2kr.common.files import atomic, write_json
from m2kr.errors import M2KRError
from m2kr.images.roots import ImageRoots

IMAGE_SIZE = 64
"""Pixels of a picture's side: 64 patches of 8 x 8 keep the spots and stripes of the made-up world apart."""

WIDTH, INNER, HEADS = 128, 256, 4
"""Sizes of all layers: chosen so that the three checkpoints stay below 12 MB in float16."""

TEXT_LAYERS, IMAGE_LAYERS, VOCABULARY = 2, 4, 1500
DOC_MAXLEN = 192
"""Tokens of a passage: some of WIT's passages are longer, all others are shorter."""

_CLIP_MAXLEN = 77  # as in CLIP
_BERT_SPECIAL = ("[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_START, _END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class Shape:
    """Sizes of an encoder's layers.

    Attributes:
        layers: how many.
        width: numbers of a token's vector.
        inner: numbers of the layer between, of the feed-forward part.
        heads: of the attention; they share ``width`` out among them.

    Raises:
        M2KRError: the heads cannot share ``width`` out evenly, or a size is below 1.
    """

    layers: int
    width: int = WIDTH
    inner: int = INNER
    heads: int = HEADS

    def __post_init__(self) -> None:
        if min(self.layers, self.width, self.inner, self.heads) < 1:
            raise M2KRError(f"an encoder has the sizes {self}; each has to be 1 or more.")
        if self.width % self.heads:
            raise M2KRError(f"an encoder's width is {self.width}, no multiple of its {self.heads} heads: change one.")


TEXT_SHAPE, IMAGE_SHAPE = Shape(TEXT_LAYERS), Shape(IMAGE_LAYERS)


def write_bert(texts: Iterable[str], folder: Path, seed: int, shape: Shape = TEXT_SHAPE) -> None:
    """Write a BERT with random weights, and a wordpiece vocabulary trained on ``texts``, to a folder.

    It has no dropout: the models are small and see each text a few times only.
    """
    wordpiece = BertWordPieceTokenizer(lowercase=True)
    texts = list(texts)
    letters = sorted({letter for text in texts for letter in wordpiece.normalize(text) if letter.isalnum()})
    # The trainer numbers letters within words in the order of a hash that changes with every run, and decides by number
    # which of two equally frequent pairs comes first. Given beforehand, they have the same numbers each time.
    known = [*_BERT_SPECIAL, *(f"##{letter}" for letter in letters)]
    wordpiece.train_from_iterator(
        texts, vocab_size=VOCABULARY, min_frequency=2, special_tokens=known, show_progress=False
    )
    vocabulary = [*_BERT_SPECIAL, *sorted(set(wordpiece.get_vocab()) - set(_BERT_SPECIAL))]
    with atomic(folder / "vocab.txt", "w") as file:
        file.writelines(f"{token}\n" for token in vocabulary)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    torch.manual_seed(seed)
    model = BertModel(
        BertConfig(
            **_sizes(shape),
            vocab_size=len(vocabulary),
            max_position_embeddings=DOC_MAXLEN,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    with quiet_loading():
        model.save_pretrained(folder)


def write_clip(
    texts: Iterable[str], folder: Path, seed: int, image: Shape = IMAGE_SHAPE, text: Shape = TEXT_SHAPE
) -> None:
    """Write a CLIP with random weights, and a byte-pair vocabulary as CLIP's, trained on ``texts``, to a folder.

    Its two towers meet in vectors of `WIDTH` numbers, whatever their own width.
    """
    bpe = Tokenizer(models.BPE(unk_token=_END, continuing_subword_prefix="", end_of_word_suffix="</w>"))
    # How CLIPTokenizer cuts texts into words.
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Of 1,500 tokens 512 would be single bytes, so this vocabulary is larger than BERT's. Ends of words are given
    # beforehand for the same reason as there.
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY + 500,
            min_frequency=2,
            special_tokens=[_START, _END, *(f"{letter}</w>" for letter in alphabet)],
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    learned = json.loads(bpe.to_str())["model"]
    vocabulary = {token: number for number, token in enumerate(sorted(learned["vocab"]))}
    write_json(folder / "vocab.json", vocabulary)
    with atomic(folder / "merges.txt", "w") as file:
        file.write("#version: 0.2\n")
        file.writelines(f"{' '.join(pair)}\n" for pair in learned["merges"])
    start, end = vocabulary[_START], vocabulary[_END]
    ids: dict[str, Any] = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    lengths = {"vocab_size": len(vocabulary), "max_position_embeddings": _CLIP_MAXLEN}
    config = CLIPConfig(
        text_config={**_sizes(text), **ids, **lengths},
        vision_config={**_sizes(image), "image_size": IMAGE_SIZE, "patch_size": 8},
        projection_dim=WIDTH,
        **ids,
    )
    torch.manual_seed(seed)
    with quiet_loading():
        CLIPModel(config).save_pretrained(folder)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "model_max_length": _CLIP_MAXLEN})
    sizes = {"size": {"shortest_edge": IMAGE_SIZE}, "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}}
    write_json(
        folder / "preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor", **sizes, "resample": 3}
    )


def _sizes(shape: Shape) -> dict[str, Any]:
    """Return the sizes of layers as configurations of transformers name them."""
    return {
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
    }


_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "preprocessor_config.json")


class ClipModule(InputModule):
    """A CLIP as the first module of a `MultiVectorEncoder`: one vector of length 1 for a picture, one for a text.

    Queries are pictures, passages are texts, so that MaxSim is the cosine CLIP is trained by.

    Args:
        folder: of the model, with its tokenizer.
    """

    config_keys = []  # noqa: RUF012
    forward_kwargs = {"task"}  # noqa: RUF012 - both as the base class has them

    def __init__(self, folder: Path) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = load_model(CLIPModel, folder, device=torch.device("cpu"), dtype=torch.float32)
        self.pixels = ClipPixels.from_folder(folder, IMAGE_SIZE)
        vocabulary = self.model.config.text_config.vocab_size
        self._tokenizer = load_tokenizer(CLIPTokenizer, folder, vocabulary=vocabulary)
        self._files = {name: (folder / name).read_bytes() for name in _FILES}

    @property
    def modalities(self) -> list[Modality]:
        """Kinds of input: texts, and mappings of which the image is read."""
        return ["text", ("image", "text")]

    def preprocess(  # type: ignore[override]
        self, inputs: Sequence[str | Mapping[str, Any]], prompt: str | None = None, task: str | None = None, **_: Any
    ) -> dict[str, Any]:
        """Return the tensors of a batch: pixel_values of pictures, or input_ids and attention_mask of texts."""
        if task == "query":
            images: list[Image] = [item["image"] for item in inputs if not isinstance(item, str)]
            return {"pixel_values": self.pixels.pixels(images, torch.device("cpu"), torch.float32)}
        tokens = self._tokenizer(
            list(inputs), padding=True, truncation=True, max_length=_CLIP_MAXLEN, return_tensors="pt"
        )
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}

    def forward(self, features: dict[str, Any], task: str | None = None, **_: Any) -> dict[str, Any]:
        """Return the features with ``token_embeddings`` ``(n, 1, dim)`` and an ``attention_mask`` ``(n, 1)`` of 1."""
        if "pixel_values" in features:
            vectors = self.model.visual_projection(self.model.vision_model(features["pixel_values"]).pooler_output)
        else:
            pooled = self.model.text_model(
                input_ids=features["input_ids"], attention_mask=features["attention_mask"]
            ).pooler_output
            vectors = self.model.text_projection(pooled)
        vectors = F.normalize(vectors, dim=-1)[:, None]
        mask = torch.ones(vectors.shape[:2], dtype=torch.int64, device=vectors.device)
        return {**features, "token_embeddings": vectors, "attention_mask": mask}

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the checkpoint as transformers reads it."""
        folder = Path(output_path)
        with quiet_loading():
            self.model.save_pretrained(folder)
        for name, content in self._files.items():
            with atomic(folder / name) as file:
                file.write(content)

    @classmethod
    def load(cls, model_name_or_path: str, **_: Any) -> ClipModule:  # type: ignore[override]
        """Return a saved module."""
        return cls(Path(model_name_or_path))


def train_clip(start: Path, config: StageConfig, data: Path, images: ImageRoots, out: Path, *, quiet: bool) -> None:
    """Train the CLIP of the folder ``start`` contrastively, its pictures as queries and its texts as passages.

    The settings have ``stage = 0``; see `baselines.preflmr.training.trainer.train`.
    """
    module = ClipModule(start)
    encoder = MultiVectorEncoder(modules=[module], device="cpu")
    train(encoder, config, data, images, out, prepare=module.pixels.prepare, quiet=quiet)
