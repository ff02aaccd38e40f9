"""Ask a retriever one question: ``python -m m2kr.ask --model bm25 --data m2kr-data --task MSMARCO --question "..."``.

The passages of a task are encoded at the first question, and kept where ``python -m m2kr.evaluate --keep-embeddings``
keeps them, so that each finds the work of the other.
"""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.common.cli import option, parse
from m2kr.common.options import DataOption, LoadOptions, PassageImagesOption, QueryImagesOption, SplitOption
from m2kr.common.progress import say
from m2kr.errors import M2KRError, run_command
from m2kr.evaluate.options import MODELS, EncodeOptions
from m2kr.retriever import REGISTRY, Retriever, get_retriever, instruction_end
from m2kr.tasks import get_task

if TYPE_CHECKING:
    from m2kr.dataset import TaskData
    from m2kr.evaluate.encode import Encoder
    from m2kr.retriever import Input, SparseRetriever

_SHOWN = 400
# Characters of a passage that are printed.

_EXAMPLES = """examples:
  python -m m2kr.ask --model bm25 --data m2kr-data --task MSMARCO --question "how tall is mount everest"
  python -m m2kr.ask --model ./my-model --data m2kr-data --task OKVQA --image dog.jpg --question "What breed is it?"
"""


@dataclass(frozen=True, kw_only=True)
class AskOptions(EncodeOptions, LoadOptions, DataOption, SplitOption, QueryImagesOption, PassageImagesOption):
    """Options of the command."""

    model: str = option(MODELS)
    task: str = option("whose passages are searched")
    question: str = option("in the words of a user", "")
    image: Path | None = option("a picture file that goes with it", None)
    instruction: str | None = option("in front of the question; default: the task's first", None)
    k: int = option("passages to print", 5, least=1)
    out: Path = option("results; embeddings are kept there", Path("results"))


def ask(
    retriever: Retriever | SparseRetriever,
    data: TaskData,
    query: Input,
    k: int,
    encoder: Encoder | None = None,
    *,
    ignore_passage_images: bool = False,
) -> list[tuple[str, float, str]]:
    """Return id, score and text of the ``k`` best passages, best first, ties by id, the larger first.

    ``query`` is what `query_of` makes of a question; ``encoder`` says how passages are encoded and where they are kept,
    which a sparse retriever does not need. Pictures of passages are read as in an evaluation.

    Raises:
        M2KRError: as encoding and searching; a retriever that encodes is given without ``encoder``; another process is
            encoding the passages.
    """
    passages = data.passages.sort("passage_id", descending=True)
    ids, texts = passages["passage_id"].to_list(), passages["passage_content"].to_list()
    found: Any = retriever
    if encoder is not None:
        from m2kr.common.work import Workplace
        from m2kr.evaluate.passages import PassagePictures, passage_images
        from m2kr.search.exact import search

        pictures = None
        if passage_images(retriever, data, ignore=ignore_passage_images) == "read":
            if data.images is not None:
                data.images.fetch(passages["img_path"])
            pictures = PassagePictures.found(data, passages)

        work = Workplace(encoder.kept.parent, f"{data.task.key}.{data.split}.ask", "passages")
        kept = encoder.has_passages(texts, pictures)
        with nullcontext() if kept else work.locked():
            stored = encoder.passages(texts, work.folder, data.task.key, pictures).store
            vectors = encoder.encode("queries", [query], f"{data.task.key} encode the question")
            scores, rows = search(vectors, stored, k, device=encoder.options.device, quiet=True)
            if not kept:
                encoder.keep(work.folder)
                work.clear()
        work.tidy()
    elif hasattr(retriever, "rank"):
        found.index(texts)
        scores, rows = found.rank([query if isinstance(query, str) else query["text"]], k)
    else:
        raise M2KRError(f"{retriever.name} encodes passages: say with an Encoder where they are kept.")
    return [(ids[row], float(score), texts[row]) for row, score in zip(rows[0], scores[0], strict=True)]


def query_of(
    retriever: Retriever | SparseRetriever, data: TaskData, question: str, image: Path | None, instruction: str | None
) -> Input:
    """Return a question as the retriever is asked it in an evaluation.

    The question may be empty where there is an image. The instruction stands in front of it; None takes the task's
    first one, and an empty one leaves it out.

    Raises:
        M2KRError: there is neither question nor image, or the retriever does not read images.
        ImageError: the picture cannot be decoded.
    """
    from m2kr.dataset import query_text
    from m2kr.images.roots import ImageRoots

    if not question.strip() and image is None:
        raise M2KRError("there is nothing to ask: pass --question, --image or both.")
    if instruction is None:
        instruction = data.task.instructions[0] if data.task.instructions else ""
    text = question
    if retriever.reads_instructions:
        text = query_text(instruction, question, instruction_end(retriever))
    if image is None:
        return text
    if "image" not in retriever.reads:
        raise M2KRError(f"{retriever.name} reads only {', '.join(sorted(retriever.reads))}. Leave --image out.")
    if not image.is_file():
        raise M2KRError(f"--image {image} is no file.")
    file = image.resolve()
    picture = ImageRoots([file.parent]).open(file.name)
    prepare = getattr(retriever, "prepare_image", None)
    return {"text": text, "image": picture if prepare is None else prepare(picture)}


def answer_lines(found: Sequence[tuple[str, float, str]], width: int) -> list[str]:
    """Return passages as lines of at most ``width`` characters (an id may be longer): rank, score, id, then the text.

    Texts are cut at a word after 400 characters. Control characters, which a terminal would obey, are left out.
    """
    lines = []
    for rank, (name, score, text) in enumerate(found, start=1):
        lines.append(f"{rank:>3}  {score:.4f}  {_plain(name)}")
        shown = textwrap.shorten(_plain(text), _SHOWN, placeholder=" ...")
        lines += textwrap.wrap(shown, max(width, 20), initial_indent="     ", subsequent_indent="     ")
    return lines


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    options = parse(
        AskOptions,
        argv,
        prog="python -m m2kr.ask",
        description="Print the passages that a retriever finds for a question.",
        epilog=f"{_EXAMPLES}\n{REGISTRY.listed()}",
    )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from m2kr.common.files import safe_name
    from m2kr.dataset import default_images, load_task
    from m2kr.evaluate.encode import Encoder
    from m2kr.formats.hub import local_folder
    from m2kr.images.roots import parse_roots

    task = get_task(options.task)
    folder = local_folder(options.data, task.key, options.split, quiet=options.quiet)
    images = (
        parse_roots(options.images) if options.images else default_images(folder, task, options.split, needed=False)
    )
    data = load_task(task, folder, options.split, images=images, trust=options.trust)
    retriever = get_retriever(options.model, **options.loading)
    query = query_of(retriever, data, options.question, options.image, options.instruction)
    encoder = None
    if isinstance(retriever, Retriever):
        encoder = Encoder(retriever, options.out / safe_name(retriever.name) / ".embeddings", options)
    elif options.store_dtype is not None:
        raise M2KRError(f"{retriever.name} makes no embeddings to store as {options.store_dtype}. Leave that out.")
    asked = query if isinstance(query, str) else query["text"]
    say(f"asked: {asked}{'' if isinstance(query, str) else ' [with the picture]'}", quiet=options.quiet)
    ignored = options.ignore_passage_images
    found = ask(retriever, data, query, options.k, encoder, ignore_passage_images=ignored)
    data.check_unchanged()
    print("\n".join(answer_lines(found, shutil.get_terminal_size().columns)))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
