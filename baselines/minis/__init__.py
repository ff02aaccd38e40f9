"""Small trained models that travel with the repository: three retrievers and a reader.

They were trained on one synthetic world (`m2kr.synthetic`) and know nothing of the real one: they show on a laptop what
the models do, and test everything that a model goes through. ``python -m baselines.minis.recipe`` makes them anew.
"""

from baselines.minis.models import OneVectorRetriever, clip_mini, preflmr_mini, reader_mini

__all__ = ["OneVectorRetriever", "clip_mini", "preflmr_mini", "reader_mini"]
