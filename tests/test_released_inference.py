"""Our inference against numbers that were read out of the released code while it ran."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F
from torchvision.ops import box_convert

from golden import CASES, Golden
from golden_tolerance import is_close
from panoptic_segformer.inference.merging import score_candidates
from panoptic_segformer.inference.outputs import instance_result, panoptic_result
from panoptic_segformer.modeling.levels import FeatureLevels
from panoptic_segformer.modeling.mask_attention import NUM_MASK_LEVELS
from panoptic_segformer.modeling.position_encoding import sine_position_encoding
from panoptic_segformer.ops import mask_statistics

RUNS = ["eval1", "evalodd"]


@pytest.fixture(scope="module", params=CASES)
def golden(request, shared_dir) -> Golden:
    return Golden(shared_dir / "golden", request.param)


@pytest.fixture(scope="module")
def model(golden, tmp_path_factory, monkeypatch_module):
    """Our model with the golden weights, loaded as a user loads a released file."""
    folder = tmp_path_factory.mktemp("golden")
    monkeypatch_module.setenv("FVCORE_CACHE", str(folder / "cache"))
    model = golden.build_model()
    DetectionCheckpointer(model).load(f"psf://{golden.save_checkpoint(folder / 'released.pth')}")
    return model


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


class Recorder:
    """Collects every intermediate of one picture under the name that the golden file gives it."""

    def __init__(self, model) -> None:
        self.model = model
        self.found: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def record(self, image: torch.Tensor, size: tuple[int, int]) -> dict[str, torch.Tensor]:
        model, found = self.model, self.found
        (normalized,) = model.preprocess([{"image": image}])
        found["in.img_norm"] = normalized[None]
        features = model.backbone(normalized[None])
        found.update({f"bb.{index}": features[name] for index, name in enumerate(model.in_features)})
        levels = model.extract_levels([normalized])
        self.record_levels(levels)
        hooks = [
            layer.register_forward_hook(lambda _, __, out, i=i: found.__setitem__(f"enc.{i}", out))
            for i, layer in enumerate(model.encoder.layers)
        ]
        memory = found["tr.memory"] = model.encoder(levels)
        location = self.record_location(memory, levels)
        for hook in hooks:
            hook.remove()
        self.record_masks(memory, levels, location)
        self.record_results(memory, levels, location, size)
        return found

    def record_levels(self, levels: FeatureLevels) -> None:
        found = self.found
        encodings = sine_position_encoding(levels)
        padding = levels.padding
        found["tr.mask_flatten"] = torch.zeros(1, sum(h * w for h, w in levels.shapes)) if padding is None else padding
        start = 0
        for index, (level, encoding) in enumerate(zip(levels.maps, encodings, strict=True)):
            found[f"neck.{index}"], found[f"pos.{index}"] = level, encoding
            height, width = levels.shapes[index]
            mask = found["tr.mask_flatten"][:, start : start + height * width]
            found[f"mask.{index}"] = mask.view(-1, height, width)
            start += height * width
        embedding = self.model.encoder.level_embedding
        parts = [(e + b[:, None, None]).flatten(2) for e, b in zip(encodings, embedding, strict=True)]
        found["tr.lvl_pos"] = torch.cat(parts, 2).transpose(1, 2)
        found["tr.spatial_shapes"] = torch.tensor(levels.shapes)
        found["tr.valid_ratios"] = levels.valid_ratios
        found["tr.enc_reference_points"] = levels.reference_points()[:, :, None] * levels.valid_ratios[:, None]

    def record_location(self, memory, levels):
        found, decoder = self.found, self.model.location_decoder
        states = []
        hooks = [layer.register_forward_hook(lambda _, __, out: states.append(out)) for layer in decoder.layers]
        decoder.train()  # for classes and boxes of every layer; the golden model has no dropout
        location = decoder(memory, levels)
        decoder.eval()
        for hook in hooks:
            hook.remove()
        position = decoder.query_embedding.weight.chunk(2, dim=-1)[0]
        found["tr.query_pos"] = position[None].expand(len(memory), -1, -1)
        found["tr.init_reference"] = decoder.reference_points(found["tr.query_pos"]).sigmoid()
        found["tr.hs"] = torch.stack(states)
        found["tr.inter_references"] = found["head.box"] = torch.stack(location.boxes)
        found["head.cls"] = torch.stack(location.class_logits)
        reference = location.boxes[-2]
        found["head.last_reference_logit"] = torch.log(reference / (1 - reference))
        return location

    def record_masks(self, memory, levels, location) -> None:
        tokens = levels.picture_tokens(memory, [0], NUM_MASK_LEVELS)
        sizes = levels.sizes[0][:NUM_MASK_LEVELS]
        probs = location.class_logits[-1][0].sigmoid().flatten()
        self.found["pp0.topk_score"], pairs = probs.topk(100)
        self.found["pp0.topk_label"], self.found["pp0.topk_query_index"] = pairs % 80, pairs // 80
        queries = location.queries[0, pairs // 80][None]
        for prefix, decoder, arguments in (
            ("th0", self.model.thing_mask_decoder, (queries, tokens, sizes)),
            ("st0", self.model.stuff_mask_decoder, (tokens, sizes)),
        ):
            parts = [*(block.cross_attention for block in decoder.blocks), decoder.final_attention]
            names = [*map(str, range(len(decoder.blocks))), "final"]
            hooks = [
                part.fusion.register_forward_hook(
                    lambda fusion, args, out, p=prefix, n=name: self.record_fusion(p, n, fusion, args, out)
                )
                for name, part in zip(names, parts, strict=True)
            ]
            hooks += [
                block.cross_attention.proj.register_forward_hook(
                    lambda _, __, out, p=prefix, n=name: self.found.__setitem__(f"{p}.attn_out.{n}", out)
                )
                for name, block in zip(names, decoder.blocks, strict=False)
            ]
            hooks += [
                block.register_forward_hook(
                    lambda _, __, out, p=prefix, n=name: self.found.__setitem__(f"{p}.query.{n}", out[0])
                )
                for name, block in zip(names, decoder.blocks, strict=False)
            ]
            decoder.train()
            decoded = decoder(*arguments)
            for attention in decoded if prefix == "th0" else decoded[1]:
                attention.fusion(attention.q, attention.k, attention.sizes)  # all queries at once, for the hook
            decoder.eval()
            for hook in hooks:
                hook.remove()

    def record_fusion(self, prefix, name, fusion, arguments, masks) -> None:
        q, k, sizes = arguments
        logits = (q @ k.transpose(-1, -2)).split([height * width for height, width in sizes], -1)
        parts = []
        for index, (level, mixer, size) in enumerate(zip(logits, fusion.head_mixers, sizes, strict=True), start=1):
            heads_last = level.permute(0, 2, 3, 1)
            self.found[f"{prefix}.attn_logit_l{index}.{name}"] = heads_last[:, :4]
            mixed = F.relu(mixer(heads_last)).permute(0, 1, 3, 2)
            mixed = mixed.flatten(0, 1).unflatten(-1, size)
            parts.append(F.interpolate(mixed, sizes[0], mode="bilinear", align_corners=False).flatten(2))
        fused = torch.cat(parts, dim=1).transpose(1, 2)[None]
        self.found[f"{prefix}.fused24.{name}"] = fused[:, :4]
        self.found[f"{prefix}.mask_logit.{name}"] = fusion.fuse(fused)[..., 0]
        self.found[f"{prefix}.mask.{name}"] = masks.flatten(2)

    def record_results(self, memory, levels, location, size) -> None:
        model, found = self.model, self.found
        options = model.inference_options.merging
        (candidates,) = model.collect_candidates(memory, levels, location)
        areas, sums = mask_statistics(candidates.masks, size, options.mask_threshold)
        found["pp0.mask_lowres"] = candidates.masks
        found["pp0.stuff_score"] = candidates.class_probs[100:]
        found["pp0.seg_scores"] = sums / (areas + 1)
        scores = score_candidates(candidates.class_probs, candidates.masks, size, options)
        order = scores.argsort(descending=True)
        found["pp0.sort_index"], found["pp0.scores_sorted"] = order, scores[order]
        found["pp0.labels_sorted"] = candidates.category_ids[order]
        found["pp0.mask_area_sorted"] = areas[order]
        upsampled = F.interpolate(candidates.masks[None], size, mode="bilinear", align_corners=False)[0]
        found["pp0.mask_up_sorted_first"] = upsampled[order[:3]]
        found["pp0.mask_up_mean_sorted"] = upsampled.double().mean((1, 2))[order]
        scale = torch.tensor([size[1], size[0]] * 2)
        boxes = (box_convert(candidates.boxes, "cxcywh", "xyxy").clamp(0, 1) * scale).to(scores)
        found["pp0.det_bboxes"] = torch.cat([boxes, candidates.class_probs[:100, None]], 1)
        instances = instance_result(candidates, scores, size, options.mask_threshold)
        found["pp0.inst_bbox"] = torch.cat([instances.pred_boxes.tensor, instances.scores[:, None]], 1)
        found["pp0.inst_label"] = instances.pred_classes
        found["pp0.inst_area"] = instances.pred_masks.sum((1, 2))
        found["panoptic"] = panoptic_result(candidates, scores, size, options)


def original_size(golden: Golden, run: str) -> tuple[int, int]:
    return tuple(golden.json["evals"][run]["metas"][0]["ori_shape"][:2])


@pytest.fixture(scope="module", params=RUNS)
def recorded(request, golden, model):
    run = request.param
    return run, Recorder(model).record(golden.image(run), original_size(golden, run))


def in_golden_order(golden, run, found) -> None:
    """Put our instances in the golden order; those of equal score have none of their own."""
    names = ("pp0.inst_bbox", "pp0.inst_label", "pp0.inst_area")
    ours = torch.cat([found[name].double().view(100, -1) for name in names], 1)
    theirs = torch.cat([golden[f"{run}/{name}"].double().view(100, -1) for name in names], 1)
    _, order = linear_sum_assignment(torch.cdist(theirs, ours))
    found.update({name: found[name][order] for name in names})


def test_every_golden_intermediate_is_equal(golden, recorded):
    run, found = recorded
    in_golden_order(golden, run, found)
    names = [name.removeprefix(f"{run}/") for name in golden.arrays.files if name.startswith(f"{run}/")]
    names = [name for name in names if name not in ("in.img_u8_0", "pp0.panoptic")]
    assert len(names) > 90
    failures = []
    for name in names:
        if not is_close(golden, run, found, name):
            expected = golden[f"{run}/{name}"]
            difference = (found[name].reshape(expected.shape).double() - expected.double()).abs().max().item()
            failures.append(f"{name}: largest difference {difference:.3g}")
    assert not failures


def paint(golden: Golden, run: str, found) -> torch.Tensor:
    """Our segments in the released form: dataset category and instance number per pixel, (H, W, 2) int32."""
    segment_ids, segments_info = found["panoptic"]
    truths = golden.json["evals"][run]["images"][0]["segments_info"]
    painted = torch.zeros(*segment_ids.shape, 2, dtype=torch.int32)
    for segment, truth in zip(segments_info, truths, strict=True):
        names = [truth["category_id"], truth["instance_id"]]
        painted[segment_ids == segment["id"]] = torch.tensor(names, dtype=torch.int32)
    return painted


def test_panoptic_map_is_equal(golden, recorded):
    run, found = recorded
    segments_info = found["panoptic"][1]
    expected = golden.json["evals"][run]["images"][0]["segments_info"]
    assert [segment["category_id"] for segment in segments_info] == [segment["label"] for segment in expected]
    assert [segment["isthing"] for segment in segments_info] == [segment["isthing"] for segment in expected]
    scores = [segment["score"] for segment in segments_info]
    assert np.allclose(scores, [segment["score"] for segment in expected], rtol=3e-4)
    assert (paint(golden, run, found) == golden[f"{run}/pp0.panoptic"]).all(-1).float().mean() >= 0.999


@pytest.mark.parametrize("golden", ["small"], indirect=True)  # the one case with double precision
@pytest.mark.parametrize("run", RUNS)
def test_double_precision_is_equal_to_rounding(golden, model, run, monkeypatch):
    double = copy.deepcopy(model).double()
    # The released preprocessing is float32; its result is what both double runs start from.
    monkeypatch.setattr(double, "preprocess", lambda _: [golden[f"{run}/in.img_norm"][0].double()])
    found = Recorder(double).record(golden.image(run), original_size(golden, run))
    prefix = f"{run}/f64/"
    names = [n.removeprefix(prefix) for n in golden.arrays_float64.files if n.startswith(prefix)]
    names.remove("pp0.panoptic")
    assert len(names) > 25
    for name in names:
        expected = torch.from_numpy(golden.arrays_float64[prefix + name])
        actual = found[name].reshape(expected.shape)
        assert actual.dtype == torch.float64, name
        # The released code takes boxes in pixels through float32.
        tolerance = 1e-7 if "bbox" in name else 1e-9
        assert (actual - expected).abs().max() <= tolerance * max(1.0, expected.abs().max()), name
    assert torch.equal(paint(golden, run, found), torch.from_numpy(golden.arrays_float64[f"{prefix}pp0.panoptic"]))
