import math

import pytest

from panoptic_segformer.optional import import_optional


def test_module_that_is_there():
    assert import_optional("math", "video") is math


def test_missing_module_names_its_extra():
    with pytest.raises(ImportError, match=r"no_such_module.*\.\[video\]"):
        import_optional("no_such_module", "video")
