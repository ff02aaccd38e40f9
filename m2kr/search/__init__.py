"""Exact search: the k best passages of each query, by MaxSim or dot product, in bounded memory."""

from m2kr.search.exact import search

__all__ = ["search"]
