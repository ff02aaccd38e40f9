"""Building the benchmark from raw releases: ``python -m m2kr.build``."""
