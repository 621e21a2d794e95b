from __future__ import annotations

import pytest
from detectron2.modeling import build_model


@pytest.fixture
def tiny_model(tiny_config):
    """The smallest model, in inference mode."""
    return build_model(tiny_config()).eval()
