"""The task records agree with each other and with what they name."""

import pytest

from m2kr.errors import M2KRError
from m2kr.sources.options import source_of
from m2kr.tasks import RELEASES, TASKS, get_task, parse_tasks


def test_there_are_ten_tasks_with_the_published_names():
    assert " ".join(TASKS) == "WIT IGLUE KVQA CC MSMARCO OVEN LLaVA OKVQA Infoseek EVQA"


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_a_record_is_complete(task):
    assert task.kind in ("I2T", "Q2T", "IQ2T")
    assert all(folder in RELEASES for folder in task.releases)
    assert task.citation.startswith("@")
    assert set(task.splits) <= {"train", "valid", "test"}
    assert all(instruction.endswith(":") and "\n" not in instruction for instruction in task.instructions)
    assert bool(task.metrics) == ("test" in task.splits)
    assert bool(task.image_root) == task.reads_images


def test_headline_metrics_are_those_of_the_published_table():
    assert {key: task.metrics for key, task in TASKS.items() if task.metrics} == {
        "WIT": ("Recall@10",),
        "IGLUE": ("Recall@1",),
        "KVQA": ("Recall@5",),
        "MSMARCO": ("Recall@5",),
        "OVEN": ("Recall@5",),
        "LLaVA": ("Recall@1",),
        "OKVQA": ("Recall@5", "PRecall@5"),
        "Infoseek": ("Recall@5", "PRecall@5"),
        "EVQA": ("Recall@5", "PRecall@5"),
    }


def test_every_converter_belongs_to_a_task_and_speaks_the_interface():
    for key in TASKS:
        assert callable(source_of(key).build)
        source_of(key).Options()


def test_names_are_forgiving_about_capitals_and_suggest_otherwise():
    assert get_task("okvqa").key == "OKVQA"
    with pytest.raises(M2KRError, match=r"no task 'OKVQ'\. Did you mean OKVQA\?"):
        get_task("OKVQ")


def test_a_list_of_tasks_keeps_its_order_and_drops_repeats():
    assert [task.key for task in parse_tasks("okvqa, WIT,OKVQA")] == ["OKVQA", "WIT"]
    assert [task.key for task in parse_tasks("all", ["LLaVA"])] == ["LLaVA"]
    with pytest.raises(M2KRError, match="empty"):
        parse_tasks(" , ")
