"""Backbone weights that configs name: those of their authors, for the backbone that the config builds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm

from panoptic_segformer import load_config

COCO = Path(__file__).resolve().parents[2] / "configs/coco"
RELEASE = "https://github.com/whai362/PVT/releases/download/v2"


@pytest.mark.parametrize("path", sorted(COCO.glob("panoptic_segformer_*pvtv2*.yaml")), ids=lambda path: path.stem)
def test_pvt_starts_from_its_authors_weights(path):
    cfg = load_config(path)
    node = cfg.MODEL.TIMM
    assert cfg.MODEL.WEIGHTS == ""  # otherwise the backbone's own are not fetched
    # The paper says ImageNet-22k of the released model; the first version's table has no such mark.
    folder, _, file = node.WEIGHTS.rpartition("/")
    assert folder == RELEASE
    assert file == (f"{node.NAME}.pth" if "_v1_" in path.stem else f"{node.NAME}_22k.pth")
    # timm has the same backbone with the authors' ImageNet-1k weights under the same name.
    assert f"{node.NAME}.in1k" in timm.list_pretrained()
    size = re.search(r"_pvtv2_?(b\d)", path.stem)[1]
    assert node.NAME in (f"pvt_v2_{size}", f"pvt_v2_{size}_li")
