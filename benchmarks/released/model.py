"""The whole model in the released arrangement.

Shape legend: D model width, S tokens of all levels, S' of those that masks are made of, T things of the picture.
"""

from __future__ import annotations

import copy

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_segformer import PanopticSegFormer
from panoptic_segformer.inference.candidates import Candidates
from panoptic_segformer.modeling.deformable_attention import DeformableAttention
from panoptic_segformer.modeling.encoder import EncoderLayer
from panoptic_segformer.modeling.frozen_norm import FoldedConv2d
from panoptic_segformer.modeling.levels import FeatureLevels, Size
from panoptic_segformer.modeling.location_decoder import LocationDecoder, LocationOutput
from panoptic_segformer.modeling.mask_attention import NUM_MASK_LEVELS
from panoptic_segformer.modeling.mask_decoder import StuffMaskDecoder, ThingMaskDecoder
from panoptic_segformer.modeling.mlp import FeedForward
from panoptic_segformer.training.criterion import SegmentCounts
from panoptic_segformer.training.losses import classification_loss, dice_losses
from panoptic_segformer.training.targets import PictureTargets, SegmentTargets, resize_masks

from .decoders import EagerLocationDecoder, EagerStuffMaskDecoder, EagerThingMaskDecoder
from .encoder import GridSampleAttention, PlainFeedForward, WholeEncoderLayer
from .merging import merge_at_full_size

__all__ = ["ReleasedArrangement", "as_released"]

# Masks are compared at twice their own resolution.
MASK_TARGET_SCALE = 2


def as_released(model: PanopticSegFormer) -> PanopticSegFormer:
    """Return a copy of a model of ours whose work is arranged as the released code arranges it.

    Results and losses are equal, parameters have the same names. Losses that count nothing (`loss_unused_*`) come on
    top.

    Args:
        model: of the released form: thing queries that the location decoder classifies, and a query per stuff class.

    Raises: ValueError: if the model is of another form, or asked for what the released code can't do.
    """
    if model.thing_mask_decoder is None or model.stuff_mask_decoder is None:
        raise ValueError(
            "the released code has a decoder for thing masks and one for stuff masks; take a model with "
            "MODEL.PANOPTIC_SEGFORMER.QUERIES 'decoupled', SEGMENTS 'all' and layers in its location decoder"
        )
    options = model.inference_options
    if options.num_mask_layers or options.outputs.semantic:
        raise ValueError(
            f"TEST.NUM_MASK_LAYERS is {options.num_mask_layers} and TEST.SEMANTIC_ON {options.outputs.semantic}: the "
            "released code runs all layers and has no semantic result; set them to 0 and False"
        )
    if any("forward" in vars(module) or getattr(module, "grad_checkpointing", False) for module in model.modules()):
        raise ValueError(
            "layers of the model are computed again in the backward pass, which the released code does not do: set "
            "MODEL.PANOPTIC_SEGFORMER.ACTIVATION_CHECKPOINTING to False"
        )
    model = copy.deepcopy(model)
    for module in model.modules():
        module.__class__ = _CLASSES.get(type(module), type(module))
    return model


class ReleasedArrangement(PanopticSegFormer):
    """PanopticSegFormer of one picture at a time, with masks and losses in the released order."""

    def forward(self, batched_inputs: list[dict[str, object]]) -> dict[str, Tensor] | list[dict[str, object]]:
        """Return what PanopticSegFormer returns.

        Raises: ValueError: if there is more than one picture.
        """
        if len(batched_inputs) != 1:
            raise ValueError(
                f"got {len(batched_inputs)} pictures: the released code runs one per process, pass them one by one"
            )
        return super().forward(batched_inputs)

    def extract_levels(self, images: list[Tensor]) -> FeatureLevels:
        """Return the neck's levels of the one normalised image (3, H, W), channels first in memory."""
        features = self.backbone(images[0][None])
        levels = self.neck([features[name] for name in self.in_features])
        return FeatureLevels(levels, [[(level.shape[-2], level.shape[-1]) for level in levels]])

    def collect_candidates(self, memory: Tensor, levels: FeatureLevels, location: LocationOutput) -> list[Candidates]:
        """Return what may become a segment of the one picture, best things first, then stuff."""
        tokens = _mask_tokens(memory, levels)
        probs = location.class_logits[-1][0].sigmoid()
        class_probs, pairs = probs.flatten().topk(min(self.inference_options.num_thing_candidates, probs.numel()))
        queries, labels = pairs // probs.shape[1], pairs % probs.shape[1]
        _, thing_masks = self.thing_mask_decoder(location.queries[:, queries], *tokens)
        stuff_logits, stuff_masks = self.stuff_mask_decoder(*tokens)
        masks = torch.cat([thing_masks[-1][0], stuff_masks[-1][0]])
        candidates = Candidates(
            masks=masks,
            class_probs=torch.cat([class_probs, stuff_logits[-1][0].sigmoid()]),
            category_ids=torch.cat([self.category_ids[labels], self.category_ids[self.categories.num_things :]]),
            is_thing=torch.arange(len(masks), device=masks.device) < len(labels),
            boxes=location.boxes[-1][0, queries],
        )
        return [candidates]

    def merge(self, candidates: Candidates, size: tuple[int, int]) -> dict[str, object]:
        """Return the results of the picture, of size (height, width)."""
        options = self.inference_options
        return merge_at_full_size(candidates, size, options.merging, options.outputs)

    def compute_losses(
        self, memory: Tensor, levels: FeatureLevels, location: LocationOutput, targets: list[PictureTargets]
    ) -> dict[str, Tensor]:
        """Return all losses by name; memory: (1, S, D)."""
        counts = self.segment_counts(targets)
        tokens = _mask_tokens(memory, levels)
        losses, selected = self.criterion.location_losses(location, targets, counts)
        losses |= self._selected_thing_losses(tokens, location, selected[0].queries, targets[0].things, counts)
        return losses | self._present_stuff_losses(tokens, targets[0].stuff, counts)

    def _selected_thing_losses(
        self,
        tokens: tuple[Tensor, list[Size]],
        location: LocationOutput,
        queries: Tensor,
        truth: SegmentTargets,
        counts: SegmentCounts,
    ) -> dict[str, Tensor]:
        """Return the mask losses of the queries (T,) that the location decoder's last match selected."""
        states, masks = self.thing_mask_decoder(location.queries[:, queries], *tokens)
        losses = {}
        heads = zip(self.thing_mask_decoder.unused_class_heads, self.thing_mask_decoder.unused_box_heads, strict=True)
        for block, (state, (class_head, box_head)) in enumerate(zip(states, heads, strict=True)):
            losses[f"loss_unused_{block}"] = (class_head(state).sum() + box_head(state).sigmoid().sum()) * 0
        match = self.criterion.matcher.match_with_masks(
            location.class_logits[-1][0, queries], location.boxes[-1][0, queries], masks[-1][0], truth
        )
        scale = self.criterion.weights.mask * counts.thing_share / counts.things
        return losses | _dice("thing", [mask[0, match.queries] for mask in masks], truth.masks[match.targets], scale)

    def _present_stuff_losses(
        self, tokens: tuple[Tensor, list[Size]], truth: SegmentTargets, counts: SegmentCounts
    ) -> dict[str, Tensor]:
        """Return the presence losses of all stuff classes and the mask losses of those in the picture."""
        logits, masks = self.stuff_mask_decoder(*tokens)
        present = torch.zeros_like(logits[0][0])
        present[truth.classes] = 1
        weights, scale = self.criterion.weights, counts.stuff_share / counts.stuff
        losses = {
            f"loss_class_stuff_{block}": classification_loss(own[0], present) * (weights.stuff_class * scale)
            for block, own in enumerate(logits)
        }
        return losses | _dice("stuff", [mask[0, truth.classes] for mask in masks], truth.masks, weights.mask * scale)


def _mask_tokens(memory: Tensor, levels: FeatureLevels) -> tuple[Tensor, list[Size]]:
    """Return the tokens (1, S', D) of the one picture that masks are made of, and the sizes of their levels."""
    sizes = levels.shapes[:NUM_MASK_LEVELS]
    return memory[:, : sum(height * width for height, width in sizes)], sizes


def _dice(kind: str, masks: list[Tensor], truth: Tensor, scale: float) -> dict[str, Tensor]:
    """Return the dice losses of every layer's masks (T, H1, W1) against bool masks (T, H, W), by name."""
    size = tuple(MASK_TARGET_SCALE * side for side in masks[0].shape[-2:])
    truth = resize_masks(truth, size, masks[0].dtype)
    losses = {}
    for number, mask in enumerate(masks, start=1):
        if len(mask):
            mask = F.interpolate(mask[None], size, mode="bilinear", align_corners=False)[0]
        name = "final" if number == len(masks) else number - 1
        losses[f"loss_mask_{kind}_{name}"] = (dice_losses(mask, truth) if len(mask) else mask).sum() * scale
    return losses


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    PanopticSegFormer: ReleasedArrangement,
    FoldedConv2d: Conv2d,
    EncoderLayer: WholeEncoderLayer,
    FeedForward: PlainFeedForward,
    DeformableAttention: GridSampleAttention,
    LocationDecoder: EagerLocationDecoder,
    ThingMaskDecoder: EagerThingMaskDecoder,
    StuffMaskDecoder: EagerStuffMaskDecoder,
}
