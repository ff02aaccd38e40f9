"""Where pictures are read from, and ``python -m m2kr.images``, which packs them into Parquet shards."""
