"""Some pictures of the test sets in TensorBoard at every evaluation: input, truth and prediction side by side."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation.evaluator import inference_context
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..data.categories import Categories
from ..data.mapper import PanopticDatasetMapper
from ..visualization import draw_example

__all__ = ["put_validation_pictures"]

logger = logging.getLogger(__name__)


def put_validation_pictures(cfg: CfgNode, model: nn.Module) -> None:
    """Put TEST.VALIDATION_PICTURES pictures of each dataset of DATASETS.TEST into the event storage.

    They are the same at every evaluation, evenly spread over the dataset, and named validation/<dataset>/<image id>.
    Drawing changes nothing in the training: not even the random numbers that come next.
    A picture or truth that can't be read is a warning; models without panoptic results have none to show.

    Args:
        cfg: the config.
        model: what is evaluated; its training mode is restored.
    """
    network = model.module if isinstance(model, DistributedDataParallel) else model  # this process is alone here
    mapper = PanopticDatasetMapper(cfg, is_train=False)
    with inference_context(network), torch.no_grad(), _same_random_numbers():
        for dataset in cfg.DATASETS.TEST:
            try:
                _put_dataset(dataset, cfg.TEST.VALIDATION_PICTURES, network, mapper)
            except (OSError, ValueError) as error:
                logger.warning("validation pictures of %s can't be drawn: %s", dataset, error)


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Restore numpy's state, from which Detectron2 draws even for a resize to a single size."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _put_dataset(dataset: str, number: int, network: nn.Module, mapper: PanopticDatasetMapper) -> None:
    records = DatasetCatalog.get(dataset)
    categories = Categories.from_metadata(MetadataCatalog.get(dataset))
    for index in np.unique(np.linspace(0, len(records) - 1, number).astype(int)):
        record = records[index]
        result = network([mapper(record)])[0]
        if "panoptic_seg" not in result:
            return
        picture = draw_example(record, result["panoptic_seg"], categories)
        name = f"validation/{dataset}/{record['image_id']}"
        get_event_storage().put_image(name, np.ascontiguousarray(picture.transpose(2, 0, 1)))
