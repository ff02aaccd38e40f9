"""A made-up world, written in the native formats of the raw releases, at any size.

Real releases are too large, and some too restricted, to test a benchmark with. This package invents entities that
have a look and facts, draws their pictures, writes articles about them, and lays all of it out as the real files are:
``python -m m2kr.synthetic --out raw``. The same seed and scale give the same bytes.
"""
