"""What this installation consists of, and what would mend it: the facts behind `panseg info`.

Most trouble with Detectron2 projects is about versions and builds, so each fact that is not as it should be
carries the line that mends it. Nothing here fails because a library is missing or broken.
"""

from __future__ import annotations

import importlib
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType

__all__ = ["Fact", "collect_facts"]

# Import name of each library and the line that installs it.
LIBRARIES = {
    "torch": "pip install 'torch>=2.11' torchvision",
    "torchvision": "pip install torchvision",
    "detectron2": "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2@02b5c4e'",
    "panopticapi": "pip install --no-deps panopticapi-lite==0.2.0",
    "timm": "pip install 'timm>=1.0.13'",
    "numpy": "pip install 'numpy>=1.26'",
    "scipy": "pip install scipy",
    "PIL": "pip install pillow",
}


@dataclass(frozen=True)
class Fact:
    """One line of the report.

    Attributes:
        name: what it is about.
        value: what was found.
        remedy: what to do about it; empty where nothing is wrong.
    """

    name: str
    value: str
    remedy: str = ""


def collect_facts() -> list[Fact]:
    """Return the versions, the devices and the operator's backend, in the order to be shown."""
    facts = [Fact("python", f"{platform.python_version()} on {platform.platform()}")]
    facts += [_library_fact(name, remedy) for name, remedy in LIBRARIES.items()]
    torch = _import("torch")
    if isinstance(torch, ModuleType):
        facts += _cuda_facts(torch)
    return [*facts, _operator_fact()]


def _import(name: str) -> ModuleType | Exception:
    """Return the module, or what stopped its import."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # A broken library may raise anything while it is imported.
        return error


def _library_fact(name: str, remedy: str) -> Fact:
    module = _import(name)
    if isinstance(module, ModuleNotFoundError) and module.name == name:
        return Fact(name, "missing", remedy)
    if isinstance(module, Exception):
        return Fact(name, f"does not import: {_first_line(module)}", remedy)
    return Fact(name, getattr(module, "__version__", None) or _distribution_version(name))


def _distribution_version(name: str) -> str:
    """Return the version of the distribution that brought the module; its name may be another one."""
    distributions = metadata.packages_distributions().get(name)
    return f"{metadata.version(distributions[0])} ({distributions[0]})" if distributions else "of unknown version"


def _cuda_facts(torch: ModuleType) -> Iterator[Fact]:
    built_for = torch.version.cuda
    yield Fact("CUDA of torch", built_for or "none: this torch runs on the CPU only")
    if built_for and not torch.cuda.is_available():
        yield Fact("GPU", "none that torch can use: models run on the CPU")
    for index in range(torch.cuda.device_count() if built_for else 0):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        yield Fact(f"GPU {index}", f"{properties.name}, sm_{properties.major}{properties.minor}, {memory:.0f} GiB")


def _operator_fact() -> Fact:
    try:
        import torch

        from .ops import backend

        chosen = backend("cuda" if torch.cuda.is_available() else "cpu")
    except Exception as error:  # Without torch, or with a broken one, there is no operator at all.
        return Fact("operator", f"not usable: {_first_line(error)}", "mend torch first, see above")
    return Fact("operator", f"{chosen.name}: {chosen.reason}", chosen.remedy or "")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
