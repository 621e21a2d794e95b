"""Two kinds of addresses for Detectron2's PathManager, so that they work wherever it reads weights.

`psf://NAME`, with a name of the model zoo, is a released Panoptic SegFormer, fetched once and converted while loading;
`psf://FILE_OR_ADDRESS` is the same for a file at hand or anywhere else. Both work as MODEL.WEIGHTS in train_net.py and
in Detectron2's own DefaultPredictor alike.
`package://MODULE/FILE` is a file inside an installed Python package.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from pathlib import Path

import torch
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler, get_cache_dir

from ..writing import whole_file
from .convert import ALL_RULES, convert_released, is_released
from .download import local_copy, verify
from .loading import read_copy
from .model_zoo import MODEL_ZOO

__all__ = ["PackageFileHandler", "ReleasedCheckpointHandler"]

logger = logging.getLogger(__name__)


class ReleasedCheckpointHandler(PathHandler):
    """Hands out a converted copy, kept in the cache folder of iopath."""

    # Detectron2 parses addresses and puts them together again, which takes two of three slashes.
    PREFIXES = ("psf://", "psf:/")

    def _get_supported_prefixes(self) -> list[str]:
        return list(self.PREFIXES)

    def _get_local_path(self, path: str, force: bool = False, **kwargs: object) -> str:
        """Return the path of the converted checkpoint.

        Raises: FileNotFoundError: if there is no such file. ConnectionError: if it can't be fetched. ValueError: if
            it is unreadable, of another model or not the published one.
        """
        inner = self._inner(path)
        released = MODEL_ZOO.get(inner)
        address = released.address if released else inner
        source = local_copy(address, force=force)
        target = self._target(source)
        if target.is_file():
            return str(target)
        if released:
            verify(source, address, released.sha256)
        content = read_copy(source, address)
        state_dict = content.get("state_dict", content)
        if not isinstance(state_dict, dict) or not is_released(state_dict):
            raise ValueError(
                f"{source} is not a released Panoptic SegFormer: its state dict lacks bbox_head.stuff_query and "
                "bbox_head.transformer.level_embeds; give other checkpoints as MODEL.WEIGHTS without psf://"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as partial:
            torch.save({"model": convert_released(state_dict)}, partial)
        logger.info("converted released checkpoint %s (%d tensors)", source, len(state_dict))
        return str(target)

    def _isfile(self, path: str, **kwargs: object) -> bool:
        inner = self._inner(path)
        return inner in MODEL_ZOO or PathManager.isfile(inner)

    @staticmethod
    def _inner(path: str) -> str:
        """Return the address behind the prefix; "psf:/x" is what is left of "psf:///x"."""
        return path[len("psf://") :] if path.startswith("psf://") else path[len("psf:") :]

    @staticmethod
    def _target(source: Path) -> Path:
        """Return where the conversion of a file lies: another place when the file or the rules change."""
        if not source.is_file():
            raise FileNotFoundError(
                f"checkpoint {source} does not exist: check MODEL.WEIGHTS; released models are "
                + ", ".join(f"psf://{name}" for name in MODEL_ZOO)
            )
        stat = source.stat()
        key = f"{source.resolve()}:{stat.st_size}:{stat.st_mtime_ns}:{ALL_RULES}"
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        return Path(get_cache_dir()) / "panoptic_segformer" / f"{source.stem}-{digest}.pth"


class PackageFileHandler(PathHandler):
    """Finds files that come inside Python packages, such as pretrained backbones."""

    PREFIX = "package://"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: object) -> str:
        """Return the file's path.

        Raises: FileNotFoundError: if the package is not installed or lacks the file.
        """
        module, _, name = path[len(self.PREFIX) :].partition("/")
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(
                f"{path}: the package {module} is not installed: pip install {module.replace('_', '-')}"
            )
        file = Path(spec.origin).parent / name
        if not file.is_file():
            raise FileNotFoundError(f"{path}: package {module} has no file {name}")
        return str(file)


for _handler in (ReleasedCheckpointHandler(), PackageFileHandler()):
    PathManager.register_handler(_handler, allow_override=True)
