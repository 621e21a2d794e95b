"""Read the pickles of Detectron2's model zoo: numpy arrays and plain values, and nothing that could run code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

__all__ = ["read_pickle"]

# All that pickles of numpy arrays need.
NUMPY_GLOBALS = {
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *(("numpy", name) for name in ("ndarray", "dtype")),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
}


def read_pickle(path: Path) -> dict[str, Any]:
    """Return the content of a pickled dict of numpy arrays and plain values; Python 2 may have written it.

    Raises: FileNotFoundError: if it is missing. ValueError: if it is damaged, or holds anything else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist: check MODEL.WEIGHTS")
    try:
        with path.open("rb") as file:
            content = _NumpyUnpickler(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, ValueError, IndexError, KeyError) as error:
        raise ValueError(f"checkpoint {path} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"checkpoint {path} holds a {type(content).__name__}, expected a dict of tensors")
    return content


class _NumpyUnpickler(pickle.Unpickler):
    """Reads pickles of numpy arrays and plain values; anything else could run code and is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NUMPY_GLOBALS:
            raise pickle.UnpicklingError(f"it holds {module}.{name} and not numpy arrays alone")
        return super().find_class(module, name)
