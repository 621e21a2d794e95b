"""The forms of the model, and a transformer as backbone, can be exported."""

from __future__ import annotations

import pytest
import torch

from panoptic_segformer import load_config
from panoptic_segformer.export.checking import check_parity, scene_image
from panoptic_segformer.export.network import OUTPUT_NAMES, ExportableNetwork
from panoptic_segformer.export.program import export_program
from tiny import tiny_overrides

RESNET18 = ["MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"]
PVT = ["MODEL.TIMM.WEIGHTS", "", "MODEL.TIMM.DROP_PATH", "0.0", "MODEL.TIMM.NAME", "pvt_v2_b0"]
NODE = "MODEL.PANOPTIC_SEGFORMER"
FORMS = {
    "panoptic_segformer_v1_r50": [*RESNET18, f"{NODE}.MASK_DECODER.NUM_JOINT_BLOCKS", "1"],
    "panoptic_segformer_r50_2x_things": RESNET18,
    "panoptic_segformer_r50_2x_stuff": RESNET18,
    "panoptic_segformer_pvtv2_b5_2x": PVT,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_form_is_exported(name, config_dir, build_segmenting, tmp_path):
    words = [*tiny_overrides(tmp_path), f"{NODE}.MERGING.SCORE_THRESHOLD", "0.0", f"{NODE}.TEST.PANOPTIC_ON", "True"]
    model = build_segmenting(load_config(config_dir / f"coco/{name}.yaml", [*words, *FORMS[name]]))
    program = export_program(ExportableNetwork(model), with_operator=False).module()

    @torch.no_grad()
    def run(image):
        return dict(zip(OUTPUT_NAMES, program(image), strict=True))

    for size in [(65, 65), (97, 131), (128, 192)]:
        parity = check_parity(model, run, scene_image(size, "RGB"))
        assert not parity.fails(1e-3), parity
        assert parity.segments
