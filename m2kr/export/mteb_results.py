"""Result files of ``m2kr.evaluate`` in the form of mteb's results, which ``TaskResult.from_disk`` reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from m2kr.common.files import digest, safe_name, write_json
from m2kr.common.locks import one_writer
from m2kr.common.progress import progress, say
from m2kr.errors import M2KRError
from m2kr.export.files import open_folder
from m2kr.export.mteb import dataset_revision, main_score, model_name, mteb_name
from m2kr.metrics import MEASURES
from m2kr.results.record import Result, read_results
from m2kr.tasks import TASKS

# mteb's names are ranx's.
_NAMES = {measure.name: measure.ranx for measure in MEASURES} | {"PRecall": "pseudo_recall"}


def task_result(results: Sequence[Result]) -> dict[str, Any]:
    """Return results of one model on splits of one task as mteb's ``TaskResult`` has them.

    ``hit_rate_at_K`` is Recall@K, ``recall_at_K`` is recall_fraction@K and ``pseudo_recall_at_K``, which mteb does not
    know, PRecall@K. Whether data are made up, images ignored or instructions given stands beside the scores. No
    version of mteb is named, since none computed them.
    """
    task = TASKS[results[0]["task"]]
    scores: dict[str, Any] = {}
    for result in results:
        values = {
            f"{_NAMES[kind]}_at_{k}": value
            for name, value in result["metrics"].items()
            for kind, k in [name.split("@")]
            if kind in _NAMES
        }
        main = main_score(task)
        if main not in values:
            raise M2KRError(f"the result of {result['model']} on {task.key} lacks {main}. Run it again.")
        flags = {name: result[name] for name in ("synthetic", "ignored_inputs", "instructions", "search", "top_k")}
        flags |= {"passage_images": result["passage_images"]} if result.get("passage_images") else {}
        scores[result["split"]] = [
            {
                **values,
                "main_score": values[main],
                "hf_subset": task.key,
                "languages": ["eng-Latn"],
                **flags,
            }
        ]
    return {
        "dataset_revision": dataset_revision(
            results[0]["dataset"], pictured=results[0].get("passage_images") == "read"
        ),
        "task_name": mteb_name(task),
        "mteb_version": None,
        "scores": scores,
        "evaluation_time": round(sum(sum(result["seconds"].values()) for result in results), 3),
        "kg_co2_emissions": None,
        "date": None,
        "evaluation_phases": None,
    }


def export_results(results: Path, out: Path, *, quiet: bool = False) -> list[Path]:
    """Write the result files under ``results`` as mteb has them, ``<out>/<model>/<revision>/<task>.json``.

    Results of a few queries (``--limit``, ``--nano``) are left out: mteb has no place that would say so.

    Raises:
        M2KRError: there are none; two are of the same model, task and split; ``out`` holds something else.
    """
    if not results.is_dir():
        raise M2KRError(f"{results} is not a folder. Name a folder of result files, as m2kr.evaluate writes them.")
    found = read_results(results)
    whole = [result for result in found if not result["limited"] and not result["nano"]]
    if not whole:
        why = "only results of a few queries (--limit, --nano)" if found else "no result files"
        raise M2KRError(f"{results} holds {why}. Make some with python -m m2kr.evaluate.")
    if len(whole) < len(found):
        say(f"{len(found) - len(whole)} results of a few queries (--limit, --nano) are left out", quiet=quiet)
    groups: dict[Path, list[Result]] = {}
    for result in whole:
        # A result with passages' pictures is of another model than one without them.
        given = [result["passage_images"]] if result.get("passage_images") in ("read", "ignored") else []
        revision = digest(result["model_settings"], bool(result["ignored_inputs"]), *given)
        folder = out / safe_name(model_name(result["model"])).replace("--", "__") / revision
        group = groups.setdefault(folder / f"{mteb_name(TASKS[result['task']])}.json", [])
        twin = next((other for other in group if other["split"] == result["split"]), None)
        if twin or (group and group[0]["dataset"] != result["dataset"]):
            says = "stands twice" if twin else "is there for two builds of the data"
            raise M2KRError(f"{results}: {result['model']} on {result['task']} {says}. Export them one by one.")
        group.append(result)
    bar = progress(len(groups), "export results", unit="files", quiet=quiet)
    with one_writer(out, quiet=quiet), bar:
        open_folder(out, "mteb-results")
        for path, group in groups.items():
            write_json(path, task_result(group))
            bar.update()
    return list(groups)
