"""The leaderboard. Nothing is here yet: result files are made by ``python -m m2kr.evaluate``."""
