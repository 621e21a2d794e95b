"""Predict in Python: one predictor for every architecture of this project.

It is Detectron2's DefaultPredictor, whose results it gives, for files as well as arrays, for many pictures at once, and
with results that know their classes' names.
Shape legend: H, W size of a picture.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np
import torch
from detectron2.config import CfgNode
from PIL import Image
from torch import Tensor, nn

from ..arguments import device_overrides
from ..data.categories import Categories
from ..data.reading import picture_pixels, read_picture
from .loading import configured, load_predictor, panoptic_only
from .queries import check_has_queries, predict_with_queries
from .result import PanopticResult

__all__ = ["PanopticPredictor", "Picture", "as_pixels"]

Picture = str | os.PathLike[str] | Image.Image | np.ndarray


class PanopticPredictor:
    """A model with its weights, ready for pictures.

    Attributes:
        categories: classes of the config's datasets.
        datasets: names of those that the model is tested on, or else trained on.
        model: the network.
        batch_size: pictures that run together at most.
    """

    def __init__(
        self,
        config: str | Path | CfgNode,
        weights: str | Path = "",
        *,
        device: str = "auto",
        opts: Sequence[str] = (),
        batch_size: int = 1,
        with_queries: bool = False,
    ) -> None:
        """Build the model of a config and load its weights.

        Args:
            config: yaml file, or what `load_config` returned; its architecture is any of this project's.
            weights: checkpoint, a file or an address; "" = what the config has in MODEL.WEIGHTS.
            device: "cpu" or "cuda"; "auto" = as the config has it, which is the GPU if there is one.
            opts: overrides of the config, KEY VALUE.
            batch_size: how many pictures of equal size in the network run together at most. Sums are taken in
                another order then, so that results may differ by rounding; 1 gives those of DefaultPredictor.
            with_queries: results tell the queries behind the segments, too; of PanopticSegFormer alone.
        Raises: FileNotFoundError: if the config, the weights or the json with the dataset's classes are not there.
            ValueError: if one of the arguments does not fit.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: at least one picture has to run at a time")
        overrides = [*opts, *device_overrides(device)]
        if weights:
            overrides += ["MODEL.WEIGHTS", str(weights)]
        cfg = panoptic_only(configured(config, overrides))
        self._predictor = load_predictor(cfg)
        self.datasets: tuple[str, ...] = tuple(cfg.DATASETS.TEST or cfg.DATASETS.TRAIN)
        self.model: nn.Module = self._predictor.model
        self.categories: Categories = self.model.categories
        self.batch_size = batch_size
        if with_queries:
            check_has_queries(self.model)
        self._network = partial(predict_with_queries, self.model) if with_queries else self.model

    @overload
    def __call__(self, images: Picture) -> PanopticResult: ...

    @overload
    def __call__(self, images: Sequence[Picture]) -> list[PanopticResult]: ...

    def __call__(self, images: Picture | Sequence[Picture]) -> PanopticResult | list[PanopticResult]:
        """Return the result of one picture, or a list of those of several.

        Args:
            images: one picture, a list or a tuple of them; each is a file, a PIL image, or (H, W, 3) uint8 RGB. Of
                files and PIL images the EXIF rotation is applied.
        Raises: FileNotFoundError, ValueError: if a picture can't be read, or is too thin for the network.
        """
        if not isinstance(images, list | tuple):
            return self._predict([images])[0]
        starts = range(0, len(images), self.batch_size)
        return [result for start in starts for result in self._predict(images[start : start + self.batch_size])]

    def _predict(self, images: Sequence[Picture]) -> list[PanopticResult]:
        """Return the results of pictures, of which those of equal size in the network run together."""
        pictures = [as_pixels(image) for image in images]
        inputs = [self._input(picture) for picture in pictures]
        groups: dict[torch.Size, list[int]] = {}
        for position, entry in enumerate(inputs):
            groups.setdefault(entry["image"].shape, []).append(position)
        results: dict[int, PanopticResult] = {}
        for positions in groups.values():
            with torch.no_grad():
                outputs = self._network([inputs[position] for position in positions])
            for position, output in zip(positions, outputs, strict=True):
                results[position] = PanopticResult.from_output(pictures[position], output, self.categories)
        return [results[position] for position in range(len(pictures))]

    def _input(self, picture: np.ndarray) -> dict[str, Tensor | int]:
        """Return what the model takes of a picture (H, W, 3) RGB, as DefaultPredictor makes it."""
        height, width = picture.shape[:2]
        ordered = picture if self._predictor.input_format == "RGB" else picture[..., ::-1]
        transform = self._predictor.aug.get_transform(ordered)
        if 0 in (getattr(transform, "new_h", height), getattr(transform, "new_w", width)):
            raise ValueError(
                f"the picture has (height, width) {(height, width)}: it is so thin that nothing is left of it when its "
                "long side is shrunk to INPUT.MAX_SIZE_TEST; cut it into pieces"
            )
        resized = transform.apply_image(ordered)
        return {
            "image": torch.as_tensor(resized.astype(np.float32).transpose(2, 0, 1)),
            "height": height,
            "width": width,
        }


def as_pixels(image: Picture) -> np.ndarray:
    """Return a picture as (H, W, 3) uint8 RGB.

    Raises: FileNotFoundError, ValueError: if there is no such file, or it is no picture.
    """
    if isinstance(image, str | os.PathLike):
        return read_picture(image, "RGB")
    if isinstance(image, Image.Image):
        try:
            return picture_pixels(image, "RGB")
        except OSError as error:  # PIL reads the pixels only now.
            raise ValueError(f"the PIL image cannot be read ({error}): replace its file") from error
    if not isinstance(image, np.ndarray):
        raise ValueError(f"a picture is a path, a PIL image or an array (H, W, 3), not {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"the picture is {image.dtype} of shape {image.shape}: pass uint8 of shape (H, W, 3), RGB")
    return image
