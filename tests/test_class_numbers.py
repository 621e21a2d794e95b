"""Numbers of classes that configs leave to the dataset."""

from __future__ import annotations

import pytest
from detectron2.config import get_cfg

from panoptic_segformer.class_numbers import with_class_numbers

KEY, OTHER = "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "MODEL.ROI_HEADS.NUM_CLASSES"


@pytest.mark.parametrize("given", [0, 7])
def test_zero_stands_for_the_datasets_number(given):
    cfg = get_cfg()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = given
    cfg.freeze()
    filled = with_class_numbers(cfg, {KEY: 7, OTHER: 80})
    assert filled.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 7
    assert given == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES


def test_another_number_is_refused():
    cfg = get_cfg()
    cfg.DATASETS.TEST = ("scenes",)
    with pytest.raises(ValueError, match=f"{OTHER} is 80, but dataset 'scenes' needs 6: set the key to 6, or to 0"):
        with_class_numbers(cfg, {OTHER: 6})
