"""The leaderboard: published figures with their sources, and result files, as a static site.

``python -m leaderboard --results results --out site`` builds it; see ``leaderboard.__main__`` for the other commands.
"""
