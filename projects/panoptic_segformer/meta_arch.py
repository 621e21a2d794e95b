"""The meta-architecture: pictures to losses in training, to panoptic results otherwise.

The method reads top to bottom here; each step is in the file of its name under modeling/, training/ and inference/.
Paper: Li et al., "Panoptic SegFormer", CVPR 2022, section 3 and figure 2.
Shape legend: B pictures, D model width, H, W input size, S tokens of all levels, Q thing queries.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from torch import Tensor, nn

from .checkpoint.loading import load_with_summary
from .data.categories import Categories
from .data.datasets import register_datasets
from .inference.merging import MergeOptions
from .inference.outputs import Candidates, Outputs, picture_results
from .modeling.encoder import Encoder
from .modeling.levels import FeatureLevels, pad_levels
from .modeling.location_decoder import LocationDecoder, LocationOutput
from .modeling.mask_decoder import NUM_MASK_LEVELS, StuffMaskDecoder, ThingMaskDecoder
from .modeling.neck import Neck
from .modeling.precision import at_least_float32
from .training.criterion import Criterion, LossWeights, SegmentCounts
from .training.matcher import Matcher
from .training.targets import PictureTargets

__all__ = ["InferenceOptions", "PanopticSegFormer"]


@dataclass(frozen=True)
class InferenceOptions:
    """What is computed from the queries outside training.

    Attributes:
        num_thing_candidates: (query, class) pairs of things that enter merging, best first.
        merging: thresholds of merging.
        outputs: which results are computed.
    """

    num_thing_candidates: int
    merging: MergeOptions
    outputs: Outputs


@META_ARCH_REGISTRY.register()
class PanopticSegFormer(nn.Module):
    """Panoptic segmentation with separate queries for things and stuff."""

    @configurable
    def __init__(  # noqa: PLR0913  one argument per step of the data flow
        self,
        *,
        backbone: Backbone,
        in_features: Sequence[str],
        neck: Neck,
        encoder: Encoder,
        location_decoder: LocationDecoder,
        thing_mask_decoder: ThingMaskDecoder,
        stuff_mask_decoder: StuffMaskDecoder,
        criterion: Criterion,
        inference_options: InferenceOptions,
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
        if any(isinstance(module, nn.SyncBatchNorm | NaiveSyncBatchNorm) for module in backbone.modules()):
            raise ValueError(
                "the backbone has synchronised batch norm, which needs one call per batch on every rank; here it is "
                "called once per picture size. Set MODEL.RESNETS.NORM to FrozenBN, as the released recipe does"
            )
        self.backbone = backbone
        self.in_features = list(in_features)
        self.neck = neck
        self.encoder = encoder
        self.location_decoder = location_decoder
        self.thing_mask_decoder = thing_mask_decoder
        self.stuff_mask_decoder = stuff_mask_decoder
        self.criterion = criterion
        self.inference_options = inference_options
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
        node = cfg.MODEL.PANOPTIC_SEGFORMER
        categories = _categories(cfg)
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        sizes = {"dim": node.EMBED_DIM, "num_heads": node.NUM_HEADS, "feedforward_dim": node.FEEDFORWARD_DIM}
        deformable = {**sizes, "dropout": node.DROPOUT, "num_levels": len(node.IN_FEATURES) + 1}
        encoder, decoder = node.ENCODER, node.LOCATION_DECODER
        return {
            "backbone": backbone,
            "in_features": node.IN_FEATURES,
            "neck": Neck([shapes[name].channels for name in node.IN_FEATURES], node.EMBED_DIM),
            "encoder": Encoder(**deformable, num_layers=encoder.NUM_LAYERS, num_points=encoder.NUM_POINTS),
            "location_decoder": LocationDecoder(
                **deformable,
                num_classes=categories.num_things,
                num_queries=decoder.NUM_QUERIES,
                num_layers=decoder.NUM_LAYERS,
                num_points=decoder.NUM_POINTS,
            ),
            "thing_mask_decoder": ThingMaskDecoder(
                **sizes, num_classes=categories.num_things, num_blocks=node.MASK_DECODER.NUM_THING_BLOCKS
            ),
            "stuff_mask_decoder": StuffMaskDecoder(
                **sizes, num_classes=categories.num_stuff, num_blocks=node.MASK_DECODER.NUM_STUFF_BLOCKS
            ),
            "criterion": _criterion(node),
            "inference_options": _inference_options(node),
            "categories": categories,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

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
        levels = self.extract_levels([self.normalize(example["image"]) for example in batched_inputs])
        memory = self.encoder(levels)
        location = self.location_decoder(memory, levels)
        if self.training:
            targets = [
                PictureTargets.from_instances(example["instances"], example["stuff"], self.pixel_mean)
                for example in batched_inputs
            ]
            return self.compute_losses(memory, levels, location, targets)
        results = []
        for picture, example in enumerate(batched_inputs):
            height, width = example["image"].shape[-2:]
            size = (example.get("height", height), example.get("width", width))
            candidates = self.collect_candidates(memory, levels, location, picture)
            options = self.inference_options
            results.append(picture_results(candidates, size, self.categories, options.merging, options.outputs))
        return results

    def normalize(self, image: Tensor) -> Tensor:
        """Return an image (3, H, W) on the model's device with the mean subtracted, in units of the deviation."""
        return (image.to(self.device) - self.pixel_mean) / self.pixel_std

    def extract_levels(self, images: list[Tensor]) -> FeatureLevels:
        """Return the neck's levels of normalised images (3, H, W) of any sizes, finest first.

        Pictures of one size run as one batch. Backbone and neck never see padding: it starts where the levels of
        different sizes are put together, so a picture's result does not depend on the others in its batch. The
        price is one call of the backbone per size.
        """
        positions: dict[torch.Size, list[int]] = {}
        for position, image in enumerate(images):
            positions.setdefault(image.shape[-2:], []).append(position)
        pictures: list[list[Tensor]] = [[] for _ in images]
        for same_size in positions.values():
            features = self.backbone(torch.stack([images[position] for position in same_size]))
            levels = self.neck([features[name] for name in self.in_features])
            if len(positions) == 1:
                sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
                return FeatureLevels(levels, [sizes] * len(images))
            for row, position in enumerate(same_size):
                pictures[position] = [level[row : row + 1] for level in levels]
        return pad_levels(pictures)

    def compute_losses(
        self, memory: Tensor, levels: FeatureLevels, location: LocationOutput, targets: list[PictureTargets]
    ) -> dict[str, Tensor]:
        """Return all losses by name; memory: (B, S, D) of the levels.

        Masks are decoded picture by picture, each from its own tokens: padding takes no part in their attention.
        """
        counts = SegmentCounts.of(targets, location.queries.shape[1])
        with self._without_autocast():
            losses, selected = self.criterion.location_losses(location, targets, counts)
        thing_masks, stuff_logits, stuff_masks = [], [], []
        for picture, match in enumerate(selected):
            tokens, sizes = self._mask_tokens(memory, levels, picture)
            queries = location.queries[picture, match.queries][None]
            thing_masks.append(self.thing_mask_decoder(queries, tokens, sizes))
            logits, masks = self.stuff_mask_decoder(tokens, sizes)
            stuff_logits.append(logits)
            stuff_masks.append(masks)
        with self._without_autocast():
            losses |= self.criterion.thing_mask_losses(thing_masks, location, selected, targets, counts)
            return losses | self.criterion.stuff_losses(stuff_logits, stuff_masks, targets, counts)

    def _without_autocast(self) -> torch.autocast:
        """Matching and losses are taken in full precision: masks are unbounded, and sums over them overflow half."""
        return torch.autocast(self.device.type, enabled=False)

    def collect_candidates(
        self, memory: Tensor, levels: FeatureLevels, location: LocationOutput, picture: int
    ) -> Candidates:
        """Return what may become a segment of one picture: its best (query, class) pairs and all stuff classes.

        Args:
            memory: (B, S, D).
            levels: the levels of the memory.
            location: the location decoder's output.
            picture: index in the batch.
        """
        probs = at_least_float32(location.class_logits[-1][picture]).sigmoid()
        num_classes = probs.shape[1]
        number = min(self.inference_options.num_thing_candidates, probs.numel())
        thing_probs, pairs = probs.flatten().topk(number)
        pair_queries, thing_labels = pairs // num_classes, pairs % num_classes
        # A query may be chosen with several classes; its mask is decoded once.
        queries, mask_index = pair_queries.unique(return_inverse=True)
        tokens, sizes = self._mask_tokens(memory, levels, picture)
        thing_masks = self.thing_mask_decoder(location.queries[picture, queries][None], tokens, sizes)[-1][0]
        stuff_logits, stuff_masks = self.stuff_mask_decoder(tokens, sizes)
        stuff_probs = at_least_float32(stuff_logits[-1][0]).sigmoid()
        stuff_labels = torch.arange(len(stuff_probs), device=self.device)
        return Candidates(
            masks=at_least_float32(torch.cat([thing_masks, stuff_masks[-1][0]])),
            mask_index=torch.cat([mask_index, len(queries) + stuff_labels]),
            class_probs=torch.cat([thing_probs, stuff_probs]),
            category_ids=self.category_ids[torch.cat([thing_labels, num_classes + stuff_labels])],
            is_thing=torch.arange(number + len(stuff_probs), device=self.device) < number,
            boxes=location.boxes[-1][picture, pair_queries],
        )

    def _mask_tokens(self, memory: Tensor, levels: FeatureLevels, picture: int) -> tuple[Tensor, list[tuple[int, int]]]:
        """Return one picture's tokens (1, S', D) of the levels that masks are made of, and these levels' sizes."""
        tokens = levels.picture_tokens(memory, picture, NUM_MASK_LEVELS)
        return tokens, levels.sizes[picture][:NUM_MASK_LEVELS]

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> torch.nn.modules.module._IncompatibleKeys:
        """Load as torch does, log what was loaded and what was not, and refuse weights of another model."""
        return load_with_summary(self, super().load_state_dict, state_dict, strict, assign)


def _categories(cfg: CfgNode) -> Categories:
    """Return the classes that the config's datasets share, checked against the class counts of the config."""
    register_datasets(cfg)
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    if not names:
        raise ValueError("DATASETS.TRAIN and DATASETS.TEST are empty: the classes come from a dataset's metadata")
    categories = Categories.of_datasets(names)
    node = cfg.MODEL.PANOPTIC_SEGFORMER
    for key, given, found in (
        ("NUM_THING_CLASSES", node.NUM_THING_CLASSES, categories.num_things),
        ("NUM_STUFF_CLASSES", node.NUM_STUFF_CLASSES, categories.num_stuff),
    ):
        if given not in (0, found):
            raise ValueError(
                f"MODEL.PANOPTIC_SEGFORMER.{key} is {given}, but dataset {names[0]!r} has {found}: set the key to "
                f"{found}, or to 0 to take the dataset's number"
            )
    logging.getLogger(__name__).info(
        "%d thing and %d stuff classes of dataset %s", categories.num_things, categories.num_stuff, names[0]
    )
    return categories


def _criterion(node: CfgNode) -> Criterion:
    matcher = Matcher(
        class_cost=node.MATCHER.CLASS_COST,
        box_cost=node.MATCHER.BOX_COST,
        giou_cost=node.MATCHER.GIOU_COST,
        mask_stage_class_cost=node.MATCHER.MASK_STAGE_CLASS_COST,
        mask_cost=node.MATCHER.MASK_COST,
    )
    weights = LossWeights(
        thing_class=node.LOSS.CLASS_WEIGHT,
        box=node.LOSS.BOX_WEIGHT,
        giou=node.LOSS.GIOU_WEIGHT,
        mask=node.LOSS.MASK_WEIGHT,
        stuff_class=node.LOSS.STUFF_CLASS_WEIGHT,
    )
    return Criterion(matcher, weights)


def _inference_options(node: CfgNode) -> InferenceOptions:
    merging = MergeOptions(
        mask_threshold=node.MERGING.MASK_THRESHOLD,
        score_threshold=node.MERGING.SCORE_THRESHOLD,
        thing_overlap_threshold=node.MERGING.THING_OVERLAP_THRESHOLD,
        stuff_overlap_threshold=node.MERGING.STUFF_OVERLAP_THRESHOLD,
        class_exponent=node.MERGING.CLASS_EXPONENT,
        mask_exponent=node.MERGING.MASK_EXPONENT,
    )
    outputs = Outputs(node.TEST.PANOPTIC_ON, node.TEST.INSTANCE_ON, node.TEST.SEMANTIC_ON)
    return InferenceOptions(node.MERGING.NUM_THING_CANDIDATES, merging, outputs)
