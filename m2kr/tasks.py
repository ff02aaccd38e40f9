"""The ten tasks of M2KR, one record each. Everything that lists tasks is generated from `TASKS`.

Facts are those of the published dataset card and of the releases' own pages. An instruction template is data: the
retriever reads it in front of the question, so a converter has to use the published strings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from m2kr.errors import M2KRError, did_you_mean

Kind = Literal["I2T", "Q2T", "IQ2T"]
"""What a query holds: an image, a question, or an image and a question. The target is always a text passage."""

# Published with the benchmark's training configurations: eight entries, seven distinct, drawn uniformly, so that the
# string which stands twice is drawn twice as often.
_IMAGE_AND_QUESTION = (
    "Using the provided image, obtain documents that address the subsequent question:",
    "Retrieve documents that provide an answer to the question alongside the image:",
    "Extract documents linked to the question provided in conjunction with the image:",
    "Utilizing the given image, obtain documents that respond to the following question:",
    "Utilizing the given image, obtain documents that respond to the following question:",
    "Using the given image, access documents that provide insights into the following question:",
    "Obtain documents that correspond to the inquiry alongside the provided image:",
    "With the provided image, gather documents that offer a solution to the question:",
)
_IMAGE = (
    "Identify the document that is connected to this image.:",
    "Provide information about the document linked to this image.:",
    "Please describe the document that corresponds to this image.:",
    "What is the document that this image is related to?:",
    "Could you elucidate the document associated with this image?:",
    "Describe the document that accompanies this image.:",
    "Please give information on the document that goes with this image.:",
    "What document is represented by this image?:",
    "Identify the document that this image pertains to.:",
)
_LLAVA = (
    "Provide a brief description of the image along with the following question:",
    "Provide a concise explanation of the image along with the following question:",
)
# The published wording for MS MARCO was found in no source; this one is ours.
_QUESTION = ("Retrieve the document that answers this question:",)


@dataclass(frozen=True)
class Release:
    """A raw release as its makers publish it: what to put in which folder, and under which terms.

    Attributes:
        folder: name of its folder under the raw root, and of ``--source FOLDER=PATH``.
        title: name people know it by.
        files: names that stand in that folder, as downloaded. A text file may also be there as ``<name>.gz``.
        url: where to get it.
        licence: SPDX identifier, or "other" with the terms in ``terms``.
        terms: one sentence on what the licence field cannot say.
        optional: further names that some option or task reads, where they are.
    """

    folder: str
    title: str
    files: tuple[str, ...]
    url: str
    licence: str
    terms: str = ""
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """One task of the benchmark.

    Attributes:
        key: spelling used in config names (``<key>_data``, ``<key>_passages``).
        title: name of the dataset it comes from.
        kind: what a query holds.
        published: rows of the published benchmark, split -> (queries, passages). Its keys are the splits.
        metrics: headline metrics, as `m2kr.metrics.score` names them, first the one that ranks.
        instructions: templates; one is chosen for each query by a seeded hash of its id. Empty: each record brings
            its own.
        releases: folders of the raw releases it is built from.
        image_root: folder under the image root that ``img_path`` is relative to, where the releases keep it.
        description: one sentence.
        citation: BibTeX.
    """

    key: str
    title: str
    kind: Kind
    published: dict[str, tuple[int, int]]
    metrics: tuple[str, ...]
    instructions: tuple[str, ...]
    releases: tuple[str, ...]
    image_root: str
    description: str
    citation: str

    @property
    def splits(self) -> tuple[str, ...]:
        """Query splits; the passages of split ``s`` are the split ``s_passages`` of the passage config."""
        return tuple(self.published)

    @property
    def data_config(self) -> str:
        """Name of the config that holds the queries."""
        return f"{self.key}_data"

    @property
    def passages_config(self) -> str:
        """Name of the config that holds the passages."""
        return f"{self.key}_passages"

    @property
    def reads_images(self) -> bool:
        """Whether a query has an image."""
        return self.kind != "Q2T"

    @property
    def licences(self) -> tuple[str, ...]:
        """Licences of its releases, each once, in order."""
        return tuple(dict.fromkeys(RELEASES[folder].licence for folder in self.releases))


_RELEASES = (
    Release(
        "wit",
        "Wikipedia-based Image Text (WIT)",
        (
            *(f"wit_v1.train.all-{i:05d}-of-00010.tsv.gz" for i in range(10)),
            *(f"wit_v1.val.all-{i:05d}-of-00005.tsv.gz" for i in range(5)),
        ),
        "https://github.com/google-research-datasets/wit",
        "CC-BY-SA-3.0",
        "Images keep the licences of Wikimedia Commons.",
        tuple(f"wit_v1.test.all-{i:05d}-of-00005.tsv.gz" for i in range(5)),
    ),
    Release(
        "iglue_wit",
        "IGLUE image retrieval on WIT, English test set",
        ("test_en.jsonl",),
        "https://github.com/e-bug/iglue",
        "CC-BY-SA-3.0",
        "Captions and addresses of WIT rows.",
    ),
    Release(
        "kvqa",
        "Knowledge-aware Visual Question Answering (KVQA)",
        ("dataset.json",),
        "http://malllabiisc.github.io/resources/kvqa/",
        "other",
        "Images keep the licences of Wikimedia Commons; see the project page.",
    ),
    Release(
        "llava_cc3m",
        "LLaVA-CC3M-Pretrain-595K",
        ("chat.json",),
        "https://huggingface.co/datasets/liuhaotian/LLaVA-CC3M-Pretrain-595K",
        "other",
        "Follows the terms of CC-3M.",
    ),
    Release(
        "msmarco",
        "MS MARCO passage ranking",
        ("collection.tsv", "queries.train.tsv", "qrels.train.tsv", "queries.dev.small.tsv", "qrels.dev.small.tsv"),
        "https://microsoft.github.io/msmarco/Datasets",
        "other",
        "For non-commercial research.",
        ("queries.dev.tsv", "qrels.dev.tsv", "qidpidtriples.train.full.2.tsv"),
    ),
    Release(
        "oven",
        "Open-domain Visual Entity recognitioN (OVEN)",
        ("oven_entity_train.jsonl", "oven_entity_val.jsonl", "ovenid2impath.csv"),
        "https://github.com/open-vision-language/oven",
        "other",
        "See the project page; images keep the licences of their source datasets.",
    ),
    Release(
        "llava_instruct",
        "LLaVA-Instruct-150K",
        ("conversation_58k.json", "detail_23k.json", "complex_reasoning_77k.json"),
        "https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K",
        "CC-BY-4.0",
        "Made with a commercial model, whose terms of use apply too; images are COCO 2014's.",
    ),
    Release(
        "okvqa",
        "OK-VQA 1.0",
        (
            "OpenEnded_mscoco_train2014_questions.json",
            "mscoco_train2014_annotations.json",
            "OpenEnded_mscoco_val2014_questions.json",
            "mscoco_val2014_annotations.json",
        ),
        "https://okvqa.allenai.org/download.html",
        "CC-BY-4.0",
        "Images are COCO 2014's and keep their Flickr owners' licences.",
    ),
    Release(
        "infoseek",
        "InfoSeek",
        ("infoseek_train.jsonl", "infoseek_train_withkb.jsonl", "infoseek_val.jsonl", "infoseek_val_withkb.jsonl"),
        "https://github.com/open-vision-language/infoseek",
        "other",
        "See the project page; images are OVEN's.",
        ("infoseek_val_qtype.jsonl",),
    ),
    Release(
        "evqa",
        "Encyclopedic-VQA",
        (
            *("train.csv", "val.csv", "test.csv", "encyclopedic_kb_wiki.zip"),
            # Not of the release: the annotations of iNaturalist 2021, which say where its pictures are.
            *("train.json.tar.gz", "val.json.tar.gz"),
        ),
        "https://github.com/google-research/google-research/tree/master/encyclopedic_vqa (train.json.tar.gz, "
        "val.json.tar.gz: https://github.com/visipedia/inat_comp/tree/master/2021)",
        "other",
        "See the project pages; images come from iNaturalist 2021 (non-commercial use) and Google Landmarks v2.",
        (
            *("encyclopedic_kb_wiki.json", "train.json", "val.json"),  # the same, unpacked
            *("train_id2name.json", "val_id2name.json"),  # made of the annotations: {id: file name}
        ),
    ),
    Release(
        "wikipedia",
        "Wikipedia passages: DPR's 100-word blocks, and Wiki6M summaries",
        ("psgs_w100.tsv", "Wiki6M_ver_1_0.jsonl.gz"),
        "https://github.com/facebookresearch/DPR (psgs_w100), https://github.com/open-vision-language/oven (Wiki6M)",
        "CC-BY-SA-3.0",
        "Text of Wikipedia.",
    ),
)
RELEASES: dict[str, Release] = {release.folder: release for release in _RELEASES}
"""Every raw release, by folder name."""


_TASKS = (
    Task(
        key="WIT",
        title="WIT",
        kind="I2T",
        published={"train": (2_810_679, 4_120_010), "valid": (19_994, 39_478), "test": (5_120, 39_478)},
        metrics=("Recall@10",),
        instructions=_IMAGE,
        releases=("wit",),
        image_root="wit/images",
        description="An image of Wikipedia; find the text of the section it stands in.",
        citation="@inproceedings{srinivasan2021wit, title={WIT: Wikipedia-based Image Text Dataset for Multimodal "
        "Multilingual Machine Learning}, author={Srinivasan, Krishna and Raman, Karthik and Chen, Jiecao and "
        "Bendersky, Michael and Najork, Marc}, booktitle={SIGIR}, year={2021}}",
    ),
    Task(
        key="IGLUE",
        title="IGLUE (WIT)",
        kind="I2T",
        published={"test": (685, 1_000)},
        metrics=("Recall@1",),
        instructions=_IMAGE,
        releases=("iglue_wit", "wit"),
        image_root="wit/images",
        description="The English image-to-text retrieval test of IGLUE, over 1,000 WIT rows.",
        citation="@inproceedings{bugliarello2022iglue, title={IGLUE: A Benchmark for Transfer Learning across "
        "Modalities, Tasks, and Languages}, author={Bugliarello, Emanuele and Liu, Fangyu and Pfeiffer, Jonas and "
        "Reddy, Siva and Elliott, Desmond and Ponti, Edoardo Maria and Vuli{\\'c}, Ivan}, booktitle={ICML}, "
        "year={2022}}",
    ),
    Task(
        key="KVQA",
        title="KVQA",
        kind="I2T",
        published={"train": (64_396, 16_215), "valid": (13_365, 4_648), "test": (5_120, 4_648)},
        metrics=("Recall@5",),
        instructions=_IMAGE_AND_QUESTION,
        releases=("kvqa",),
        image_root="kvqa/KVQAimgs",
        description="A photograph of named people; find the passage about them.",
        citation="@inproceedings{shah2019kvqa, title={KVQA: Knowledge-aware Visual Question Answering}, "
        "author={Shah, Sanket and Mishra, Anand and Yadati, Naganand and Talukdar, Partha Pratim}, "
        "booktitle={AAAI}, year={2019}}",
    ),
    Task(
        key="CC",
        title="CC3M",
        kind="I2T",
        published={"train": (595_375, 595_375)},
        metrics=(),
        instructions=(),
        releases=("llava_cc3m",),
        image_root="llava_cc3m/images",
        description="An image from the web; find its caption. Training only.",
        citation="@inproceedings{sharma2018conceptual, title={Conceptual Captions: A Cleaned, Hypernymed, Image "
        "Alt-text Dataset For Automatic Image Captioning}, author={Sharma, Piyush and Ding, Nan and Goodman, "
        "Sebastian and Soricut, Radu}, booktitle={ACL}, year={2018}}",
    ),
    Task(
        key="MSMARCO",
        title="MS MARCO",
        kind="Q2T",
        published={"train": (400_782, 8_841_823), "valid": (6_980, 400_000), "test": (5_120, 400_000)},
        metrics=("Recall@5",),
        instructions=_QUESTION,
        releases=("msmarco",),
        image_root="",
        description="A question people typed into a search engine; find a web passage that answers it.",
        citation="@article{bajaj2016msmarco, title={MS MARCO: A Human Generated MAchine Reading COmprehension "
        "Dataset}, author={Bajaj, Payal and Campos, Daniel and Craswell, Nick and Deng, Li and Gao, Jianfeng and "
        "Liu, Xiaodong and Majumder, Rangan and McNamara, Andrew and Mitra, Bhaskar and Nguyen, Tri and others}, "
        "journal={arXiv:1611.09268}, year={2016}}",
    ),
    Task(
        key="OVEN",
        title="OVEN",
        kind="IQ2T",
        published={"train": (339_137, 7_943), "valid": (119_136, 3_192), "test": (5_120, 3_192)},
        metrics=("Recall@5",),
        instructions=_IMAGE_AND_QUESTION,
        releases=("oven", "wikipedia"),
        image_root="oven/images",
        description="A picture and a question such as which bird this is; find the Wikipedia summary of the entity.",
        citation="@inproceedings{hu2023oven, title={Open-domain Visual Entity Recognition: Towards Recognizing "
        "Millions of Wikipedia Entities}, author={Hu, Hexiang and Luan, Yi and Chen, Yang and Khandelwal, Urvashi "
        "and Joshi, Mandar and Lee, Kenton and Toutanova, Kristina and Chang, Ming-Wei}, booktitle={ICCV}, "
        "year={2023}}",
    ),
    Task(
        key="LLaVA",
        title="LLaVA-Instruct",
        kind="IQ2T",
        published={"train": (350_747, 350_747), "test": (5_120, 6_006)},
        metrics=("Recall@1",),
        instructions=_LLAVA,
        releases=("llava_instruct",),
        image_root="coco",
        description="A picture and a question about it; find the answer written for that pair.",
        citation="@inproceedings{liu2023llava, title={Visual Instruction Tuning}, author={Liu, Haotian and Li, "
        "Chunyuan and Wu, Qingyang and Lee, Yong Jae}, booktitle={NeurIPS}, year={2023}}",
    ),
    Task(
        key="OKVQA",
        title="OK-VQA",
        kind="IQ2T",
        published={"train": (9_009, 114_809), "valid": (5_046, 114_809), "test": (5_046, 114_809)},
        metrics=("Recall@5", "PRecall@5"),
        instructions=_IMAGE_AND_QUESTION,
        releases=("okvqa", "wikipedia"),
        image_root="coco",
        description="A picture and a question that needs outside knowledge; find Wikipedia passages that answer it.",
        citation="@inproceedings{marino2019okvqa, title={OK-VQA: A Visual Question Answering Benchmark Requiring "
        "External Knowledge}, author={Marino, Kenneth and Rastegari, Mohammad and Farhadi, Ali and Mottaghi, "
        "Roozbeh}, booktitle={CVPR}, year={2019}}",
    ),
    Task(
        key="Infoseek",
        title="InfoSeek",
        kind="IQ2T",
        published={"train": (676_441, 98_276), "test": (4_708, 98_276)},
        metrics=("Recall@5", "PRecall@5"),
        instructions=_IMAGE_AND_QUESTION,
        releases=("infoseek", "oven", "wikipedia"),
        image_root="oven/images",
        description="A picture of an entity and a question about a fact of it; find the Wikipedia passage.",
        citation="@inproceedings{chen2023infoseek, title={Can Pre-trained Vision and Language Models Answer Visual "
        "Information-Seeking Questions?}, author={Chen, Yang and Hu, Hexiang and Luan, Yi and Sun, Haitian and "
        "Changpinyo, Soravit and Ritter, Alan and Chang, Ming-Wei}, booktitle={EMNLP}, year={2023}}",
    ),
    Task(
        key="EVQA",
        title="Encyclopedic-VQA",
        kind="IQ2T",
        published={"train": (167_369, 50_205), "valid": (9_852, 50_753), "test": (3_750, 51_472)},
        metrics=("Recall@5", "PRecall@5"),
        instructions=_IMAGE_AND_QUESTION,
        releases=("evqa",),
        image_root="evqa/images",
        description="A picture of a species or landmark and a detailed question; find the encyclopedia section.",
        citation="@inproceedings{mensink2023encyclopedic, title={Encyclopedic VQA: Visual Questions about Detailed "
        "Properties of Fine-grained Categories}, author={Mensink, Thomas and Uijlings, Jasper and Castrejon, Lluis "
        "and Goel, Arushi and Cadar, Felipe and Zhou, Howard and Sha, Fei and Araujo, Andr{\\'e} and Ferrari, "
        "Vittorio}, booktitle={ICCV}, year={2023}}",
    ),
)
TASKS: dict[str, Task] = {task.key: task for task in _TASKS}
"""Every task, by key, in the order of the published benchmark's table."""

BENCHMARK_CITATION = (
    "@inproceedings{lin2024preflmr, title={PreFLMR: Scaling Up Fine-Grained Late-Interaction Multi-modal "
    "Retrievers}, author={Lin, Weizhe and Mei, Jingbiao and Chen, Jinghong and Byrne, Bill}, booktitle={ACL}, "
    "year={2024}}"
)
"""The article that introduced the benchmark."""


def get_task(name: str) -> Task:
    """Return the task called ``name``, whatever its capitals.

    Raises:
        M2KRError: there is no such task.
    """
    for key, task in TASKS.items():
        if key.casefold() == name.casefold():
            return task
    known = list(TASKS)
    raise M2KRError(f"there is no task {name!r}.{did_you_mean(name, known)} The tasks are {', '.join(known)}.")


def parse_tasks(names: str, among: list[str] | None = None) -> list[Task]:
    """Return the tasks of a comma-separated list, or all ``among`` for "all"; in the order given, each once.

    Raises:
        M2KRError: a name is no task, or the list is empty.
    """
    if names.strip().casefold() == "all":
        return [TASKS[key] for key in (among if among is not None else list(TASKS))]
    tasks = {get_task(name.strip()).key: get_task(name.strip()) for name in names.split(",") if name.strip()}
    if not tasks:
        raise M2KRError("the list of tasks is empty. Name some, separated by commas, or write all.")
    return list(tasks.values())
