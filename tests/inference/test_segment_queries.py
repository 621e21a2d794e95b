from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image
from torch.nn import functional as F

from panoptic_segformer import PanopticPredictor
from panoptic_segformer.inference.queries import check_has_queries

MERGING = "MODEL.PANOPTIC_SEGFORMER.MERGING"
# Models that have learned nothing give segments, too.
TOLERANT = [
    *(f"{MERGING}.SCORE_THRESHOLD", "0.0"),
    *(f"{MERGING}.THING_OVERLAP_THRESHOLD", "0.99"),
    *(f"{MERGING}.STUFF_OVERLAP_THRESHOLD", "0.99"),
    *("MODEL.TIMM.NAME", "tf_efficientnet_lite0"),  # the tests' own backbone finds one segment, and that by one query
]
FORMS = {
    "released": [],
    "joint": ["MODEL.PANOPTIC_SEGFORMER.QUERIES", "joint"],
    "centers": ["MODEL.PANOPTIC_SEGFORMER.LOCATION_DECODER.LOCATION", "center"],
    "no locations": ["MODEL.PANOPTIC_SEGFORMER.LOCATION_DECODER.NUM_LAYERS", "0"],
    "views": ["TEST.AUG.ENABLED", "True"],
}


@pytest.fixture
def make(tiny_config, tmp_path):
    """Function that gives the predictors of a form of the model, with and without queries."""

    def predictors(form):
        cfg = tiny_config(*TOLERANT, *FORMS[form])
        torch.manual_seed(3)
        model = build_model(cfg)
        for name, parameter in model.named_parameters():
            if name.endswith("fuse.bias"):  # Random masks are small: this lifts them to the threshold.
                torch.nn.init.constant_(parameter, 0.5)
        torch.save({"model": model.state_dict()}, tmp_path / "tiny.pth")
        return tuple(PanopticPredictor(cfg, tmp_path / "tiny.pth", with_queries=flag) for flag in (True, False))

    return predictors


@pytest.fixture
def pictures(scenes_root):
    files = sorted((scenes_root / "synthetic_scenes/val/images").iterdir())
    return [np.asarray(Image.open(file)) for file in files]


@pytest.mark.parametrize("form", FORMS)
def test_result_with_queries_is_the_result_without(make, pictures, form):
    with_queries, without = make(form)
    numbers = []
    for shown, plain in zip(with_queries(pictures), without(pictures), strict=True):
        assert np.array_equal(shown.segment_ids, plain.segment_ids)
        assert shown.segments_info == plain.segments_info
        assert plain.queries is None
        assert {query.segment_id for query in shown.queries} == {segment.id for segment in shown.segments}
        numbers.append(len(shown.queries))
    assert max(numbers) > 1


@pytest.mark.parametrize("form", FORMS)
def test_a_segment_lies_inside_the_attention_of_its_queries(make, pictures, form):
    result = make(form)[0](pictures[0])
    size = result.segment_ids.shape
    inside = {segment.id: np.zeros(size, bool) for segment in result.segments}
    for query in result.queries:
        assert query.attention.dtype == np.float32
        assert query.attention.min() >= 0
        large = F.interpolate(torch.from_numpy(query.attention)[None, None], size, mode="bilinear")[0, 0].numpy()
        inside[query.segment_id] |= large > 0.5 - 1e-5
    for segment in result.segments:
        assert inside[segment.id][segment.mask].all()


def test_things_have_a_location_and_stuff_has_none(make, pictures):
    result = make("released")[0](pictures[0])
    things = {segment.id for segment in result.segments if segment.isthing}
    for query in result.queries:
        assert len(query.location) == (4 if query.segment_id in things else 0)
        assert all(0 <= coordinate <= 1 for coordinate in query.location)


def test_centers_are_locations_too(make, pictures):
    lengths = {len(query.location) for query in make("centers")[0](pictures[0]).queries}
    assert lengths <= {0, 2}


def test_drawing_queries_shows_a_panel_for_each(make, pictures):
    with_queries, without = make("released")
    result = with_queries(pictures[0])
    drawing = result.overlay("queries")
    assert drawing.dtype == np.uint8
    assert drawing.shape[2] == 3
    assert (drawing == result.overlay("queries")).all()
    with pytest.raises(ValueError, match="with_queries=True"):
        without(pictures[0]).overlay("queries")


def test_models_without_such_queries_are_refused():
    with pytest.raises(ValueError, match="Linear has no queries to show: choose a config of PanopticSegFormer"):
        check_has_queries(torch.nn.Linear(1, 1))
