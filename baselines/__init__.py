"""Retrievers to compare with, each behind the protocol of `m2kr.retriever`."""
