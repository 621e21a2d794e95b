"""Panoptic quality of one model on a dataset, on its pictures as they are and on corrupted ones.

Pictures are corrupted as they are read, before they are resized, as in COCO-C. What was measured is kept on disk and
not measured again: a run can be stopped and goes on where it was.
Reference: Li et al., "Panoptic SegFormer", CVPR 2022, table of COCO-C.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import detectron2
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.evaluation import inference_on_dataset
from torch import nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..architectures import find_architecture
from ..checkpoint.download import local_copy
from ..comparison.cache import PredictionCache, code_digest, digest_of
from ..comparison.process import PROJECTS
from ..comparison.spec import closest
from ..data.augmentations import build_augmentations
from ..data.datasets import register_datasets
from ..data.mapper import PanopticDatasetMapper
from ..evaluation.panoptic import PanopticQualityEvaluator
from ..evaluation.truth import PanopticTruth
from ..hashing import file_digest
from ..inference.loading import check_weights, load_predictor, panoptic_only
from ..optional import import_optional
from ..profiling.machine import device_name
from .corruptions import LEAST_SIDE, Corrupt, Corruption

__all__ = ["Measurement", "Robustness", "measure_robustness"]

logger = logging.getLogger(__name__)

CACHE = "cache"
# Distribution of the library, for its version.
LIBRARY = "imagecorruptions-imaug"

Qualities = Mapping[str, float]


@dataclass(frozen=True)
class Robustness:
    """What was measured.

    Attributes:
        clean: PQ, SQ, RQ (also with _th, _st) and PQ-<class> in percent, on the pictures as they are.
        corrupted: the same on corrupted pictures, by corruption.
        facts: text by name: architecture, weights, dataset, number of pictures, device and versions.
    """

    clean: Qualities
    corrupted: Mapping[Corruption, Qualities]
    facts: Mapping[str, str]


class Measurement:
    """A model and the pictures and truth that it is measured on.

    Attributes:
        cfg: the config; its only test set is the dataset.
        dataset: its name.
        records: Detectron2's dicts of the pictures.
        truth: of exactly these pictures.
    """

    def __init__(self, cfg: CfgNode, dataset: str = "", limit: int | None = None) -> None:
        """Read the dataset.

        Args:
            cfg: of the model; MODEL.WEIGHTS names the checkpoint.
            dataset: a registered dataset or one of the config's DATASETS.REGISTER; "" = its first test set.
            limit: number of pictures, the first ones; None = all.
        Raises: ImportError: if the library of corruptions is missing. FileNotFoundError: if weights or truth are not
            there. ValueError: if the dataset is unknown or has no panoptic truth, or a picture is too small.
        """
        import_optional("imagecorruptions", "robustness")
        check_weights(cfg.MODEL.WEIGHTS)
        self.cfg = _on_dataset(panoptic_only(cfg), dataset)
        register_datasets(self.cfg)
        self.dataset = self.cfg.DATASETS.TEST[0]
        _check_registered(self.cfg)
        truth = PanopticTruth.of_dataset(self.dataset)
        self.records = [
            record for record in DatasetCatalog.get(self.dataset) if record["image_id"] in truth.annotations
        ]
        self.records = self.records[:limit]
        if not self.records:
            raise ValueError(f"dataset {self.dataset!r} has no annotated pictures: there is nothing to measure on")
        ids = [record["image_id"] for record in self.records]
        images, annotations = ({id_: table[id_] for id_ in ids} for table in (truth.images, truth.annotations))
        self.truth = dataclasses.replace(truth, images=images, annotations=annotations)
        _check_sizes(self.truth)

    @cached_property
    def model(self) -> nn.Module:
        """The model with its weights, in inference mode."""
        return load_predictor(self.cfg).model

    @cached_property
    def identity(self) -> str:
        """A text that changes with everything that the qualities depend on besides the corruption."""
        identity = self.cfg.clone()
        identity.OUTPUT_DIR = identity.MODEL.WEIGHTS = ""  # Of the weights their content counts.
        package = find_architecture(self.cfg.MODEL.META_ARCHITECTURE).package.partition(".")[0]
        code = code_digest(PROJECTS / name for name in sorted({__package__.partition(".")[0], package}))
        annotations, png_root = self.truth.annotations.values(), self.truth.png_root
        files = [record["file_name"] for record in self.records]
        files += [png_root / annotation["file_name"] for annotation in annotations]
        # Whoever reads the files says what is wrong with a missing one.
        contents = [file_digest(file) if Path(file).is_file() else None for file in files]
        versions = (torch.__version__, detectron2.__version__, version(LIBRARY))
        return digest_of(identity.dump(), self.weights_digest, self.truth.fingerprint(), contents, code, versions)

    @cached_property
    def weights_digest(self) -> str:
        """The sha256 of the checkpoint."""
        return file_digest(local_copy(self.cfg.MODEL.WEIGHTS))

    def mapper(self, corruption: Corruption | None) -> PanopticDatasetMapper:
        """Return what reads a picture, corrupts it (None = leaves it) and resizes it."""
        image_format = self.cfg.INPUT.FORMAT
        first = [] if corruption is None else [Corrupt(corruption, image_format)]
        augmentations = [*first, *build_augmentations(self.cfg, is_train=False)]
        return PanopticDatasetMapper(False, augmentations=augmentations, image_format=image_format, categories=None)

    def measure(self, corruption: Corruption | None) -> Qualities:
        """Return the qualities on pictures with a corruption; None = on the pictures as they are."""
        loader = build_detection_test_loader(
            self.records, mapper=self.mapper(corruption), num_workers=self.cfg.DATALOADER.NUM_WORKERS
        )
        return inference_on_dataset(self.model, loader, PanopticQualityEvaluator(self.truth))["panoptic_seg"]


def measure_robustness(measurement: Measurement, corruptions: Sequence[Corruption], output: Path) -> Robustness:
    """Return the qualities of a model on clean and on corrupted pictures.

    Args:
        measurement: model and pictures.
        corruptions: kinds and severities.
        output: folder; its folder `cache` keeps each result, which is taken from there in the next run unless anything
            that it depends on has changed: weights, config, pictures, truth, code.
    Raises: as the mapper and the evaluator.
    """
    cache = PredictionCache(output / CACHE)
    found: dict[Corruption | None, Qualities] = {}
    with logging_redirect_tqdm([logging.getLogger(__package__.partition(".")[0])]):
        for corruption in tqdm([None, *corruptions], unit="corruption"):
            key = digest_of(measurement.identity, str(corruption))
            qualities = cache.read_record(key)
            if qualities is None:
                qualities = measurement.measure(corruption)
                cache.write_record(key, qualities)
            logger.info("%s: PQ %.2f", corruption or "clean", qualities["PQ"])
            found[corruption] = qualities
    return Robustness(clean=found.pop(None), corrupted=found, facts=_facts(measurement))


def _on_dataset(cfg: CfgNode, dataset: str) -> CfgNode:
    """Return the config with the dataset as its only test set."""
    if not dataset and not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST of the config is empty: give a dataset that has panoptic truth")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = (dataset or cfg.DATASETS.TEST[0],)
    return cfg


def _check_registered(cfg: CfgNode) -> None:
    (dataset,) = cfg.DATASETS.TEST
    if dataset not in DatasetCatalog.list():
        known = [*cfg.DATASETS.REGISTER, *DatasetCatalog.list()]
        raise ValueError(
            f"dataset {dataset!r} is not registered with Detectron2{closest(dataset, known)}: give one that is, or "
            "describe it in the config's DATASETS.REGISTER"
        )


def _check_sizes(truth: PanopticTruth) -> None:
    sizes = {image["file_name"]: (image["height"], image["width"]) for image in truth.images.values()}
    if small := [name for name, size in sizes.items() if min(size) < LEAST_SIDE]:
        raise ValueError(
            f"{len(small)} of {len(sizes)} pictures can't be corrupted, the first is {small[0]} with (height, width) "
            f"{sizes[small[0]]}: the library needs at least {LEAST_SIDE} pixels on each side, leave them out of the "
            "dataset"
        )


def _facts(measurement: Measurement) -> dict[str, str]:
    cfg = measurement.cfg
    return {
        "architecture": cfg.MODEL.META_ARCHITECTURE,
        "weights": f"{cfg.MODEL.WEIGHTS} (sha256 {measurement.weights_digest})",
        "dataset": measurement.dataset,
        "pictures": str(len(measurement.records)),
        "device": device_name("cuda" if cfg.MODEL.DEVICE.startswith("cuda") else "cpu"),
        "torch": torch.__version__,
        LIBRARY: version(LIBRARY),
    }
