"""A model that is exported in seconds, with weights that find segments."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch.export import ExportedProgram

from panoptic_segformer import PanopticSegFormer, load_config
from panoptic_segformer.export.network import ExportableNetwork
from panoptic_segformer.export.program import export_program
from tiny import tiny_overrides

RESNET18 = {"MODEL.RESNETS.DEPTH": "18", "MODEL.RESNETS.RES2_OUT_CHANNELS": "64"}
# They let random masks through.
THRESHOLDS = {
    "MODEL.PANOPTIC_SEGFORMER.MERGING.SCORE_THRESHOLD": "0.0",
    "MODEL.PANOPTIC_SEGFORMER.MERGING.THING_OVERLAP_THRESHOLD": "0.95",
    "MODEL.PANOPTIC_SEGFORMER.MERGING.STUFF_OVERLAP_THRESHOLD": "0.95",
}


def build_with_segments(cfg: CfgNode) -> PanopticSegFormer:
    """Return a model with random weights that finds segments."""
    torch.manual_seed(4)
    model = build_model(cfg).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("backbone"):  # heads start at zero, where all candidates are equal
                parameter += 0.2 * torch.randn_like(parameter)
            if name.endswith(("final_attention.q.weight", "final_attention.k.weight")):
                parameter *= 4.5  # masks that rise above the threshold in places
    return model


@pytest.fixture(scope="session")
def small_config(config_dir, tmp_path_factory) -> CfgNode:
    words = [word for pair in (RESNET18 | THRESHOLDS).items() for word in pair]
    folder = tmp_path_factory.mktemp("small")
    return load_config(config_dir / "coco/panoptic_segformer_r50_1x.yaml", [*tiny_overrides(folder), *words])


@pytest.fixture(scope="session")
def build_segmenting():
    """Function that gives a model with random weights that finds segments."""
    return build_with_segments


@pytest.fixture(scope="session")
def small_model(small_config) -> PanopticSegFormer:
    return build_with_segments(small_config)


@pytest.fixture(scope="session")
def small_weights(small_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save({"model": small_model.state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def small_program(small_model) -> ExportedProgram:
    return export_program(ExportableNetwork(small_model), with_operator=False)
