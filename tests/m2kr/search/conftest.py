"""What the tests of search share."""

from tests.threads import one_thread

__all__ = ["one_thread"]
