"""Libraries that only some verbs need: extras of the package, imported when they are used."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["import_optional"]


def import_optional(module: str, extra: str) -> ModuleType:
    """Return a module of one of the package's extras.

    Raises: ImportError: if it can't be imported (says which extra to install).
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} can't be imported ({error}): install the extra that has it, "
            f"pip install --no-build-isolation -e '.[{extra}]'"
        ) from error
