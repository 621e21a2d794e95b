"""Qualities against panopticapi's own command, brute force and COCO's own evaluation."""

from __future__ import annotations

import contextlib
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from comparison_fakes import SIZE, write_dataset
from panopticapi.evaluation import pq_compute
from panopticapi.utils import id2rgb
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from panoptic_segformer.comparison.qualities import measure_qualities, panoptic_qualities
from panoptic_segformer.comparison.results import Picture, Prediction
from panoptic_segformer.evaluation.truth import PanopticTruth

THINGS, STUFF = (3, 4), (7, 8, 11)
CATEGORIES = [{"id": id_, "name": f"class {id_}", "isthing": int(id_ in THINGS)} for id_ in (*THINGS, *STUFF)]
NUM_PICTURES = 3


def random_scene(generator):
    """Return ids (H, W) with void and records: a few rectangles over each other, stuff classes at most once."""
    ids = np.zeros(SIZE, dtype=np.int32)
    classes = [*STUFF[: generator.integers(1, 4)], *generator.choice(THINGS, generator.integers(1, 5)).tolist()]
    for number, _ in enumerate(classes, 1):
        top, left = generator.integers(0, SIZE[0] - 4), generator.integers(0, SIZE[1] - 4)
        ids[top : top + generator.integers(4, SIZE[0]), left : left + generator.integers(4, SIZE[1])] = number
    segments = [
        {"id": number, "category_id": class_, "isthing": class_ in THINGS, "area": int((ids == number).sum())}
        for number, class_ in enumerate(classes, 1)
        if (ids == number).any()
    ]
    return ids, segments


def perturbed(generator, ids, segments):
    """Return the scene moved by some pixels, with one class changed."""
    ids = np.roll(ids, generator.integers(-3, 4, 2), (0, 1))
    segments = [dict(segment) for segment in segments]
    changed = segments[generator.integers(len(segments))]
    changed["category_id"] = int(generator.choice([c for c in THINGS if c != changed["category_id"]]))
    changed["isthing"] = True
    return Prediction(ids, [{**segment, "score": 0.5} for segment in segments])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Truth, pictures and predictions by the picture's name; the json's areas are wrong on purpose."""
    folder = tmp_path_factory.mktemp("scenes")
    generator = np.random.default_rng(5)
    annotations, predictions = [], {}
    for number in range(NUM_PICTURES):
        ids, segments = random_scene(generator)
        Image.fromarray(id2rgb(ids)).save(folder / f"{number}.png")
        records = [
            {"id": s["id"], "category_id": s["category_id"], "area": 1, "iscrowd": int(number == 1 and s["id"] == 4)}
            for s in segments
        ]
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": records})
        predictions[f"picture {number}"] = perturbed(generator, ids, segments)
    images = [{"id": n, "file_name": f"{n}.jpg", "height": SIZE[0], "width": SIZE[1]} for n in range(NUM_PICTURES)]
    path = folder / "panoptic.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    pictures = [Picture(folder / f"{n}.jpg", f"picture {n}", n) for n in range(NUM_PICTURES)]
    return PanopticTruth.of_files(path, folder), pictures, predictions


def brute_force(truth, pictures, predictions):
    """Return {class: [sum of overlaps, found, false, missed]} by masks of single segments."""
    counts = {category["id"]: np.zeros(4) for category in CATEGORIES}
    for picture in pictures:
        true_ids, prediction = truth.segment_ids(picture.image_id), predictions[picture.name]
        records = truth.annotations[picture.image_id]["segments_info"]
        own_masks = {s["id"]: (s["category_id"], prediction.segment_ids == s["id"]) for s in prediction.segments}
        true_masks = {s["id"]: (s["category_id"], true_ids == s["id"]) for s in records if not s["iscrowd"]}
        crowds = [(s["category_id"], true_ids == s["id"]) for s in records if s["iscrowd"]]
        matched = set()
        for class_, mask in true_masks.values():
            hits = {
                id_: (mask & own).sum() / (mask | (own & (true_ids > 0))).sum()
                for id_, (own_class, own) in own_masks.items()
                if own_class == class_
            }
            hits = {id_: overlap for id_, overlap in hits.items() if overlap > 0.5}
            matched |= hits.keys()
            counts[class_] += [sum(hits.values()), len(hits), 0, not hits]
        for id_, (class_, own) in own_masks.items():
            ignored = np.any([true_ids == 0, *(mask for crowd, mask in crowds if crowd == class_)], axis=0)
            counts[class_][2] += id_ not in matched and (own & ignored).sum() <= own.sum() / 2
    return counts


def mean_quality(counts, classes):
    qualities = [
        100 * total / (found + false / 2 + missed / 2)
        for class_, (total, found, false, missed) in counts.items()
        if class_ in classes and found + false + missed
    ]
    return (np.mean(qualities), len(qualities)) if qualities else (math.nan, 0)


def test_panoptic_quality_by_brute_force(scenes):
    truth, pictures, predictions = scenes
    measured = panoptic_qualities(truth, pictures, lambda picture: predictions[picture.name])
    counts = brute_force(truth, pictures, predictions)
    for ending, classes in (("", (*THINGS, *STUFF)), ("_th", THINGS), ("_st", STUFF)):
        assert measured.all[f"PQ{ending}"] == pytest.approx(mean_quality(counts, classes)[0])
    assert 5 < measured.all["PQ"] < 95
    for picture in pictures:
        alone = mean_quality(brute_force(truth, [picture], predictions), (*THINGS, *STUFF))[0]
        assert measured.pictures[picture.name] == pytest.approx(alone)
    assert len(set(measured.pictures.values())) == NUM_PICTURES


def test_quality_of_all_is_the_mean_of_things_and_stuff_by_their_classes(scenes):
    truth, pictures, predictions = scenes
    measured = panoptic_qualities(truth, pictures, lambda picture: predictions[picture.name]).all
    counts = brute_force(truth, pictures, predictions)
    num_things, num_stuff = (mean_quality(counts, classes)[1] for classes in (THINGS, STUFF))
    assert num_things > 0
    assert num_stuff > 0
    for name in ("PQ", "SQ", "RQ"):
        weighted = num_things * measured[f"{name}_th"] + num_stuff * measured[f"{name}_st"]
        assert measured[name] == pytest.approx(weighted / (num_things + num_stuff))


def test_panoptic_quality_as_panopticapi_s_command(scenes, tmp_path):
    truth, pictures, predictions = scenes
    content = json.loads(truth.json_path.read_text())
    for annotation in content["annotations"]:
        areas = truth.segment_areas(annotation["image_id"])
        for segment in annotation["segments_info"]:
            segment["area"] = areas[segment["id"]]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    predicted = []
    for picture in pictures:
        prediction = predictions[picture.name]
        Image.fromarray(id2rgb(prediction.segment_ids)).save(tmp_path / f"{picture.image_id}.png")
        entry = {"image_id": picture.image_id, "file_name": f"{picture.image_id}.png"}
        predicted.append({**entry, "segments_info": prediction.segments})
    (tmp_path / "predicted.json").write_text(json.dumps({"annotations": predicted}))
    files = [str(tmp_path / name) for name in ("truth.json", "predicted.json")]
    with contextlib.redirect_stdout(io.StringIO()):
        expected = pq_compute(*files, str(truth.png_root), str(tmp_path))
    measured = panoptic_qualities(truth, pictures, lambda picture: predictions[picture.name]).all
    for group, ending in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
        for name in ("pq", "sq", "rq"):
            assert measured[f"{name.upper()}{ending}"] == pytest.approx(100 * expected[group][name])


def test_perfect_predictions_reach_100_whatever_areas_the_json_has(scenes):
    truth, pictures, _ = scenes
    truth = replace(truth, annotations={0: truth.annotations[0]}, images={0: truth.images[0]})
    segments = [{**s, "isthing": s["category_id"] in THINGS} for s in truth.annotations[0]["segments_info"]]
    perfect = Prediction(truth.segment_ids(0), segments)
    qualities, by_picture = measure_qualities(truth, pictures[:1], lambda picture: perfect)
    assert qualities["PQ"] == qualities["SQ"] == qualities["mIoU"] == qualities["mIoU_st"] == 100
    assert by_picture == {"picture 0": 100}
    assert "AP" not in qualities


def test_semantic_quality_by_brute_force(scenes):
    truth, pictures, predictions = scenes
    qualities, _ = measure_qualities(truth, pictures, lambda picture: predictions[picture.name])
    overlaps = {}
    for class_ in (*THINGS, *STUFF):
        both = either = there = 0
        for picture in pictures:
            ids, prediction = truth.segment_ids(picture.image_id), predictions[picture.name]
            records = truth.annotations[picture.image_id]["segments_info"]
            true = np.isin(ids, [s["id"] for s in records if s["category_id"] == class_])
            own = np.isin(prediction.segment_ids, [s["id"] for s in prediction.segments if s["category_id"] == class_])
            own &= ids > 0
            both, either, there = both + (true & own).sum(), either + (true | own).sum(), there + true.sum()
        if there:
            overlaps[class_] = 100 * both / either
    assert qualities["mIoU"] == pytest.approx(np.mean(list(overlaps.values())))
    assert qualities["mIoU_st"] == pytest.approx(np.mean([overlaps[c] for c in STUFF if c in overlaps]))


def as_instances(prediction, generator):
    """Return the things of a prediction as instances with random scores, and boxes that are too wide by a pixel."""
    records = []
    for segment in prediction.segments:
        if segment["isthing"]:
            mask = rle.encode(np.asfortranarray(prediction.segment_ids == segment["id"], dtype=np.uint8))
            x, y, width, height = rle.toBbox(mask).tolist()
            records.append(
                {
                    "category_id": segment["category_id"],
                    "score": float(generator.random()),
                    "segmentation": {"size": list(SIZE), "counts": mask["counts"].decode("ascii")},
                    "bbox": [x, y, width + 1, height],
                }
            )
    return records


@pytest.mark.parametrize(("column", "kind", "form"), [("AP", "segm", "segmentation"), ("AP_box", "bbox", "bbox")])
def test_average_precision_as_coco_s_evaluation(scenes, tmp_path, column, kind, form):
    truth, pictures, predictions = scenes
    generator = np.random.default_rng(0)
    with_instances = {
        name: replace(prediction, instances=as_instances(prediction, generator))
        for name, prediction in predictions.items()
    }
    qualities, _ = measure_qualities(truth, pictures, lambda picture: with_instances[picture.name])

    annotations, results = [], []
    for picture in pictures:
        ids = truth.segment_ids(picture.image_id)
        for segment in truth.annotations[picture.image_id]["segments_info"]:
            if segment["category_id"] in THINGS:
                mask = rle.encode(np.asfortranarray(ids == segment["id"], dtype=np.uint8))
                annotations.append(
                    {
                        **segment,
                        "id": len(annotations) + 1,
                        "image_id": picture.image_id,
                        "segmentation": mask,
                        "bbox": rle.toBbox(mask).tolist(),
                        "area": int(rle.area(mask)),
                    }
                )
        for record in with_instances[picture.name].instances:
            common = {key: record[key] for key in ("category_id", "score", form)}
            results.append({**common, "image_id": picture.image_id})
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": list(truth.images.values()),
        "annotations": annotations,
        "categories": truth.things,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert qualities[column] == pytest.approx(100 * evaluation.stats[0])
    assert 0 < qualities[column] < 100


def test_no_instance_anywhere_is_an_ap_of_0_and_no_instances_at_all_none(scenes):
    truth, pictures, predictions = scenes
    empty = {name: replace(prediction, instances=[]) for name, prediction in predictions.items()}
    qualities, _ = measure_qualities(truth, pictures, lambda picture: empty[picture.name])
    assert qualities["AP"] == qualities["AP_box"] == 0
    assert "AP" not in measure_qualities(truth, pictures, lambda picture: predictions[picture.name])[0]


def test_classes_that_the_truth_lacks_are_wrong(scenes):
    """They cost what void in their place costs, and add no class to the average."""
    truth, pictures, predictions = scenes

    def with_class(class_):
        changed = {}
        for name, prediction in predictions.items():
            first, *others = prediction.segments
            if class_ is None:
                ids = np.where(prediction.segment_ids == first["id"], 0, prediction.segment_ids)
                changed[name] = Prediction(ids, others)
            else:
                changed[name] = Prediction(prediction.segment_ids, [{**first, "category_id": class_}, *others])
        return measure_qualities(truth, pictures, lambda picture: changed[picture.name])

    assert with_class(999) == with_class(None)
    assert with_class(999)[0]["mIoU"] < measure_qualities(truth, pictures, lambda p: predictions[p.name])[0]["mIoU"]


def test_stuff_alone_has_no_precision_and_no_quality_of_things(tmp_path):
    stuff = [{"id": id_, "name": f"class {id_}", "isthing": 0} for id_ in (1, 187, 193)]
    paths = write_dataset(tmp_path, (0,), stuff)
    truth = PanopticTruth.of_files(paths["panoptic_json"], paths["panoptic_png"])
    segments = [{**segment, "isthing": False} for segment in truth.annotations[0]["segments_info"]]
    prediction = Prediction(truth.segment_ids(0), segments, [])
    qualities, _ = measure_qualities(truth, [Picture(tmp_path, "scene0", 0)], lambda picture: prediction)
    assert qualities["PQ"] == qualities["PQ_st"] == 100
    assert math.isnan(qualities["PQ_th"])
    assert "AP" not in qualities
