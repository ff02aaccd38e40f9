"""Result files and runs, and ``python -m m2kr.results``, which prints them."""
