"""M2KR: ten public datasets in one question-and-passage format, and the tools to compare retrievers on it.

The modules are meant to be imported by name (``from m2kr.tasks import TASKS``); importing the package itself
loads nothing else, so that it costs nothing.
"""

__version__ = "0.1.0"
