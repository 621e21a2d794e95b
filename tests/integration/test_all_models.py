"""Every model by the same commands: train_net.py trains and evaluates it, DefaultPredictor predicts with it."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.engine import DefaultPredictor, default_argument_parser

from panoptic_segformer import load_config
from panoptic_segformer.data.categories import Categories
from panoptic_segformer.data.datasets import register_datasets
from panoptic_segformer.visualization import draw_panoptic
from tiny import forget_scenes, import_train_net

CONFIGS = {
    "PSFPanopticFCN": "synthetic/panoptic_fcn_lite0.yaml",
    "PSFMaskFormer": "synthetic/maskformer_lite0.yaml",
    "PSFDetrPanoptic": "synthetic/detr_panoptic_lite0.yaml",
    "PSFPanopticFPN": "synthetic/panoptic_fpn_lite0.yaml",
    "PSFPanopticDeepLab": "synthetic/panoptic_deeplab_lite0.yaml",
}


@pytest.fixture
def short_run(scenes_root, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(scenes_root))
    yield [
        *("MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path), "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2"),
        *("SOLVER.STEPS", "()", "INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96"),
    ]
    forget_scenes()


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_model_trains_evaluates_and_predicts(name, short_run, config_dir, tmp_path):
    config = str(config_dir / CONFIGS[name])
    parse = default_argument_parser().parse_args
    main = import_train_net().main
    trained = main(parse(["--config-file", config, *short_run]))
    assert {"PQ", "SQ", "RQ", "PQ_th", "PQ_st"} <= set(trained["panoptic_seg"])
    weights = ["MODEL.WEIGHTS", str(tmp_path / "model_final.pth")]
    evaluated = main(parse(["--eval-only", "--config-file", config, *short_run, *weights]))
    assert evaluated["panoptic_seg"]["PQ"] == pytest.approx(trained["panoptic_seg"]["PQ"], nan_ok=True)

    cfg = load_config(config, [*short_run, *weights])
    register_datasets(cfg)
    image = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    result = DefaultPredictor(cfg)(image)
    ids, segments = result["panoptic_seg"]
    assert ids.shape == (70, 90)
    assert sorted(ids.unique().tolist())[-1] == len(segments)
    overlay = draw_panoptic(image, ids, segments, Categories.of_datasets(cfg.DATASETS.TEST))
    assert overlay.ndim == 3
