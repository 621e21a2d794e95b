"""What the models have in common that see a batch as one padded tensor: DETR, MaskFormer, Panoptic FCN.

Panoptic SegFormer itself feeds pictures unpadded (meta_arch.py). Shape legend: H, W size of the padded batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..checkpoint.loading import load_with_summary
from ..data.categories import Categories

__all__ = ["PaddedModel"]


class PaddedModel(nn.Module):
    """A meta-architecture: pictures to losses in training, otherwise to one dict of results per picture."""

    def __init__(
        self,
        *,
        categories: Categories,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = 0,
    ) -> None:
        """Keep what all these models need.

        Args:
            categories: the classes of the model's dataset.
            pixel_mean: in the channel order of INPUT.FORMAT.
            pixel_std: likewise.
            size_divisibility: batches are padded to multiples of this many pixels.
        """
        super().__init__()
        self.categories = categories
        self.size_divisibility = size_divisibility
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Return losses by name in training, otherwise one dict of results per picture.

        Args:
            batched_inputs: dicts with `image` (3, H, W) in the channel order of INPUT.FORMAT, values 0 to 255;
                in training `instances` and `stuff` as PanopticDatasetMapper makes them; otherwise optionally
                `height` and `width` of the results.
        """
        images = self.preprocess(batched_inputs)
        outputs = self.network(images)
        if self.training:
            return self.compute_losses(outputs, images, batched_inputs)
        results = []
        padded_size = tuple(map(int, images.tensor.shape[-2:]))  # While tracing, sizes are tensors.
        for picture, (example, image_size) in enumerate(zip(batched_inputs, images.image_sizes, strict=True)):
            height, width = map(int, image_size)
            size = (example.get("height", height), example.get("width", width))
            results.append(self.picture_results(outputs, picture, padded_size, (height, width), size))
        return results

    def preprocess(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Return the normalised pictures as one batch, padded with zeros at the bottom and on the right."""
        pictures = [(example["image"].to(self.device) - self.pixel_mean) / self.pixel_std for example in batched_inputs]
        return ImageList.from_tensors(pictures, self.size_divisibility)

    @abstractmethod
    def network(self, images: ImageList) -> Any:
        """Return what the network makes of a batch, for losses and results alike."""

    @abstractmethod
    def compute_losses(
        self, outputs: Any, images: ImageList, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, Tensor]:
        """Return the weighted losses by name; their sum is minimised."""

    @abstractmethod
    def picture_results(
        self,
        outputs: Any,
        picture: int,
        padded_size: tuple[int, int],
        image_size: tuple[int, int],
        size: tuple[int, int],
    ) -> dict[str, Any]:
        """Return the results of one picture.

        Args:
            outputs: of the network, for the whole batch.
            picture: its number in the batch.
            padded_size: (H, W) of the batch.
            image_size: height and width of the picture in the batch, without padding.
            size: height and width of the results.
        Returns: `panoptic_seg` (ids (height, width) int32 with 0 = void, one record per segment with id, category_id
            (contiguous), isthing, score and area); further results as the model has them.
        """

    def convert_state_dict(self, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return tensors under the names of this model; upstream's are recognised where they differ."""
        return state_dict

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> torch.nn.modules.module._IncompatibleKeys:
        """Load as torch does, log what was loaded and what was not, and refuse weights of another model."""
        return load_with_summary(self, super().load_state_dict, self.convert_state_dict(state_dict), strict, assign)
