"""Export a model to a file, and keep the file only if it computes what the model does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import Backbone

from ..inference.loading import configured, load_predictor, panoptic_only
from ..modeling.backbone import TimmBackbone
from ..optional import import_optional
from ..writing import whole_file
from .checking import LEAST_AGREEMENT, Parity, check_parity, parity_table, scene_image
from .description import describe
from .files import EXTRA, FORMATS, Format
from .network import ExportableNetwork
from .program import GREATEST_SIDE, LEAST_SIDE, export_program

__all__ = ["ExportOptions", "check_sizes", "export_model"]

ARCHITECTURE = "PanopticSegFormer"
# Where the config does not resize.
SHORT_SIDE = 480


@dataclass(frozen=True)
class ExportOptions:
    """How a model is exported.

    Attributes:
        format: one of FORMATS.
        sizes: (height, width) of the pictures that the file is checked on; empty for three of the config's scale.
        tolerance: largest error that is accepted, as a share of the output's largest value, or of 1 if that is less.
        with_operator: keep the compiled operator in a .pt2; it needs this package then where it is loaded.
    """

    format: str
    sizes: Sequence[tuple[int, int]] = ()
    tolerance: float = 1e-3
    with_operator: bool = False


def export_model(cfg: CfgNode, weights: str, output: Path, options: ExportOptions) -> list[Parity]:
    """Write a model to a file, compare the file with the model, and return how far they are apart, by size.

    Args:
        cfg: of a Panoptic SegFormer.
        weights: file or address of a checkpoint.
        output: the file; its folder is made if it is missing.
        options: see there.

    Raises: FileNotFoundError: if there are no weights. ImportError: if a library of the format can't be
        imported. ValueError: if an argument does not fit, the model is of another architecture, or the file is
        farther from the model than the tolerance; nothing is written then.
    """
    form = _form(options, output)
    # One file is one view of a picture; the model that it is compared with has to see the same.
    overrides = ["MODEL.WEIGHTS", weights, "MODEL.DEVICE", "cpu", "TEST.AUG.ENABLED", "False"]
    cfg = panoptic_only(configured(cfg, overrides))
    if cfg.MODEL.META_ARCHITECTURE != ARCHITECTURE:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}, which can't be exported: {ARCHITECTURE} can, "
            "in all its forms; give one of its configs"
        )
    cfg.MODEL.PANOPTIC_SEGFORMER.COMPILE = False  # what torch.compile has traced can't be traced again
    sizes = options.sizes or check_sizes(cfg)
    for module in form.modules:
        import_optional(module, EXTRA)
    model = load_predictor(cfg).model
    _check_backbone(model.backbone)
    with _explained("torch.export can't trace the network"):
        program = export_program(ExportableNetwork(model), with_operator=options.with_operator)
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(output) as partial:
        with _explained(f"the traced network can't be written and run as {options.format}"):
            form.write(program, describe(cfg, model), partial)
            run = form.open(partial)
            checks = [check_parity(model, run, scene_image(size, cfg.INPUT.FORMAT)) for size in sizes]
        if any(check.fails(options.tolerance) for check in checks):
            raise ValueError(
                f"the file differs from its model by more than {options.tolerance:g} of an output's largest value, or "
                f"on more than {1 - LEAST_AGREEMENT:.1%} of the pixels: it is not written to {output}. Raise "
                f"--tolerance if that will do for you\n\n{parity_table(checks)}"
            )
    return checks


def check_sizes(cfg: CfgNode) -> list[tuple[int, int]]:
    """Return three sizes (height, width) of the config's scale: landscape, portrait and half of it, two of them odd."""
    short = cfg.INPUT.MIN_SIZE_TEST or SHORT_SIDE
    sizes = (short, short * 4 // 3), (short * 6 // 5 | 1, short * 4 // 5 | 1), (short // 2 | 1, short * 2 // 3 | 1)
    return [tuple(min(max(side, LEAST_SIDE), GREATEST_SIDE) for side in size) for size in sizes]


def _form(options: ExportOptions, output: Path) -> Format:
    """Return the format, if it is known and all else fits it."""
    if options.format not in FORMATS:
        raise ValueError(f"format {options.format!r} is unknown: choose one of {', '.join(FORMATS)}")
    form = FORMATS[options.format]
    if output.suffix != form.suffix:
        raise ValueError(f"{output} does not end in {form.suffix}, as files of format {options.format} do: rename it")
    if options.with_operator and options.format != "torch":
        raise ValueError(f"format {options.format} can't hold this project's operator: leave out --with-operator")
    if not 0 < options.tolerance < 1:
        raise ValueError(f"tolerance {options.tolerance} is not between 0 and 1: give a share, such as 1e-3")
    for size in options.sizes:
        if not all(LEAST_SIDE <= side <= GREATEST_SIDE for side in size):
            raise ValueError(
                f"size {'x'.join(map(str, size))} does not fit: exported models take sides of {LEAST_SIDE} to "
                f"{GREATEST_SIDE} pixels"
            )
    return form


@contextmanager
def _explained(step: str) -> Iterator[None]:
    """Turn what exporters and runtimes raise, which has no common base, into a ValueError that names the step."""
    try:
        yield
    except (ImportError, OSError, ValueError):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise ValueError(
            f"{step} ({type(error).__name__}: {lines[0][:200]}): a part of this config is not supported, most likely "
            "the backbone. Detectron2's ResNet, EfficientNet and PVTv2 are known to work"
        ) from error


def _check_backbone(backbone: Backbone) -> None:
    """Raise ValueError if a backbone fills pictures up: one program can't both do and leave it, as sizes want it."""
    if isinstance(backbone, TimmBackbone) and backbone.side_multiple > 1:
        raise ValueError(
            f"the backbone fills pictures up to multiples of {backbone.side_multiple} pixels, which can't be exported "
            "for pictures of any size: Detectron2's ResNet, EfficientNet and PVTv2 can, set MODEL.TIMM.NAME to one"
        )
