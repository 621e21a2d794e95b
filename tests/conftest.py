"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

# Small tensors gain nothing from threads, and pytest-xdist runs one process per core.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with the golden numbers and real pictures, which are not part of the project."""
    folder = Path(os.environ.get("PANSEG_SHARED", ROOT.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no golden numbers and pictures at {folder}: set PANSEG_SHARED to the folder that has them")
    return folder


@pytest.fixture(scope="session")
def config_dir() -> Path:
    return ROOT / "configs"
