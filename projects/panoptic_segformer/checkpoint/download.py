"""Checkpoints from the web: fetched once by Detectron2's PathManager, whole or not at all.

PathManager shows the progress, keeps the file in its cache and drops what is incomplete; here its errors say what to
do, and what turns out to be broken leaves the cache.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import urlparse

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import get_cache_dir

__all__ = ["discard", "local_copy", "verify"]


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


def verify(file: Path, address: str, sha256: str | None) -> None:
    """Check the file of an address against its published hash, if there is one.

    Raises: ValueError: if the hashes differ. The file is removed then if it came from the web.
    """
    if sha256 is None:
        return
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        size = file.stat().st_size
        discard(file, address)
        raise ValueError(
            f"{file} ({size} bytes, from {address}) has the SHA-256 {found}, published is {sha256}: it is damaged or "
            "another file, and was removed if it came from the web; start again to fetch it anew"
        )


def discard(file: Path, address: str) -> None:
    """Remove the file of a web address from the cache; a person's own file stays."""
    if _is_on_the_web(address):
        file.unlink(missing_ok=True)


def _is_on_the_web(address: str) -> bool:
    return address.startswith(("http://", "https://"))
