"""What the tests of sizes share."""

from __future__ import annotations

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog


@pytest.fixture(autouse=True)
def _forget_datasets():
    """Unregister what a test registers: the next one may have it in another folder."""
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
