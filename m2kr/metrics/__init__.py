"""Recall@K as M2KR defines it, Pseudo Recall@K and the usual measures, computed by ranx."""

from m2kr.metrics.measures import KS, MEASURES, Measure, measures_table
from m2kr.metrics.pseudo_relevance import contains_answer
from m2kr.metrics.scoring import score, score_queries

__all__ = ["KS", "MEASURES", "Measure", "contains_answer", "measures_table", "score", "score_queries"]
