"""The meta-architecture: pictures to losses in training, to panoptic results otherwise.

The method reads top to bottom here; each step is in the file of its name under modeling/, training/ and inference/.
Paper: Li et al., "Panoptic SegFormer", CVPR 2022, section 3 and figure 2.
Shape legend: B pictures, D model width, H, W input size, S tokens of all levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from .building import build_parts
from .checkpoint.loading import load_with_summary
from .data.categories import Categories
from .inference.augmentation import Views, find_in_views
from .inference.candidates import (
    Candidates,
    MaskTokens,
    classified_candidates,
    stuff_candidates,
    thing_candidates,
)
from .inference.outputs import InferenceOptions, picture_results
from .modeling.encoder import Encoder
from .modeling.levels import FeatureLevels, pad_levels
from .modeling.location_decoder import Location, LocationDecoder, LocationOutput
from .modeling.mask_attention import NUM_MASK_LEVELS
from .modeling.mask_decoder import ClassifyingMaskDecoder, StuffMaskDecoder, ThingMaskDecoder
from .modeling.neck import Neck
from .training.criterion import Criterion, SegmentCounts
from .training.targets import PictureTargets

__all__ = ["PanopticSegFormer"]


@META_ARCH_REGISTRY.register()
class PanopticSegFormer(nn.Module):
    """Panoptic segmentation by queries whose attention maps are masks.

    The released form has thing queries, which the location decoder finds and classifies, and a query per stuff class.
    Other forms share its modules (docs/forms.md): queries that the mask decoder classifies, of things and stuff
    together (the first version) or of things alone, and models of one kind of segments.
    """

    @configurable
    def __init__(  # noqa: PLR0913  one argument per step of the data flow
        self,
        *,
        backbone: Backbone,
        in_features: Sequence[str],
        neck: Neck,
        encoder: Encoder,
        location_decoder: LocationDecoder | None,
        thing_mask_decoder: ThingMaskDecoder | None,
        classifying_mask_decoder: ClassifyingMaskDecoder | None,
        stuff_mask_decoder: StuffMaskDecoder | None,
        criterion: Criterion,
        inference_options: InferenceOptions,
        views: Views | None,
        location: Location,
        categories: Categories,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        if backbone.size_divisibility > 1:
            raise ValueError(
                f"backbone {type(backbone).__name__} takes only multiples of {backbone.size_divisibility} pixels; "
                "this model feeds pictures unpadded, use a backbone without that limit"
            )
        self.backbone = backbone
        self.in_features = list(in_features)
        self.has_batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in backbone.modules())
        self.neck = neck
        self.encoder = encoder
        self.location_decoder = location_decoder
        self.thing_mask_decoder = thing_mask_decoder
        self.classifying_mask_decoder = classifying_mask_decoder
        self.stuff_mask_decoder = stuff_mask_decoder
        # Things and stuff share one set of queries.
        self.is_joint = classifying_mask_decoder is not None and stuff_mask_decoder is None and categories.num_stuff > 0
        self.criterion = criterion
        self.inference_options = inference_options
        self.views = views
        self.location = location
        self.categories = categories
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        ids = torch.tensor(categories.thing_ids + categories.stuff_ids, dtype=torch.int64)
        self.register_buffer("category_ids", ids, persistent=False)
        # Gradients never reach these; torch's DDP would wait for them.
        unused = ("thing_mask_decoder.unused_class_heads", "thing_mask_decoder.unused_box_heads")
        self._ddp_params_and_buffers_to_ignore = [
            name for name, _ in self.named_parameters() if name.startswith(unused)
        ]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        """Translate a config with the keys of `add_panoptic_segformer_config` to the constructor's arguments."""
        return build_parts(cfg)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, object]]) -> dict[str, Tensor] | list[dict[str, object]]:
        """Return losses by name in training, otherwise one dict of results per picture.

        Args:
            batched_inputs: dicts with `image` (3, H, W) in the channel order of INPUT.FORMAT, values 0 to 255;
                in training `instances` and `stuff` as PanopticDatasetMapper makes them; otherwise optionally
                `height` and `width` of the results.
        """
        images = self.preprocess(batched_inputs)
        if self.training:
            targets = [self.extract_targets(example) for example in batched_inputs]
            return self.compute_losses(*self.locate(images), targets)
        sizes = [
            (example.get("height", image.shape[-2]), example.get("width", image.shape[-1]))
            for example, image in zip(batched_inputs, images, strict=True)
        ]
        return [self.merge(own, size) for own, size in zip(self.all_candidates(images), sizes, strict=True)]

    def locate(self, images: list[Tensor]) -> tuple[Tensor, FeatureLevels, LocationOutput | None]:
        """Return memory (B, S, D) of normalised images (3, H, W), its levels, and what the location decoder finds."""
        levels = self.extract_levels(images)
        memory = self.encoder(levels)
        return memory, levels, None if self.location_decoder is None else self.location_decoder(memory, levels)

    def all_candidates(self, images: list[Tensor]) -> list[Candidates]:
        """Return what may become a segment of normalised images (3, H, W), per picture; from all views if it has any.

        Views are those of TEST.AUG.
        """
        if self.views is None:
            return self.find_candidates(images)
        threshold = self.inference_options.merging.mask_threshold
        return [find_in_views(self.find_candidates, image, self.views, threshold) for image in images]

    def find_candidates(self, images: list[Tensor]) -> list[Candidates]:
        """Return what may become a segment of normalised images (3, H, W), per picture."""
        return self.collect_candidates(*self.locate(images))

    def preprocess(self, batched_inputs: list[dict[str, object]]) -> list[Tensor]:
        """Return the images (3, H, W) on the model's device, mean subtracted, in units of the deviation."""
        return [(example["image"].to(self.device) - self.pixel_mean) / self.pixel_std for example in batched_inputs]

    def extract_levels(self, images: list[Tensor]) -> FeatureLevels:
        """Return the neck's levels of normalised images (3, H, W) of any sizes, finest first.

        Pictures of one size run as one batch. Backbone and neck never see padding: it starts where the levels of
        different sizes are put together, so a picture's result does not depend on the others in its batch. The
        price is one call of the backbone per size. Only where batch norm learns it is another, see `padded_levels`.
        """
        if self.training and self.has_batch_norm:
            return self.padded_levels(images)
        positions: dict[torch.Size, list[int]] = {}
        for position, image in enumerate(images):
            positions.setdefault(image.shape[-2:], []).append(position)
        pictures: list[list[Tensor]] = [[] for _ in images]
        for same_size in positions.values():
            levels = self.same_size_levels(torch.stack([images[position] for position in same_size]))
            if len(positions) == 1:
                sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
                return FeatureLevels(levels, [sizes] * len(images))
            for row, position in enumerate(same_size):
                pictures[position] = [level[row : row + 1] for level in levels]
        return pad_levels(pictures)

    def padded_levels(self, images: list[Tensor]) -> FeatureLevels:
        """Return the same from one call of the backbone, which sees padding in the mean colour.

        Batch norm takes its statistics over the whole batch then, and ranks that share them make as many calls,
        whatever the sizes of their pictures.
        """
        features = self.backbone(ImageList.from_tensors(images).tensor)
        strides = {name: shape.stride for name, shape in self.backbone.output_shape().items()}
        pictures = []
        for picture, image in enumerate(images):
            height, width = image.shape[-2:]
            own = [
                features[name][picture : picture + 1, :, : -(-height // strides[name]), : -(-width // strides[name])]
                for name in self.in_features
            ]
            pictures.append(self.neck(own))
        return pad_levels(pictures)

    def same_size_levels(self, batch: Tensor) -> list[Tensor]:
        """Return the neck's levels of a batch (B, 3, H, W) of normalised images, finest first."""
        # torch pools channels last several times as fast on a CPU; in training that would take more memory.
        if batch.device.type == "cpu" and not torch.is_grad_enabled():
            batch = batch.contiguous(memory_format=torch.channels_last)
        features = self.backbone(batch)
        return self.neck([features[name] for name in self.in_features])

    def extract_targets(self, example: dict[str, object]) -> PictureTargets:
        """Return the truth of a training example, of the kinds of segments that the model learns."""
        return PictureTargets.from_instances(*self._learned(example), self.pixel_mean, self.location, self.is_joint)

    def _learned(self, example: dict[str, object]) -> tuple[Instances, Instances]:
        things = example["instances"] if self.categories.num_things else example["instances"][:0]
        stuff = example["stuff"] if self.categories.num_stuff else example["stuff"][:0]
        return things, stuff

    def count_targets(self, batched_inputs: list[dict[str, object]]) -> tuple[int, int]:
        """Return how many things and stuff segments of training examples the losses are divided by.

        Where one set of queries learns both, all are things here.
        """
        return self._count([tuple(map(len, self._learned(example))) for example in batched_inputs])

    def segment_counts(self, targets: list[PictureTargets]) -> SegmentCounts:
        """Return the normalisers of the losses for a batch of which this process has these pictures."""
        numbers = self._count([(len(target.things.classes), len(target.stuff.classes)) for target in targets])
        with_things, with_stuff = self.location_decoder is not None, self.stuff_mask_decoder is not None
        return SegmentCounts.of(numbers, self.device, with_things, with_stuff)

    def _count(self, lengths: list[tuple[int, int]]) -> tuple[int, int]:
        """Return the numbers of a batch whose pictures have so many things and stuff segments; queries limit things."""
        queries = 0 if self.location_decoder is None else self.location_decoder.num_queries
        things = sum(min(things + stuff * self.is_joint, queries) for things, stuff in lengths)
        return things, sum(stuff for _, stuff in lengths)

    def compute_losses(
        self, memory: Tensor, levels: FeatureLevels, location: LocationOutput | None, targets: list[PictureTargets]
    ) -> dict[str, Tensor]:
        """Return all losses by name; memory: (B, S, D) of the levels, location None where there are no such queries.

        Masks are decoded picture by picture, each from its own tokens: padding takes no part in their attention.
        """
        counts = self.segment_counts(targets)
        pictures = [self._mask_tokens(memory, levels, [picture]) for picture in range(len(targets))]
        losses: dict[str, Tensor] = {}
        if self.thing_mask_decoder is not None:
            losses |= self._thing_losses(pictures, location, targets, counts)
        if self.classifying_mask_decoder is not None:
            losses |= self._classified_losses(pictures, location, targets, counts)
        if self.stuff_mask_decoder is not None:
            losses |= self._stuff_losses(pictures, targets, counts)
        return losses

    def _thing_losses(
        self,
        pictures: list[MaskTokens],
        location: LocationOutput,
        targets: list[PictureTargets],
        counts: SegmentCounts,
    ) -> dict[str, Tensor]:
        """Return the losses of things that the location decoder classifies."""
        with self._without_autocast():
            losses, selected = self.criterion.location_losses(location, targets, counts)
        maps = [
            self.thing_mask_decoder(queries[match.queries][None], tokens.memory, tokens.sizes)
            for queries, match, tokens in zip(location.queries, selected, pictures, strict=True)
        ]
        with self._without_autocast():
            return losses | self.criterion.thing_mask_losses(maps, location, selected, targets, counts)

    def _classified_losses(
        self,
        pictures: list[MaskTokens],
        location: LocationOutput,
        targets: list[PictureTargets],
        counts: SegmentCounts,
    ) -> dict[str, Tensor]:
        """Return the losses of the queries that the mask decoder classifies."""
        decoded = [
            self.classifying_mask_decoder(queries[None], tokens.memory, tokens.sizes)
            for queries, tokens in zip(location.queries, pictures, strict=True)
        ]
        class_logits, maps = zip(*decoded, strict=True)
        if self.is_joint:
            kind = "joint"
            segments = [target.joined(self.categories.num_things) for target in targets]
        else:
            kind = "thing"
            segments = [target.things for target in targets]
        with self._without_autocast():
            return self.criterion.classified_losses(kind, location, class_logits, maps, segments, counts)

    def _stuff_losses(
        self, pictures: list[MaskTokens], targets: list[PictureTargets], counts: SegmentCounts
    ) -> dict[str, Tensor]:
        """Return the losses of the stuff queries."""
        decoded = [self.stuff_mask_decoder(tokens.memory, tokens.sizes) for tokens in pictures]
        class_logits, maps = zip(*decoded, strict=True)
        with self._without_autocast():
            return self.criterion.stuff_losses(class_logits, maps, targets, counts)

    def _without_autocast(self) -> torch.autocast:
        """Matching and losses are taken in full precision: masks are unbounded, and sums over them overflow half."""
        return torch.autocast(self.device.type, enabled=False)

    def collect_candidates(
        self, memory: Tensor, levels: FeatureLevels, location: LocationOutput | None
    ) -> list[Candidates]:
        """Return what may become a segment, per picture.

        Args:
            memory: (B, S, D).
            levels: the levels of the memory.
            location: the location decoder's output; None where there is none.
        """
        # A GPU decodes pictures of one size together; the tokens of two are too many for a processor's caches.
        one_by_one = [[picture] for picture in range(len(memory))]
        groups = one_by_one if memory.device.type == "cpu" else levels.same_sizes()
        collected: dict[int, Candidates] = {}
        for pictures in groups:
            collected |= zip(pictures, self.decode_candidates(memory, levels, location, pictures), strict=True)
        return [collected[picture] for picture in range(len(memory))]

    def decode_candidates(
        self, memory: Tensor, levels: FeatureLevels, location: LocationOutput | None, pictures: Sequence[int]
    ) -> list[Candidates]:
        """Return what may become a segment of some pictures of equal sizes, decoded together."""
        number, num_layers = self.inference_options.num_thing_candidates, self.inference_options.num_mask_layers
        num_things, ids = self.categories.num_things, self.category_ids
        tokens = self._mask_tokens(memory, levels, pictures)
        own = None if location is None else location.of_pictures(pictures)
        parts = []
        if self.thing_mask_decoder is not None:
            decoder = self.thing_mask_decoder
            parts.append(thing_candidates(decoder, own, tokens, ids[:num_things], number, num_layers))
        if self.classifying_mask_decoder is not None:
            decoder = self.classifying_mask_decoder
            parts.append(classified_candidates(decoder, own, tokens, ids, num_things, num_layers))
        if self.stuff_mask_decoder is not None:
            parts.append(stuff_candidates(self.stuff_mask_decoder, tokens, ids[num_things:], num_layers))
        return [Candidates.joined(of_picture) for of_picture in zip(*parts, strict=True)]

    def merge(self, candidates: Candidates, size: tuple[int, int]) -> dict[str, object]:
        """Return the results of one picture, of size (height, width), that its candidates make."""
        options = self.inference_options
        return picture_results(candidates, size, self.categories, options.merging, options.outputs)

    def _mask_tokens(self, memory: Tensor, levels: FeatureLevels, pictures: Sequence[int]) -> MaskTokens:
        """Return what the masks of some pictures of equal sizes are made of."""
        tokens = levels.picture_tokens(memory, pictures, NUM_MASK_LEVELS)
        return MaskTokens(tokens, levels.sizes[pictures[0]][:NUM_MASK_LEVELS])

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> torch.nn.modules.module._IncompatibleKeys:
        """Load as torch does, log what was loaded and what was not, and refuse weights of another model."""
        return load_with_summary(self, super().load_state_dict, state_dict, strict, assign)
