"""Checkpoints from the web: fetched once by Detectron2's PathManager, whole or not at all.

PathManager shows the progress, keeps the file in its cache and drops what is incomplete; here its errors say what to
do, and what turns out to be broken is set aside. Only https is spoken, and an address may end in #sha256=HASH, which
the file must have.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlparse

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import get_cache_dir

from ..hashing import file_digest

__all__ = ["is_on_the_web", "local_copy", "set_aside", "verify"]

WEB = ("http", "https", "ftp")  # What PathManager would fetch.
# Nobody can change what does not leave the machine.
THIS_MACHINE = ("127.0.0.1", "::1", "localhost")
HASH = "sha256="


def local_copy(address: str, force: bool = False) -> Path:
    """Return the file behind an address that PathManager knows; web addresses are fetched if not in the cache.

    Args:
        address: a file, a web address, or another kind that is registered with PathManager.
        force: passed on to PathManager.
    Raises: ConnectionError: if a web address can't be fetched; it says where to put the file by hand. ValueError: if
        it is not https, leads out of the cache, or its file has another hash than it says.
    """
    if not is_on_the_web(address):
        return Path(PathManager.get_local_path(address, force=force))
    plain, sha256 = _checked(address)
    try:
        file = Path(PathManager.get_local_path(plain, force=force))
    except OSError as error:
        place = Path(get_cache_dir()) / urlparse(plain).path.lstrip("/")
        raise ConnectionError(
            f"{plain} can't be fetched: {error}; get the file by other means and put it at {place}, where it is "
            "found the next time"
        ) from error
    verify(file, plain, sha256)
    return file


def _checked(address: str) -> tuple[str, str | None]:
    """Return a web address without its hash, and the hash."""
    parts = urlparse(address)
    if parts.scheme != "https" and parts.hostname not in THIS_MACHINE:
        raise ValueError(
            f"{address} is no https address: what comes by {parts.scheme} may be changed on its way; give https:// or "
            "get the file by other means"
        )
    if ".." in unquote(parts.path).split("/"):  # PathManager's cache has folders as the address has.
        raise ValueError(f"{address} has '..' in it and would lead out of the cache: give the plain address")
    if parts.fragment and not re.fullmatch(HASH + "[0-9a-f]{64}", parts.fragment):
        raise ValueError(f"{address} ends in #{parts.fragment}: expected #{HASH} and 64 digits of 0-9 and a-f")
    return parts._replace(fragment="").geturl(), parts.fragment.removeprefix(HASH) or None


def verify(file: Path, address: str, sha256: str | None) -> None:
    """Check the file of an address against its published hash, if there is one.

    Raises: ValueError: if the hashes differ. A file from the web is set aside then.
    """
    if sha256 is None:
        return
    found = file_digest(file)
    if found == sha256:
        return
    size = file.stat().st_size
    note = set_aside(file) if is_on_the_web(address) else ""
    raise ValueError(
        f"{file} ({size} bytes, from {address}) has the SHA-256 {found}, published is {sha256}: it is damaged or "
        f"another file{note}"
    )


def set_aside(file: Path) -> str:
    """Rename a file of the cache, so that it is fetched anew and a sound one is not lost; say so."""
    aside = file.with_name(f"{file.name}.damaged")
    file.replace(aside)
    return f"; it is now {aside.name} in {aside.parent}, and will be fetched anew"


def is_on_the_web(address: str) -> bool:
    """Return whether PathManager would fetch an address from another machine."""
    return urlparse(address).scheme in WEB
