"""The fixes for today's setuptools and NumPy."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from PIL import Image

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


@pytest.mark.parametrize(("copy", "dtype"), [(False, None), (False, int), (True, np.uint8)])
def test_load_image_into_numpy_array_returns_the_pixels(tmp_path: Path, copy: bool, dtype: type | None) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "classes.png")
    array = compat.load_image_into_numpy_array(str(tmp_path / "classes.png"), copy=copy, dtype=dtype)
    np.testing.assert_array_equal(array, pixels)
    assert array.dtype == (dtype or np.uint8)


def test_sem_seg_evaluator_takes_the_loading_function(tmp_path: Path) -> None:
    truth = np.array([[0, 1], [1, 255]], dtype=np.uint8)
    Image.fromarray(truth).save(tmp_path / "truth.png")
    record = {"file_name": "picture.jpg", "sem_seg_file_name": str(tmp_path / "truth.png")}
    DatasetCatalog.register("compat_semantic", lambda: [record])
    MetadataCatalog.get("compat_semantic").set(stuff_classes=["a", "b"], ignore_label=255)
    try:
        evaluator = SemSegEvaluator("compat_semantic", sem_seg_loading_fn=compat.load_image_into_numpy_array)
        evaluator.reset()
        scores = torch.nn.functional.one_hot(torch.tensor([[0, 1], [0, 0]]), 2).permute(2, 0, 1).float()
        evaluator.process([record], [{"sem_seg": scores}])
        assert evaluator.evaluate()["sem_seg"]["pACC"] == pytest.approx(200 / 3)
    finally:
        DatasetCatalog.remove("compat_semantic")
        MetadataCatalog.remove("compat_semantic")
