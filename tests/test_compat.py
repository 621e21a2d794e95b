"""The fix for today's setuptools."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

import pytest

from panoptic_segformer import compat


def test_apply_makes_model_zoo_importable_and_leaves_no_stand_in() -> None:
    compat.apply()
    from detectron2 import model_zoo

    assert Path(model_zoo.get_config_file("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml")).is_file()
    present = sys.modules.get("pkg_resources")
    assert present is None or present.__spec__ is not None


def test_apply_does_nothing_where_pkg_resources_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    present = types.ModuleType("pkg_resources")
    monkeypatch.setitem(sys.modules, "pkg_resources", present)
    monkeypatch.setattr(compat.importlib, "import_module", lambda name: pytest.fail(f"imported {name}"))
    compat.apply()
    assert sys.modules["pkg_resources"] is present


def test_apply_takes_the_stand_in_away_when_the_import_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = importlib.import_module

    def broken_import(name: str, package: str | None = None) -> types.ModuleType:
        if name != "detectron2.model_zoo":
            return real_import(name, package)
        assert sys.modules["pkg_resources"].resource_filename("numpy", "version.py").endswith("version.py")
        raise ImportError(name)

    monkeypatch.delitem(sys.modules, "pkg_resources", raising=False)
    monkeypatch.setattr(compat.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(compat.importlib, "import_module", broken_import)
    with pytest.raises(ImportError):
        compat.apply()
    assert "pkg_resources" not in sys.modules
