"""The process that Ray starts on a node. It is sent by value, so that it can say of a node that m2kr is not there."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any


class Host:
    """Holds an object of ours, and calls its methods; errors for a person come back as their one line."""

    def begin(self, version: str, folder: str, target: str, given: dict[str, Any]) -> tuple[bool, Any, str]:
        """Make the object.

        Args:
            version: that m2kr has to have here.
            folder: the working folder of the driver, which relative paths are meant from.
            target: the object's class, "module:name"; it has a method ``facts``.
            given: its keyword arguments, plain values that need no package of ours.

        Returns:
            Whether it was made; its facts, or why not; and this node: its address, which Python runs there, and where.
        """
        with suppress(OSError):
            os.chdir(folder)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        place = f"{_node()} ({sys.executable} in {Path.cwd()})"
        try:
            import m2kr
            from m2kr.common.ray_actor import made
        except ImportError as error:
            return False, f"{error}: install m2kr there.", place
        if m2kr.__version__ != version:
            told = f"m2kr there ({m2kr.__file__}) is {m2kr.__version__}, and here it is {version}: install the same."
            return False, told, place
        well, told, _ = self._told(lambda: self._make(made, target, given))
        return well, told, place

    def _make(self, make: Any, target: str, given: dict[str, Any]) -> Any:
        self._object = make(target, given)
        return self._object.facts()

    def call(self, method: str, *given: Any, **named: Any) -> tuple[bool, Any, str]:
        """Return whether a method of the object could do its work; what it returned, or why not; and this node."""
        return self._told(lambda: getattr(self._object, method)(*given, **named))

    def _told(self, work: Any) -> tuple[bool, Any, str]:
        from m2kr.errors import M2KRError

        try:
            return True, work(), _node()
        except M2KRError as error:
            return False, str(error), _node()
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            told = f"{error.filename}: {error.strerror}. It has to be there, under the same path as here."
            return False, told, _node()


def _node() -> str:
    import ray

    return str(ray.util.get_node_ip_address())


def made(target: str, given: dict[str, Any]) -> Any:
    """Return an object of the class "module:name", made with these keyword arguments."""
    from importlib import import_module

    module, _, name = target.partition(":")
    return getattr(import_module(module), name)(**given)
