"""The benchmark in other tools' formats (TREC, BEIR, mteb), and mteb's evaluation of retrievers and models on it."""

from m2kr.export.mteb import mteb_task, search_model

__all__ = ["mteb_task", "search_model"]
