"""The cards of the small models, written when they have been judged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

from baselines.minis import judge, train
from m2kr.common.files import atomic
from m2kr.common.measure import hardware
from m2kr.tasks import TASKS

_LINE = 120
_ABOUT = {
    "clip-mini": "an image tower and a text tower, one vector each, compared by cosine (CLIP)",
    "dpr-mini": "the encoders of preflmr-mini with one vector for a query and one for a passage: the mean of all, "
    "trained as such",
    "preflmr-mini": "late interaction of the vectors of a question and a picture with those of a passage (PreFLMR), a "
    "checkpoint in official form",
}
_CARD = """---
license: apache-2.0
language: en
tags: [m2kr, retrieval, synthetic]
---

# {name}

{about}

## Use

```bash
python -m m2kr.evaluate --model {name} --data m2kr-data --tasks all --images raw
```

The data are those of `python -m m2kr.synthetic` and `python -m m2kr.build`, whatever the seed. Pictures are read at
{size} x {size} pixels.

## Training

{recipe}

| step | settings | updates | seconds | Recall@5 on valid splits |
| --- | --- | ---: | ---: | ---: |
{steps}

Seconds are wall time on {hardware}, shared with other work{share}.

## Scores

On the test splits of another world (seed {other}, scale {other_scale:g}), in per cent:

{scores}

Comparisons with the other models, with intervals, and what each stage adds: docs/training.md.
"""


def write_cards(work: Path, scores: Mapping[str, Mapping[str, Any]]) -> None:
    """Write ``README.md`` beside each small model in ``WORK/minis``.

    Args:
        work: folder of `baselines.minis.train`.
        scores: of every query, by model and task, as `baselines.minis.judge.judge` returns them.
    """
    from baselines.minis.encoders import IMAGE_SIZE

    for name, about in _ABOUT.items():
        model = name.removesuffix("-mini")
        runs = {"clip": work / "clip"}
        if model != "clip":
            runs = {**runs, **{stage: work / model / stage for stage in train.STAGES}}
        done = {step: json.loads((run / "training.json").read_text(encoding="utf-8")) for step, run in runs.items()}
        parameters = list(done.values())[-1]["parameters"]
        steps = [
            f"| {step} | baselines/minis/configs/{step}.toml | {run['config']['steps']} | {run['seconds']:.0f} | "
            f"{100 * run['Recall@5']:.1f} ({', '.join(run['config']['validate'])}) |"
            for step, run in done.items()
        ]
        heads = [f"{key} {TASKS[key].metrics[0]}" for key in scores[name]]
        values = [f"{100 * float(own.mean()):.1f}" for own in scores[name].values()]
        table = [heads, ["---:"] * len(heads), values]
        text = _CARD.format(
            name=name,
            about=fill(
                f"A small retriever: {about}. It has {parameters:,} parameters, in float16, and was trained on made-up "
                "data alone. It knows nothing of the real world: it is there to show, on a laptop, what the models of "
                "this repository do, and to test all that a model goes through.",
                _LINE,
            ),
            recipe=fill(
                "`make train-mini` repeats it: `python -m baselines.minis.train`, on the train splits of the made-up "
                f"world of seed {train.SEED} at scale {train.SCALE:g}."
                + (" The image encoder is that of clip-mini, frozen." if model != "clip" else ""),
                _LINE,
            ),
            size=IMAGE_SIZE,
            steps="\n".join(steps),
            hardware=hardware("cpu"),
            share="; the steps of the two models ran side by side" if model != "clip" else "",
            other=judge.SEED,
            other_scale=judge.SCALE,
            scores="\n".join(f"| {' | '.join(row)} |" for row in table),
        )
        with atomic(work / "minis" / name / "README.md", "w") as file:
            file.write(text)


_READER_CARD = """---
license: apache-2.0
language: en
tags: [m2kr, visual-question-answering, synthetic]
---

# {name}

{about}

## Use

```bash
python -m m2kr.answer --reader {name} --data m2kr-data --run-dir results/bm25 --images raw
```

The data are those of `python -m m2kr.synthetic` and `python -m m2kr.build`, whatever the seed. Answers are in lower
case. Pictures are read at {size} x {size} pixels.

## Training

{recipe}

| settings | updates | seconds | CPU seconds | loss of the last {window} updates |
| --- | ---: | ---: | ---: | ---: |
| baselines/minis/configs/reader.toml | {steps} | {seconds:.0f} | {cpu:.0f} | {loss:.2f} |

One thread on {hardware}, shared with other work.

## Scores

On the test splits of another world (seed {other}, scale {other_scale:g}), in per cent, with 95 % intervals;
{k} passages, joint:

{scores}

What they show: docs/answering.md.
"""


def write_reader_card(work: Path, scores: str) -> None:
    """Write ``README.md`` beside reader-mini in ``WORK/minis``.

    Args:
        work: folder of `baselines.minis.reader`.
        scores: the table of `baselines.minis.reader_judge.report`.
    """
    from baselines.minis import reader, reader_judge
    from baselines.minis.encoders import IMAGE_SIZE

    done = json.loads((work / "reader" / "training.json").read_text(encoding="utf-8"))
    config = done["config"]
    text = _READER_CARD.format(
        name=reader.NAME,
        about=fill(
            f"A small reader: a LLaVA (the vision tower of clip-mini, a Llama of {config['layers']} layers) that "
            "answers a question about a picture, from passages where there are any. It has "
            f"{done['parameters']:,} parameters, in float16, and was trained on made-up data alone. It knows nothing "
            "of the real world: it is there to show, on a laptop, what becomes of an answer with what was retrieved.",
            _LINE,
        ),
        size=IMAGE_SIZE,
        recipe=fill(
            "`make train-mini` repeats it: `python -m baselines.minis.reader`, on the train splits of "
            f"{', '.join(config['tasks'])} of the made-up world of seed {train.SEED} at scale {train.SCALE:g}. The "
            "vision tower is frozen. The first two layers of the Llama begin as a copying circuit "
            "(baselines/minis/reader_model.py).",
            _LINE,
        ),
        window=config["log_every"],
        steps=config["steps"],
        seconds=done["seconds"],
        cpu=done["cpu_seconds"],
        loss=done["log"][-1]["loss"],
        hardware=hardware("cpu"),
        other=reader_judge.SEED,
        other_scale=reader_judge.SCALE,
        k=reader_judge.K,
        scores=scores,
    )
    with atomic(work / "minis" / reader.NAME / "README.md", "w") as file:
        file.write(text)
