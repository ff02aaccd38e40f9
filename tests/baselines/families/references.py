"""What each family's authors compute, one input at a time in plain transformers, without this repository's encoders.

Each function takes the folder, an input's text and picture, whether it is a query, and the query's prompt, and returns
one vector (dim,) or many (tokens, dim) as float32. A model that reads text and picture apart returns what it makes of
the one that is given.
"""

from __future__ import annotations

import math
import string
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL.Image import Image
from safetensors.torch import load_file


@cache
def _loaded(make: str, folder: Path) -> Any:
    """Return a model, tokenizer or image processor of a folder."""
    found = getattr(transformers, make).from_pretrained(folder)
    return found.eval() if isinstance(found, torch.nn.Module) else found


def _one(states: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(states, dim=-1).numpy()


def _ids(folder: Path, text: str, **given: Any) -> torch.Tensor:
    return _loaded("AutoTokenizer", folder)(text, return_tensors="pt", **given)["input_ids"]


# --- texts ----------------------------------------------------------------------------------------------------------


def mean(folder: Path, text: str, image: None, query: bool, prompt: str = "") -> np.ndarray:
    """The mean of the last hidden states, normalised."""
    return _one(_loaded("BertModel", folder)(input_ids=_ids(folder, prompt + text)).last_hidden_state[0].mean(0))


def last_with_prompt(folder: Path, text: str, image: None, query: bool, prompt: str | None = None) -> np.ndarray:
    """Qwen3-Embedding: the instruction in front of queries alone, the state of the last token."""
    if query:
        text = ("Instruct: Find the page.\nQuery:" if prompt is None else prompt) + text
    return _one(_loaded("Qwen3Model", folder)(input_ids=_ids(folder, text)).last_hidden_state[0, -1])


def _colbert(
    states_of: Any, tokenizer: Any, text: str, marker: str, length: int, projection: torch.Tensor, skipped: set[str]
) -> np.ndarray:
    """ColBERT's encoding: a marker after [CLS]; queries filled up with [MASK], which nothing attends to."""
    query = not skipped
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][: length - 3]
    ids = [tokenizer.cls_token_id, tokenizer.convert_tokens_to_ids(marker), *ids, tokenizer.sep_token_id]
    real = len(ids)
    if query:
        ids += [tokenizer.mask_token_id] * (length - real)
    mask = torch.tensor([[1] * real + [0] * (len(ids) - real)])
    states = states_of(input_ids=torch.tensor([ids]), attention_mask=mask).last_hidden_state[0]
    kept = [row for row, token in enumerate(ids) if tokenizer.convert_ids_to_tokens(token) not in skipped]
    return _one(states[kept] @ projection.T)


def stanford(folder: Path, text: str, image: None, query: bool, prompt: str = "") -> np.ndarray:
    """ColBERTv2 of Stanford: 32 vectors for a query, up to 180 tokens of a passage without punctuation."""
    weights = load_file(folder / "model.safetensors")
    model = transformers.BertModel(transformers.BertConfig.from_pretrained(folder)).eval()
    model.load_state_dict({key[5:]: value for key, value in weights.items() if key.startswith("bert.")})
    tokenizer = _loaded("AutoTokenizer", folder)
    marker, length = ("[unused0]", 32) if query else ("[unused1]", 180)
    skipped = set() if query else set(string.punctuation)
    return _colbert(model, tokenizer, prompt + text, marker, length, weights["linear.weight"], skipped)


def pylate(folder: Path, text: str, image: None, query: bool, prompt: str = "") -> np.ndarray:
    """PyLate to release 3: as ColBERT, with lengths, markers and words to skip of its configuration."""
    projection = load_file(next(folder.glob("*_Dense/model.safetensors")))["linear.weight"]
    marker, length = ("[unused0]", 16) if query else ("[unused1]", 40)
    skipped = set() if query else {".", "!", ","}
    tokenizer = _loaded("AutoTokenizer", folder)
    return _colbert(_loaded("BertModel", folder), tokenizer, prompt + text, marker, length, projection, skipped)


# --- pictures and texts apart ---------------------------------------------------------------------------------------


def clip(folder: Path, text: str | None, image: Image | None, query: bool, prompt: str = "") -> np.ndarray:
    """CLIP: the projected vector of the one or the other, normalised."""
    model = _loaded("CLIPModel", folder)
    if image is not None:
        pixels = _loaded("CLIPImageProcessorPil", folder)(image, return_tensors="pt")["pixel_values"]
        return _one(model.visual_projection(model.vision_model(pixels).pooler_output)[0])
    ids = _ids(folder, prompt + str(text), truncation=True, max_length=77)
    return _one(model.text_projection(model.text_model(ids).pooler_output)[0])


def siglip2(folder: Path, text: str | None, image: Image | None, query: bool, prompt: str = "") -> np.ndarray:
    """SigLIP2: texts in lower case, filled up to 64 tokens, or as many as there are positions, without a mask."""
    model = _loaded("SiglipModel", folder)
    if image is not None:
        pixels = _loaded("SiglipImageProcessorPil", folder)(image, return_tensors="pt")["pixel_values"]
        return _one(model.vision_model(pixels).pooler_output[0])
    length = model.config.text_config.max_position_embeddings
    ids = _ids(folder, (prompt + str(text)).lower(), truncation=True, max_length=length, padding="max_length")
    return _one(model.text_model(ids).pooler_output[0])


def siglip2_naflex(folder: Path, text: str | None, image: Image | None, query: bool, prompt: str = "") -> np.ndarray:
    """SigLIP2 for pictures of any shape: patches up to a number, in their shape; texts as of the other."""
    model = _loaded("Siglip2Model", folder)
    if image is not None:
        seen = _loaded("Siglip2ImageProcessorPil", folder)(image, return_tensors="pt")
        shape = {name: seen[name] for name in ("pixel_attention_mask", "spatial_shapes")}
        return _one(model.vision_model(seen["pixel_values"], **shape).pooler_output[0])
    tokenizer = transformers.GemmaTokenizer.from_pretrained(folder)
    text = (prompt + str(text)).lower()
    ids = tokenizer(text, truncation=True, max_length=64, padding="max_length", return_tensors="pt")["input_ids"]
    return _one(model.text_model(ids).pooler_output[0])


# --- pictures and texts together ------------------------------------------------------------------------------------


def _fitted(image: Image, factor: int, fewest: int, most: int) -> Image:
    """Return a picture whose sides are multiples of ``factor``, with an area within bounds, as qwen-vl-utils do."""
    height, width = (max(factor, round(side / factor) * factor) for side in (image.height, image.width))
    if height * width > most:
        shrink = math.sqrt(image.height * image.width / most)
        height, width = (math.floor(side / shrink / factor) * factor for side in (image.height, image.width))
    elif height * width < fewest:
        grow = math.sqrt(fewest / (image.height * image.width))
        height, width = (math.ceil(side * grow / factor) * factor for side in (image.height, image.width))
    return image.resize((width, height))


def _qwen_inputs(folder: Path, said: str, image: Image | None, **size: Any) -> dict[str, torch.Tensor]:
    """Return what a Qwen-VL takes: ids with a token for each piece of the picture, and the pieces."""
    if image is None:
        return {"input_ids": _ids(folder, said)}
    seen = _loaded("Qwen2VLImageProcessorPil", folder)(image, return_tensors="pt", **size)
    pieces = int(seen["image_grid_thw"].prod()) // 4
    return {"input_ids": _ids(folder, said.replace("<|image_pad|>", "<|image_pad|>" * pieces)), **seen}


def _turns(system: str | None, text: str, image: Image | None, end: str) -> str:
    first = "" if system is None else f"<|im_start|>system\n{system}<|im_end|>\n"
    picture = "" if image is None else "<|vision_start|><|image_pad|><|vision_end|>"
    return f"{first}<|im_start|>user\n{picture}{text}<|im_end|>\n<|im_start|>assistant\n{end}"


def gme(folder: Path, text: str, image: Image | None, query: bool, prompt: str | None = None) -> np.ndarray:
    """GME: a system turn, the picture before the text, positions that count on; the state of <|endoftext|>."""
    model = _loaded("Qwen2VLForConditionalGeneration", folder).model
    said = _turns((prompt if query else None) or "You are a helpful assistant.", text, image, "<|endoftext|>")
    if image is not None:
        image = _fitted(image, 28, 4 * 784, 16384 * 784)
    given = _qwen_inputs(folder, said, image, size={"shortest_edge": 256 * 784, "longest_edge": 1280 * 784})
    ids = given["input_ids"]
    embedded = model.language_model.embed_tokens(ids)
    if image is not None:
        embedded[ids == model.config.image_token_id] = model.visual(
            given["pixel_values"], grid_thw=given["image_grid_thw"]
        ).pooler_output
    positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
    return _one(model.language_model(inputs_embeds=embedded, position_ids=positions).last_hidden_state[0, -1])


def qwen3_vl_embedding(folder: Path, text: str, image: Image | None, query: bool, prompt: str | None = None) -> Any:
    """Qwen3-VL-Embedding: a system turn that ends with a mark, "NULL" for nothing; the state of the last token."""
    model = _loaded("Qwen3VLForConditionalGeneration", folder)
    system = ((prompt if query else None) or "Represent the user's input.").strip()
    system += "" if system[-1] in string.punctuation else "."
    said = _turns(system, text or ("" if image else "NULL"), image, "")
    if image is not None:
        image = _fitted(image, 32, 4 * 1024, 1800 * 1024)
    given = _qwen_inputs(folder, said, image, do_resize=False)
    kinds = {"mm_token_type_ids": (given["input_ids"] == model.config.image_token_id).int()} if image else {}
    return _one(model.model(**given, **kinds).last_hidden_state[0, -1])


def chat(folder: Path, text: str, image: Image | None, query: bool, prompt: str | None = None) -> np.ndarray:
    """A Qwen2.5-VL by its chat template: the prompt as system turn; the state of the last token."""
    model = _loaded("Qwen2_5_VLModel", folder)
    given = _qwen_inputs(folder, _turns(prompt if query else None, text, image, ""), image)
    kinds = {"mm_token_type_ids": (given["input_ids"] == model.config.image_token_id).int()} if image else {}
    return _one(model(**given, **kinds).last_hidden_state[0, -1])


# --- late interaction with pictures ---------------------------------------------------------------------------------


def colpali(folder: Path, text: str | None, image: Image | None, query: bool, prompt: str = "") -> np.ndarray:
    """ColPali: a query with ten augmentation tokens, or a picture with "Describe the image."; all attend to all."""
    model = _loaded("ColPaliForRetrieval", folder)
    seen = {}
    if image is not None:
        seen = _loaded("SiglipImageProcessorPil", folder)(image, return_tensors="pt")
        said = "<image>" * 4 + "<bos>Describe the image.\n"
    else:
        said = f"<bos>Question: {prompt}{text}{'<pad>' * 10}\n"
    ids = _ids(folder, said, add_special_tokens=False)
    states = model.vlm(input_ids=ids, token_type_ids=torch.zeros_like(ids), **seen).last_hidden_state
    return _one(model.embedding_proj_layer(states)[0])


def colqwen2(folder: Path, text: str | None, image: Image | None, query: bool, prompt: str = "") -> np.ndarray:
    """ColQwen2: a query with ten augmentation tokens, or a picture with "Describe the image." on its grid."""
    model = _loaded("ColQwen2ForRetrieval", folder)
    if image is not None:
        said = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Describe the image.<|im_end|><|endoftext|>"
    else:
        said = f"Query: {prompt}{text}{'<|endoftext|>' * 10}"
    given = _qwen_inputs(folder, said, image)
    kinds = {"mm_token_type_ids": (given["input_ids"] == model.vlm.config.image_token_id).int()} if image else {}
    return _one(model.embedding_proj_layer(model.vlm(**given, **kinds).last_hidden_state)[0])


def colmodernvbert(folder: Path, text: str | None, image: Image | None, query: bool, prompt: str = "") -> np.ndarray:
    """ColModernVBERT: a query with ten augmentation tokens, or a picture in tiles with "Describe the image."."""
    model = _loaded("ColModernVBertForRetrieval", folder)
    if image is None:
        given = {"input_ids": _ids(folder, f"{prompt}{text}{'<end_of_utterance>' * 10}")}
    else:
        seen = _loaded("Idefics3ImageProcessorPil", folder)([[image]], return_tensors="pt", return_row_col_info=True)
        fake, tiles = "<fake_token_around_image>", ""
        for row in range(seen["rows"][0][0]):
            tiles += "".join(f"{fake}<row_{row + 1}_col_{column + 1}><image>" for column in range(seen["cols"][0][0]))
            tiles += "\n"
        tiles += ("\n" if tiles else "") + f"{fake}<global-img><image>{fake}"
        said = f"<|begin_of_text|>User:{tiles}Describe the image.<end_of_utterance>\nAssistant:"
        kept = {name: seen[name] for name in ("pixel_values", "pixel_attention_mask")}
        given = {"input_ids": _ids(folder, said), **kept}
    return _one(model.embedding_proj_layer(model.vlm(**given).last_hidden_state)[0])
