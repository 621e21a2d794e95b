"""Let today's setuptools and NumPy run the Detectron2 that can be had as a package.

`detectron2.model_zoo` imports pkg_resources, which setuptools dropped in version 82, and `SemSegEvaluator`
reads its truth with `np.array(..., copy=False)`, which NumPy 2 refuses.
"""

from __future__ import annotations

import importlib
import importlib.resources
import importlib.util
import sys
import types

import numpy as np
from PIL import Image

__all__ = ["apply", "load_image_into_numpy_array"]


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


def load_image_into_numpy_array(filename: str, copy: bool = False, dtype: np.dtype | str | None = None) -> np.ndarray:
    """Return a picture as an array (H, W) or (H, W, channels), for `SemSegEvaluator(sem_seg_loading_fn=...)`.

    Args:
        filename: the picture's path.
        copy: part of Detectron2's signature; False copies only where it must, as it did before NumPy 2.
        dtype: type of the result, the picture's own if None.
    """
    with Image.open(filename) as image:
        return np.array(image, dtype=dtype) if copy else np.asarray(image, dtype=dtype)
