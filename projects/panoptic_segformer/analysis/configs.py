"""The table of all configs in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode

from ..config import load_config
from .cost import PartSize, count_parameters
from .sizing import build_for_sizing

__all__ = ["ConfigSummary", "summarize_configs"]

# Files that other configs start from, and that are no complete model on their own.
_BASE_PREFIX = "Base-"
# Folder of files that say which models are compared, and configure none.
_COMPARISONS = "comparisons"


@dataclass(frozen=True)
class ConfigSummary:
    """One config in a few words.

    Attributes:
        name: path in the folder, without the suffix.
        backbone: its name.
        iterations, batch: training iterations and pictures in each, for SOLVER.REFERENCE_WORLD_SIZE processes.
        form: "decoupled" or "joint" queries of things and stuff, or the one kind of segments that there is; "-" for
            other models than Panoptic SegFormer.
        classes: number of thing and stuff classes; None where they come from a dataset that is not there.
        parameters: of the model, None likewise.
    """

    name: str
    backbone: str
    iterations: int
    batch: int
    form: str
    classes: tuple[int, int] | None
    parameters: PartSize | None


def summarize_configs(folder: str | Path) -> list[ConfigSummary]:
    """Return the summaries of all configs in a folder and its subfolders, by name.

    Raises: FileNotFoundError: if it holds none. ValueError: if one is not valid (names it).
    """
    folder = Path(folder)
    files = sorted(
        path
        for path in folder.rglob("*.yaml")
        if not path.name.startswith(_BASE_PREFIX) and path.parent.name != _COMPARISONS
    )
    if not files:
        raise FileNotFoundError(f"folder {folder} holds no config (*.yaml): give the folder configs of the checkout")
    return [_summarize(load_config(path), path.relative_to(folder).with_suffix("").as_posix()) for path in files]


def _summarize(cfg: CfgNode, name: str) -> ConfigSummary:
    classes = parameters = None
    try:
        model = build_for_sizing(cfg, "meta")
    except FileNotFoundError:
        pass  # The dataset is the user's, and not there yet.
    else:
        classes = (model.categories.num_things, model.categories.num_stuff)
        parameters = count_parameters(model)
    return ConfigSummary(
        name,
        _backbone_name(cfg),
        cfg.SOLVER.MAX_ITER,
        cfg.SOLVER.IMS_PER_BATCH,
        _form(cfg.MODEL.get("PANOPTIC_SEGFORMER")),
        classes,
        parameters,
    )


def _form(node: CfgNode | None) -> str:
    """Return whose queries there are, and of which kind of segments if not of all."""
    if node is None:
        return "-"
    return node.QUERIES if node.SEGMENTS == "all" else f"{node.SEGMENTS} alone"


def _backbone_name(cfg: CfgNode) -> str:
    builder = cfg.MODEL.BACKBONE.NAME
    names = {"build_resnet_backbone": f"ResNet-{cfg.MODEL.RESNETS.DEPTH}", "build_timm_backbone": cfg.MODEL.TIMM.NAME}
    return names.get(builder, builder)
