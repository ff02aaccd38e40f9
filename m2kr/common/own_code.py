"""Models in a file of one's own, named as ``FILE.py:NAME`` where a registered name could stand."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from m2kr.common.files import digest, files_below, sha256_of
from m2kr.errors import M2KRError, did_you_mean

_NAMED = re.compile(r"(?P<path>.+\.py)(:(?P<attribute>\w*))?")


@dataclass(frozen=True)
class OwnCode:
    """A class or function in a Python file; it loads as an entry point does, and is run because the user names it.

    Attributes:
        value: as the user wrote it.
        path: the file.
        attribute: name of the class or function in it.
    """

    value: str
    path: Path
    attribute: str

    def settings(self, checkpoint: str | None) -> dict[str, str]:
        """Return what the settings of a loaded model say of its files, so that a change makes another model of it.

        That is the hash of its code, of this file and of what it has imported from the same folder, and of all files
        of its checkpoint, where that is a folder.
        """
        own = self.path.resolve()
        named = [Path(getattr(module, "__file__", None) or "") for module in [*sys.modules.values()]]
        # Folders are hundreds, files thousands. torch makes some names up, which are relative.
        folders = {folder for folder in {file.parent for file in named} if folder.is_absolute()}
        beside = {folder for folder in folders if folder.resolve() == own.parent}
        imported = {own.parent / file.name for file in named if file.parent in beside}
        others = sorted(file for file in imported - {own} if file.is_file())
        code = {file.name: sha256_of(file) for file in (self.path, *others)}
        told = {"code_sha256": code[self.path.name] if len(code) == 1 else digest(code)}
        if checkpoint is not None and (folder := Path(checkpoint)).is_dir():
            held = {str(file.relative_to(folder)): sha256_of(file) for file in files_below(folder)}
            told["checkpoint_sha256"] = digest(held)
        return told

    def load(self) -> Any:
        """Return the class or function.

        The file is imported under its own name, and its folder is searched for modules after all others: so processes
        that decode pictures can import it too, and it can import what lies beside it.

        Raises:
            M2KRError: there is no such file or nothing of that name in it, or the file cannot be imported.
            ImportError: the file imports what is not installed.
        """
        if not self.path.is_file():
            raise M2KRError(f"{self.value}: there is no file {self.path}.")
        path, stem = self.path.resolve(), self.path.stem
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        spec = find_spec(stem) if stem.isidentifier() else None
        if spec is None or spec.origin is None or Path(spec.origin).resolve() != path:
            why = f"{stem!r} is the name of {spec.origin or 'a module of Python'}" if spec else "of its name"
            raise M2KRError(f"{self.value}: the file cannot be imported, because {why}. Call it my_retriever.py, say.")
        module = import_module(stem)
        if not hasattr(module, self.attribute):
            there = [name for name, item in vars(module).items() if getattr(item, "__module__", None) == stem]
            has = f"It has {', '.join(there)}." if there else "It has neither class nor function."
            raise M2KRError(f"{self.path} has no {self.attribute!r}.{did_you_mean(self.attribute, there)} {has}")
        return getattr(module, self.attribute)


def own_code(name: str) -> OwnCode | None:
    """Return what ``FILE.py:NAME`` names; None where a name has not that form.

    Raises:
        M2KRError: the class or function is left out.
    """
    named = _NAMED.fullmatch(name)
    if named is None:
        return None
    if not named["attribute"]:
        raise M2KRError(f"{name} is a file. Name the class in it too: {named['path']}:MyRetriever")
    return OwnCode(name, Path(named["path"]), named["attribute"])
