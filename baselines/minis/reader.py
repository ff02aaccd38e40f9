"""Making and training reader-mini, a LLaVA with a vocabulary of its own and the image encoder of clip-mini."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoProcessor,
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from baselines.common.checkpoints import CLIP_TEXT_HALF, count_parameters, load_model, quiet_loading, weights_hash
from baselines.image_text_to_text import PROMPT_WITH_PASSAGES
from baselines.minis.reader_data import ANSWER, PASSAGE, Batches, ReaderConfig
from baselines.preflmr.training.runs import run_training, shared_arguments
from m2kr.dataset import TaskData, load_task
from m2kr.images.roots import ImageRoots

PAD, END, IMAGE = "<pad>", "</s>", "<image>"
_POSITIONS = 2048
"""Tokens of a prompt and its answer: five passages of the made-up world are 700."""

_THETA = 1e6
"""Base of the rotary positions: large, so that half of a head's numbers turn by less than a radian over a prompt."""

_SPREAD, _NEAR, _SHARP, _COPIED = 0.1, 8.0, 2.0, 0.5
"""Of the copying circuit: spread of the embeddings, how firmly the token before and equal tokens are looked at, and how
much of a token is copied. As tried: when a list of 100 random tokens comes again, 9 in 10 of them are right."""


def make_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Return a PreTrainedTokenizerFast of byte pairs, trained on ``texts``: lower case, digits one by one.

    A word has the same tokens wherever it stands, as long as a blank is before it, so that it can be copied. Equal
    texts give an equal vocabulary: there are no marks of a word's end, whose numbers would depend on a hash.
    """
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            min_frequency=2,
            special_tokens=[PAD, END, IMAGE],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=made, pad_token=PAD, eos_token=END, extra_special_tokens={"image_token": IMAGE})


def wire_copying(decoder: Any) -> None:
    """Set the first two layers of a Llama so that they copy: after "a b ... a" they predict "b".

    This is the circuit of Olsson et al., "In-context Learning and Induction Heads" (2022), which training from random
    weights takes thousands of updates to find. One head of the first layer looks at the token before and writes a
    projection of it where embeddings have no numbers yet; the heads of the second layer look for places that hold the
    projection of their own token, and copy the token there. All of it is trained on.

    Args:
        decoder: a LlamaModel with biases in its attention and at least 2 layers. Drawn from torch's generator.
    """
    config = decoder.config
    width, size = config.hidden_size, config.hidden_size // config.num_attention_heads
    half = size // 2
    # Numbers of a head that turn slowly with the distance, in pairs: what is compared must not depend on that.
    slow = torch.arange(math.ceil(half * 7 / 16), half)
    slow = torch.cat([slow, slow + half])
    matched = len(slow)
    free = width - matched
    turns = decoder.rotary_emb.inv_freq
    with torch.no_grad():
        decoder.embed_tokens.weight.normal_(0, _SPREAD)
        decoder.embed_tokens.weight[:, free:] = 0
        projection = torch.randn(matched, free) / math.sqrt(free)
        first, second = (layer.self_attn for layer in decoder.layers[:2])
        # Turned by one place, the bias of the query is that of the key.
        first.q_proj.weight[:size], first.k_proj.weight[:size] = 0, 0
        first.k_proj.bias[:half] = _NEAR
        first.q_proj.bias[:half], first.q_proj.bias[half:size] = _NEAR * turns.cos(), -_NEAR * turns.sin()
        first.v_proj.weight[:size] = 0
        first.v_proj.weight[:matched, :free] = projection
        first.o_proj.weight[:, :size] = 0
        first.o_proj.weight[free:, :matched] = _SPREAD * torch.eye(matched)
        second.q_proj.weight.zero_()
        second.k_proj.weight.zero_()
        for start in range(0, width, size):
            second.q_proj.weight[start + slow, :free] = _SHARP * projection
            second.k_proj.weight[start + slow, free:] = _SHARP * torch.eye(matched)
        second.v_proj.weight.copy_(torch.eye(width))
        second.o_proj.weight.copy_(_COPIED * torch.eye(width))
        second.o_proj.weight[free:] = 0


def write_start(texts: Iterable[str], clip: Path, folder: Path, config: ReaderConfig) -> None:
    """Write the model as it is before training, in float32, with its processor, to a folder.

    The vocabulary is learned from ``texts``, the vision tower is that of the CLIP in the folder ``clip``.
    """
    tower = load_model(CLIPVisionModel, clip, device=torch.device("cpu"), dtype=torch.float32, unused=CLIP_TEXT_HALF)
    tokenizer = make_tokenizer(texts, config.vocabulary)
    size, patch = tower.config.image_size, tower.config.patch_size
    make: Any = LlavaProcessor
    processor = make(
        CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size}),
        tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, which "default" leaves out again
        image_token=IMAGE,
    )
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    vision = {name: value for name, value in tower.config.to_dict().items() if name != "_name_or_path"}
    made = LlavaConfig(
        vision_config={**vision, "model_type": "clip_vision_model"},
        text_config={
            **ids,
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": config.width,
            "intermediate_size": config.inner,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.heads,
            "max_position_embeddings": _POSITIONS,
            "tie_word_embeddings": True,
            "attention_bias": True,  # with it, a head can look at a place whatever stands there
            "rope_parameters": {"rope_type": "default", "rope_theta": _THETA},
        },
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        tie_word_embeddings=True,
        **ids,
    )
    torch.manual_seed(config.seed)
    model = LlavaForConditionalGeneration(made)
    wire_copying(model.model.language_model)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    _save(model, processor, folder)


def _save(model: Any, processor: Any, folder: Path) -> None:
    with quiet_loading():
        model.save_pretrained(folder)
    processor.save_pretrained(folder)


# --- training -------------------------------------------------------------------------------------------------------


class ReaderTrainer(Trainer):
    """The trainer of transformers with the loss of a reader; an item of its data is a batch.

    Args:
        passage_loss: weight of the loss of the passages' tokens.
        **settings: of transformers' Trainer.
    """

    def __init__(self, *, passage_loss: float, **settings: Any) -> None:
        super().__init__(data_collator=_only, **settings)
        self._passage_loss = passage_loss
        # The loss is a mean already: the trainer is not to divide it by a number of tokens.
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> torch.Tensor:
        """Return the mean loss of the answers' tokens plus the weighted one of the passages'."""
        return reader_loss(model, inputs, self._passage_loss)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # The trainer's own compares names of files with names of modules, which differ in a LLaVA, and goes on with
        # the weights it has.
        made: Any = self.model
        made.load_state_dict(_load(Path(resume_from_checkpoint)).state_dict())


def _only(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return items[0]


def _load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return load_model(LlavaForConditionalGeneration, folder, device=torch.device("cpu"), dtype=dtype)


def reader_loss(model: Any, batch: dict[str, torch.Tensor], passage_loss: float) -> torch.Tensor:
    """Return the loss of a batch of `baselines.minis.reader_data.Batches`, float32 ``()``.

    It is the mean cross-entropy of the answers' tokens, and ``passage_loss`` times that of the marked tokens of
    passages. Only at these are tokens predicted, which is all that the loss reads. Padding is on the right, where no
    token looks.
    """
    states = model.model(input_ids=batch["input_ids"], pixel_values=batch.get("pixel_values")).last_hidden_state
    weights, targets = batch["weights"][:, 1:], batch["input_ids"][:, 1:]
    read = weights > 0
    each = F.cross_entropy(model.lm_head(states[:, :-1][read]).float(), targets[read], reduction="none")
    loss = each[weights[read] == ANSWER].mean()
    passages = each[weights[read] == PASSAGE]
    return loss + passage_loss * passages.mean() if len(passages) else loss


def train_reader(
    work: Path, data: Path, images: ImageRoots, config: ReaderConfig, clip: Path, *, quiet: bool = False
) -> dict[str, Any]:
    """Train, going on where an earlier run of the same settings stopped; return what ``training.json`` holds.

    ``WORK/reader-start`` gets the model before training, ``WORK/reader`` the run and the trained model. The vision
    tower is that of the CLIP in the folder ``clip``, frozen.

    Raises:
        M2KRError: the folder holds another run, the data lack something, or the loss is no longer a number.
    """
    torch.set_num_threads(1)  # sums are added up in the same order wherever it runs
    set_seed(config.seed)
    splits = [load_task(key, data, "train", images=images) for key in config.tasks]
    settings = {
        "config": config.to_json(),
        "data": [split.fingerprint for split in splits],
        "clip": weights_hash(clip),
    }
    out, start = work / "reader", work / "reader-start"

    def make_trainer(last: Path | None) -> ReaderTrainer:
        if last is None:
            write_start(_texts(splits), clip, start, config)
        model = _load(start)
        model.model.vision_tower.requires_grad_(False)
        return ReaderTrainer(
            model=model,
            args=_arguments(config, out, quiet=quiet),
            train_dataset=Batches(splits, _processor(start), config),
            passage_loss=config.passage_loss,
        )

    def finish(trainer: Any) -> dict[str, Any]:
        _save(trainer.model, _processor(start), out)
        return {"parameters": count_parameters(trainer.model)}

    return run_training(out, settings, make_trainer, finish, data=splits, quiet=quiet)


def export_reader(trained: Path, out: Path) -> None:
    """Write a trained reader in float16, as `baselines.image_text_to_text.ImageTextToText` reads it."""
    _save(_load(trained, torch.float16), _processor(trained), out)


def _processor(folder: Path) -> Any:
    make: Any = AutoProcessor
    return make.from_pretrained(folder, local_files_only=True)


def _texts(splits: Sequence[TaskData]) -> Iterator[str]:
    """Yield what the vocabulary is learned from: passages, questions, and the words of a prompt."""
    for split in splits:
        yield from split.passages["passage_content"]
        yield from (question for question in split.queries["question"] if question)
    yield from [f"\n{PROMPT_WITH_PASSAGES}"] * 100  # often enough to be whole tokens


def _arguments(config: ReaderConfig, out: Path, *, quiet: bool) -> TrainingArguments:
    return TrainingArguments(
        **shared_arguments(config, out, "cpu", quiet=quiet),
        per_device_train_batch_size=1,  # an item is a batch
        train_sampling_strategy="sequential",
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        remove_unused_columns=False,
        save_steps=config.save_every,
        report_to=[],
    )
