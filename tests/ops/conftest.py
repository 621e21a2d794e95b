"""Fixtures of the operator's tests."""

from __future__ import annotations

import pytest

from compiled import require_compiled
from panoptic_segformer.ops import Backend, extension


@pytest.fixture(params=["compiled", "reference"])
def each_backend(request, monkeypatch) -> str:
    """Run a test once with the compiled operators and once without them."""
    if request.param == "compiled":
        require_compiled()
    else:
        monkeypatch.setattr(extension, "_extension", Backend("reference", "a test asked for it", "none"))
    return request.param
