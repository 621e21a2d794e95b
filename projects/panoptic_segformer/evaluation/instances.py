"""Average precision of thing masks and boxes, its truth taken from the panoptic truth.

No separate file of instances is needed: the annotations are derived once per dataset and kept beside the
results. Shape legend: H, W picture size, n predicted things.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from pycocotools import mask as rle

from ..writing import whole_file
from .truth import PanopticTruth

__all__ = ["ThingPrecisionEvaluator", "write_thing_annotations"]

logger = logging.getLogger(__name__)


class ThingPrecisionEvaluator(COCOEvaluator):
    """Collects `instances` and returns Detectron2's {"segm": {"AP", ...}, "bbox": {"AP", ...}}.

    A model that gives no instances gets no such results.
    """

    def __init__(self, truth: PanopticTruth, output_dir: str | Path) -> None:
        """Derive the annotations if they are not there yet, and read them; all processes must call it.

        Args:
            truth: of the dataset.
            output_dir: where annotations and predictions are written.
        """
        path = Path(output_dir) / f"thing_annotations_{truth.fingerprint()}.json"
        if comm.get_local_rank() == 0 and not path.exists():
            write_thing_annotations(truth, path)
        comm.synchronize()
        # Without a map of ids in the metadata Detectron2 takes classes as they are, so they become the json's.
        MetadataCatalog.get(str(path)).set(json_file=str(path), thing_classes=[thing["name"] for thing in truth.things])
        super().__init__(str(path), tasks=("bbox", "segm"), output_dir=str(output_dir), use_fast_impl=False)
        self._category_ids = torch.zeros(max(truth.thing_ids) + 1, dtype=torch.int64)
        for contiguous_id, category_id in truth.thing_ids.items():
            self._category_ids[contiguous_id] = category_id

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the predicted things of a batch as run lengths."""
        for picture, output in zip(inputs, outputs, strict=True):
            if "instances" in output:
                super().process([picture], [{"instances": self._with_category_ids(output["instances"])}])

    def evaluate(self, img_ids: list[int] | None = None) -> dict[str, dict[str, float]]:
        """Return the precisions on the main process and {} elsewhere; all processes must call it."""
        results = super().evaluate(img_ids)
        if not results and comm.is_main_process():
            logger.info("the model gave no instances: mask AP is left out")
        return results

    def _with_category_ids(self, instances: Instances) -> Instances:
        fields = dict(instances.get_fields())
        fields["pred_classes"] = self._category_ids[fields["pred_classes"].cpu()]
        return Instances(instances.image_size, **fields)


def write_thing_annotations(truth: PanopticTruth, path: Path) -> None:
    """Write the things of a panoptic truth as COCO instance annotations; the file appears when complete.

    Crowd stays crowd, so that predictions on it are neither right nor wrong.
    """
    logger.info("deriving the instances of %s once, into %s", truth.json_path, path)
    names = {thing["id"]: thing["name"] for thing in truth.things}
    annotations: list[dict[str, Any]] = []
    for image_id, annotation in truth.annotations.items():
        segments = [segment for segment in annotation["segments_info"] if segment["category_id"] in names]
        ids = truth.segment_ids(image_id) if segments else None
        for segment in segments:
            run_lengths = rle.encode(np.asfortranarray(ids == segment["id"], dtype=np.uint8))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": segment["category_id"],
                    "iscrowd": segment["iscrowd"],
                    "bbox": rle.toBbox(run_lengths).tolist(),
                    "area": int(rle.area(run_lengths)),
                    "segmentation": {**run_lengths, "counts": run_lengths["counts"].decode("ascii")},
                }
            )
    content = {
        "info": {"description": f"things of {truth.json_path}"},
        "images": list(truth.images.values()),
        "categories": [{"id": category_id, "name": name} for category_id, name in names.items()],
        "annotations": annotations,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content), encoding="utf-8")
