"""Evaluating retrievers: ``python -m m2kr.evaluate``."""
