"""Answering questions with retrieved passages: ``python -m m2kr.answer``."""
