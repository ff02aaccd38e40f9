"""Where checkpoints come from: a folder, the hub's local cache, or the hub; and how they are loaded and identified.

Only weights (safetensors, or pickled tensors read with ``weights_only``), configuration and tokenizer files are ever
fetched or read. Code that lies beside a model is neither downloaded nor run.
"""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from baselines.common.model_folder import WeightsReport, check_model_files
from m2kr.common.files import digest, files_below, sha256_of
from m2kr.common.hub import answered, patience
from m2kr.common.model_records import read_records
from m2kr.common.tokenizer_check import check_tokenizer, embedded_tokens
from m2kr.errors import M2KRError, first_line

if TYPE_CHECKING:
    import torch

_RECORDS = read_records(Path(__file__).parents[1] / "models.toml")

PUBLISHED = {
    **{name: record.hub_id for kind in _RECORDS.values() for name, record in kind.items() if record.hub_id},
    "dpr/question_encoder": "facebook/dpr-question_encoder-single-nq-base",
    "dpr/ctx_encoder": "facebook/dpr-ctx_encoder-single-nq-base",
}
"""Hub ids of the published checkpoints, by the names under which retrievers and readers are registered."""

_TOLD = (".json", ".txt", ".model", ".jinja", "artifact.metadata")
# How the names of files end that say how a model is read; the last is of Stanford's ColBERT.

MODEL_FILES = ("*.safetensors", "*pytorch_model*.bin", *(f"*{ending}" for ending in _TOLD))
"""Patterns of the files of a model, at any depth: ``*`` also stands for "/" here, as in huggingface_hub."""

CLIP_TEXT_HALF = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
"""What a checkpoint of CLIP has besides the vision tower, and that a model of the tower alone has no use for."""

_PICKLED = "pytorch_model*.bin"
_SUFFIXES = (".safetensors", ".bin", *_TOLD)


@dataclass(frozen=True)
class Checkpoint:
    """Where a model's files are, and what results call it.

    Attributes:
        folder: holds the files.
        called: the hub id, or the folder's own name.
    """

    folder: Path
    called: str

    @property
    def registered_name(self) -> str:
        """The name under which a published checkpoint is registered; else what it is called."""
        return {hub_id: name for name, hub_id in PUBLISHED.items()}.get(self.called, self.called)

    def identity(self) -> dict[str, Any]:
        """Return what identifies it in a result file: its name, and hashes of its weights and of its other files."""
        return {
            "checkpoint": self.called,
            "checkpoint_sha256": weights_hash(self.folder),
            "configuration": configuration_hash(self.folder),
        }


def find_checkpoint(name: str, patterns: Sequence[str] = MODEL_FILES, *, files: str) -> Checkpoint:
    """Return the checkpoint of a folder or hub id; arguments and errors as in `snapshot`."""
    folder = snapshot(name, patterns, files=files)
    return Checkpoint(folder, folder.resolve().name if Path(name).is_dir() else name)


def snapshot(
    name: str,
    patterns: Sequence[str] = MODEL_FILES,
    *,
    files: str = "config.json, tokenizer files, model.safetensors",
    into: str = "FOLDER",
) -> Path:
    """Return the folder that holds a model's files, downloading them where need be.

    A folder is returned as it is. Anything else is a hub id: the hub is asked once, with a short time limit, which
    files it has; what the local cache lacks of them is downloaded. Where the hub cannot be reached, or
    ``HF_HUB_OFFLINE`` is set, the cached copy goes for it. ``HF_ENDPOINT`` and the other variables of huggingface_hub
    are respected. Of weights that are there as safetensors and pickled, only the former are downloaded.

    Args:
        name: folder, or hub id such as "org/model".
        patterns: which files, as huggingface_hub matches them; each ends as weights, configuration or tokenizer
            files do.
        files: the files to copy by hand where the hub cannot be reached, for the message.
        into: the folder to copy them into, for the message.

    Raises:
        M2KRError: there is no such folder, and the hub cannot be reached or has no such model; or `check_model_files`
            refuses it.
        ValueError: a pattern could match other files, such as code.
    """
    if unsafe := [pattern for pattern in patterns if not pattern.endswith(_SUFFIXES)]:
        raise ValueError(f"patterns {unsafe} do not end with one of {_SUFFIXES}")
    folder = Path(name)
    if folder.is_dir():
        check_model_files(folder)
        return folder

    def failed(reason: str) -> M2KRError:
        return M2KRError(
            f"the model {name!r} could not be loaded ({reason}). Check the name, or, where the hub cannot be reached, "
            f"copy its files ({files}) into {into} and name that folder: --checkpoint FOLDER."
        )

    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise failed("it is a file" if folder.is_file() else "there is no such folder, and no hub id looks like this")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if not sys.stderr.isatty():
        disable_progress_bars()
    wanted: dict[str, Any] = {"repo_id": name, "allow_patterns": list(patterns)}
    # Unless the hub says which of its pickled weights are wanted, none has to be in the cache: safetensors go for them.
    ignored = ["*.bin"]
    try:
        ignored = _unwanted(_files_at_hub(name))
        found = Path(snapshot_download(**wanted, ignore_patterns=ignored))
    except Exception as error:  # of a network, huggingface_hub and its HTTP client raise dozens of kinds
        reason = first_line(error)
        if isinstance(error, RepositoryNotFoundError):
            reason = "the hub has no such model, or not for you"
        try:
            found = Path(snapshot_download(**wanted, ignore_patterns=ignored, local_files_only=True))
        except Exception:  # not cached, or in part
            raise failed(reason) from error
        if not _holds(found, patterns):
            raise failed(f"{reason}, and the cache holds it in part only") from error
    check_model_files(found)
    return found


def _files_at_hub(name: str) -> list[str]:
    """Return the paths of a model's files at the hub, for which snapshot_download would wait for minutes."""
    from huggingface_hub import HfApi

    found = answered(lambda: HfApi().model_info(name, timeout=patience()))
    return [file.rfilename for file in found.siblings or []]


def _unwanted(listed: Sequence[str]) -> list[str]:
    """Return patterns of the ``.bin`` files that are no weights, or whose folder has them as safetensors."""
    paths = [PurePosixPath(name) for name in listed]
    safe = {path.parent for path in paths if path.suffix == ".safetensors"}
    return [
        glob.escape(str(path))
        for path in paths
        if path.suffix == ".bin" and (path.parent in safe or not path.match(_PICKLED))
    ]


def _holds(folder: Path, patterns: Sequence[str]) -> bool:
    """Whether a cached folder has files of the patterns: weights, where they are asked for, else any."""
    if any(pattern.endswith((".safetensors", ".bin")) for pattern in patterns):
        return bool(weight_files(folder))
    names = [str(path.relative_to(folder)) for path in files_below(folder)]
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def weight_files(folder: Path) -> list[Path]:
    """Return the files with weights in a folder and below, sorted: safetensors, or else pickled, folder by folder."""
    files = files_below(folder)
    safe = [path for path in files if path.match("*.safetensors")]
    parents = {path.parent for path in safe}
    return sorted([*safe, *(path for path in files if path.match(_PICKLED) and path.parent not in parents)])


def weights_hash(*folders: Path) -> str:
    """Return the sha256 of a checkpoint's weights; of several files, 16 digits that stand for their hashes."""
    hashes = [sha256_of(file) for folder in folders for file in weight_files(folder)]
    return hashes[0] if len(hashes) == 1 else digest(hashes)


def configuration_hash(*folders: Path) -> str:
    """Return 16 digits for what else decides the vectors: configuration, prompts, pooling, tokenizer, pixels."""
    return digest(
        *(
            {
                str(path.relative_to(folder)): sha256_of(path)
                for path in files_below(folder)
                if path.name.endswith(_TOLD)
            }
            for folder in folders
        )
    )


def count_parameters(model: torch.nn.Module) -> int:
    """Return the numbers a model has learnt, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def loading(failure: str, advice: str = "Get its files again.") -> Iterator[None]:
    """Load quietly, and turn what a loader raises, which for damaged files is of all kinds, into one line.

    transformers prints tables of unused weights otherwise, and progress bars where nobody watches.

    Raises:
        M2KRError: ``failure``, the reason and ``advice``; where torchvision lacks or fails, how to get it.
    """
    with quiet_loading():
        try:
            yield
        except Exception as error:
            reason = first_line(error)
            if "torchvision" in str(error).lower():
                if find_spec("torchvision") is None:
                    reason = "transformers prepares its pictures with torchvision alone, which is not installed"
                advice = "Install the extra vision: pip install 'm2kr[vision]'. torchvision has to be of torch's build."
            raise M2KRError(f"{failure} ({reason}). {advice}") from error


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers from printing tables of unused weights, and bars where nobody watches."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(before)


def load_model(
    make: Any, folder: Path, *, device: torch.device, dtype: torch.dtype, unused: tuple[str, ...] = ()
) -> Any:
    """Return a model of transformers in evaluation mode, all of whose weights came from ``folder``, which has no more.

    Args:
        make: class of the model.
        folder: holds config.json and the weights.
        device: where the weights go.
        dtype: of the weights.
        unused: parts of names of tensors that such a checkpoint may hold besides.

    Raises:
        M2KRError: the folder lacks some weights (transformers would make them up, with a warning), has others, or
            some of another shape; or files are damaged.
    """
    if not (folder / "config.json").is_file() or not weight_files(folder):
        raise M2KRError(
            f"{folder} is no model folder: it needs config.json and model.safetensors (or pytorch_model.bin)."
        )
    with loading(f"{folder} could not be loaded as {make.__name__}"):
        report: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = make.from_pretrained(folder, dtype=dtype, local_files_only=True, **report)
        weights = WeightsReport()
        weights.add(info)
    weights.check(f"{folder}, read as {make.__name__},", unused=unused)
    return model.to(device).eval()


def load_tokenizer(make: Any, folder: Path, *, vocabulary: int) -> Any:
    """Return a tokenizer of transformers that was read from ``folder``.

    Args:
        make: class of the tokenizer.
        folder: holds its files.
        vocabulary: number of token ids that the model knows.

    Raises:
        M2KRError: the files are not there (transformers would return a tokenizer that knows no words), are damaged,
            or make ids that the model does not know.
    """
    with loading(f"the tokenizer in {folder} could not be loaded"):
        tokenizer = make.from_pretrained(folder, local_files_only=True)
        knows = knows_words(tokenizer)
    if not knows:
        raise M2KRError(
            f"{folder} has no tokenizer. It needs tokenizer.json, or vocab.txt, or vocab.json and merges.txt."
        )
    check_tokenizer(tokenizer, vocabulary, f"the tokenizer in {folder}")
    return tokenizer


def check_tokenizers(what: str, *parts: Any) -> None:
    """Refuse a model with a tokenizer that makes ids which the model beside it does not know.

    Args:
        what: names the model in the message.
        parts: objects with a tokenizer, or a processor that has one, and a model of transformers or a table of
            embeddings beside it; of modules of torch, those within them too.

    Raises:
        M2KRError: there is one.
    """
    import torch

    for part in parts:
        for holder in part.modules() if isinstance(part, torch.nn.Module) else [part]:
            tokenizer = getattr(holder, "tokenizer", None) or getattr(
                getattr(holder, "processor", None), "tokenizer", None
            )
            reader = getattr(holder, "model", None) or getattr(holder, "embedding", None)
            if tokenizer is not None and reader is not None and hasattr(tokenizer, "get_vocab"):
                check_tokenizer(tokenizer, embedded_tokens(reader), f"the tokenizer of {what}")


def knows_words(tokenizer: Any) -> bool:
    """Whether a tokenizer of transformers has more tokens than the special ones.

    Where its files are missing, transformers returns one that has not, which makes all texts alike.
    """
    return len(tokenizer) > len(set(tokenizer.all_special_tokens)) + 2  # some have a token for spaces besides
