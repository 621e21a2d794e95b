"""Checkpoints from the web: fetched once by Detectron2's PathManager, whole or not at all.

PathManager shows the progress, keeps the file in its cache and drops what is incomplete; here its errors say what to
do, and what turns out to be broken is set aside.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import urlparse

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import get_cache_dir

from .loading import read_checkpoint

__all__ = ["local_copy", "read_copy", "sha256_of", "verify"]


def local_copy(address: str, force: bool = False) -> Path:
    """Return the file behind an address that PathManager knows; web addresses are fetched if not in the cache.

    Args:
        address: a file, a web address, or another kind that is registered with PathManager.
        force: passed on to PathManager.
    Raises: ConnectionError: if a web address can't be fetched; it says where to put the file by hand.
    """
    if not _is_on_the_web(address):
        return Path(PathManager.get_local_path(address, force=force))
    try:
        return Path(PathManager.get_local_path(address, force=force))
    except OSError as error:
        place = Path(get_cache_dir()) / urlparse(address).path.lstrip("/")
        raise ConnectionError(
            f"{address} can't be fetched: {error}; get the file by other means and put it at {place}, where it is "
            "found the next time"
        ) from error


def read_copy(file: Path, address: str) -> dict[str, object]:
    """Return the content of an address's local copy, a checkpoint.

    Raises: as `read_checkpoint`. A file from the web that can't be read is set aside, or it would be found again.
    """
    try:
        return read_checkpoint(file)
    except ValueError as error:
        if not _is_on_the_web(address):
            raise
        raise ValueError(f"{error} (it came from {address}{_set_aside(file)})") from error


def verify(file: Path, address: str, sha256: str | None) -> None:
    """Check the file of an address against its published hash, if there is one.

    Raises: ValueError: if the hashes differ. A file from the web is set aside then.
    """
    if sha256 is None:
        return
    found = sha256_of(file)
    if found == sha256:
        return
    size = file.stat().st_size
    note = _set_aside(file) if _is_on_the_web(address) else ""
    raise ValueError(
        f"{file} ({size} bytes, from {address}) has the SHA-256 {found}, published is {sha256}: it is damaged or "
        f"another file{note}"
    )


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _set_aside(file: Path) -> str:
    """Rename a file of the cache, so that it is fetched anew and a sound one is not lost; say so."""
    aside = file.with_name(f"{file.name}.damaged")
    file.replace(aside)
    return f"; it is now {aside.name} in {aside.parent}, and will be fetched anew"


def _is_on_the_web(address: str) -> bool:
    return address.startswith(("http://", "https://"))
