"""Let today's setuptools run the Detectron2 that can be had as a package.

`detectron2.model_zoo` imports pkg_resources, which setuptools dropped in version 82.
"""

from __future__ import annotations

import importlib
import importlib.resources
import importlib.util
import sys
import types

__all__ = ["apply"]


def apply() -> None:
    """Where there is no pkg_resources, import `detectron2.model_zoo` with a stand-in for it.

    The stand-in is taken away again, so that no other package mistakes it for the real one. Where pkg_resources
    exists, nothing is done.
    """
    if "pkg_resources" in sys.modules or importlib.util.find_spec("pkg_resources") is not None:
        return
    stand_in = types.ModuleType("pkg_resources", "The one function of pkg_resources that Detectron2 uses.")
    stand_in.resource_filename = _resource_filename  # type: ignore[attr-defined]
    sys.modules["pkg_resources"] = stand_in
    try:
        importlib.import_module("detectron2.model_zoo")
    finally:
        sys.modules.pop("pkg_resources", None)


def _resource_filename(package: str, resource: str) -> str:
    return str(importlib.resources.files(package).joinpath(resource))
