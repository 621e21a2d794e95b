"""All evaluators together, on one process and on two."""

from __future__ import annotations

import json
import multiprocessing
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
from detectron2.evaluation import DatasetEvaluators
from detectron2.utils import comm

from panoptic_segformer.evaluation import build_evaluators


def test_build_evaluators_gives_all_results(cfg: CfgNode, predictions, evaluate) -> None:
    evaluators = build_evaluators(cfg, "scenes")
    assert isinstance(evaluators, DatasetEvaluators)
    results = evaluate(evaluators, predictions)
    assert results["panoptic_seg"]["PQ"] == 100
    assert results["segm"]["AP"] == pytest.approx(100)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["sem_seg"]["mIoU"] == pytest.approx(100)
    assert (Path(cfg.OUTPUT_DIR) / "inference" / "scenes" / "coco_instances_results.json").is_file()


def test_build_evaluators_leaves_precision_out_without_things(cfg, register_folder, scene_folder, tmp_path) -> None:
    content = json.loads((scene_folder / "panoptic.json").read_text())
    for category in content["categories"]:
        category["isthing"] = 0
    folder = tmp_path / "stuff"
    folder.mkdir()
    for name in ("images", "panoptic_png"):
        (folder / name).symlink_to(scene_folder / name)
    (folder / "panoptic.json").write_text(json.dumps(content))
    register_folder("stuff", folder)
    assert len(build_evaluators(cfg, "stuff", str(tmp_path))._evaluators) == 2


def test_build_evaluators_refuses_a_dataset_without_panoptic_truth(cfg: CfgNode) -> None:
    with pytest.raises(ValueError, match="dataset 'coco_2017_val' has no panoptic truth"):
        build_evaluators(cfg, "coco_2017_val")


def test_build_evaluators_names_a_damaged_png(register_folder, scene_folder, tmp_path) -> None:
    folder = tmp_path / "damaged"
    (folder / "panoptic_png").mkdir(parents=True)
    (folder / "images").symlink_to(scene_folder / "images")
    (folder / "panoptic.json").write_bytes((scene_folder / "panoptic.json").read_bytes())
    for png in (scene_folder / "panoptic_png").iterdir():
        (folder / "panoptic_png" / png.name).write_bytes(png.read_bytes()[:60])
    cfg = register_folder("damaged", folder)
    with pytest.raises(ValueError, match=r"000001\.png cannot be read"):
        build_evaluators(cfg, "damaged", str(tmp_path))


def test_build_evaluators_refuses_a_config_without_panoptic_results(cfg: CfgNode) -> None:
    cfg.MODEL.PANOPTIC_SEGFORMER.TEST.PANOPTIC_ON = False
    with pytest.raises(ValueError, match=r"MODEL\.PANOPTIC_SEGFORMER\.TEST\.PANOPTIC_ON is False"):
        build_evaluators(cfg, "scenes")


@pytest.mark.parametrize(
    ("segments", "off", "kinds"),
    [("things", "PANOPTIC_ON", ["ThingPrecisionEvaluator"]), ("stuff", "INSTANCE_ON", ["SemanticEvaluator"])],
)
def test_models_of_one_kind_are_evaluated_by_its_measure(cfg: CfgNode, segments, off, kinds) -> None:
    node = cfg.MODEL.PANOPTIC_SEGFORMER
    node.SEGMENTS, node.TEST[off] = segments, False
    assert [type(evaluator).__name__ for evaluator in build_evaluators(cfg, "scenes")._evaluators] == kinds


def test_build_evaluators_refuses_things_without_instances(cfg: CfgNode) -> None:
    node = cfg.MODEL.PANOPTIC_SEGFORMER
    node.SEGMENTS, node.TEST.INSTANCE_ON = "things", False
    with pytest.raises(ValueError, match=r"TEST\.INSTANCE_ON is False, but the evaluation is of instances"):
        build_evaluators(cfg, "scenes")


def test_build_evaluators_needs_no_keys_of_this_model(cfg: CfgNode) -> None:
    del cfg.MODEL["PANOPTIC_SEGFORMER"]
    assert len(build_evaluators(cfg, "scenes")._evaluators) == 3


@pytest.mark.parametrize("form", ["standard", "separated"])
def test_ids_of_detectron2s_forms_are_understood(shared_dir, perfect, evaluate, register_folder, form: str) -> None:
    folder = shared_dir / "data" / "coco_tiny_free"
    cfg = register_folder("tiny", folder)
    metadata = _get_builtin_metadata(f"coco_panoptic_{form}")
    predictions = perfect("tiny")
    for _, output in predictions:
        for segment in output["panoptic_seg"][1]:
            if form == "separated" and not segment["isthing"]:
                segment["category_id"] -= 79
    DatasetCatalog.register("builtin", list)
    MetadataCatalog.get("builtin").set(
        panoptic_json=str(folder / "panoptic.json"), panoptic_root=str(folder / "panoptic_png"), **metadata
    )
    results = evaluate(build_evaluators(cfg, "builtin"), predictions)
    assert results["panoptic_seg"]["PQ"] == 100
    assert results["segm"]["AP"] == pytest.approx(100)
    assert results["sem_seg"]["mIoU"] == pytest.approx(100)


def _evaluate_on_rank(rank: int, port: int, cfg: CfgNode, predictions: list, output_dir: str, queue: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    comm.create_local_process_group(2)
    evaluators = build_evaluators(cfg, "scenes", output_dir)
    evaluators.reset()
    for picture, output in predictions[rank::2]:
        evaluators.process([picture], [output])
    queue.put((rank, evaluators.evaluate()))
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_results_of_one(cfg: CfgNode, predictions, evaluate, perturb, tmp_path: Path) -> None:
    perturbed = perturb(predictions, 3)
    expected = evaluate(build_evaluators(cfg, "scenes", str(tmp_path / "one")), perturbed)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    arguments = (port, cfg, perturbed, str(tmp_path / "two"), queue)
    processes = [context.Process(target=_evaluate_on_rank, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    results = dict(queue.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert not results[1]
    assert set(results[0]) == {"panoptic_seg", "segm", "bbox", "sem_seg"}
    for task, values in expected.items():
        assert results[0][task] == pytest.approx(values, nan_ok=True)
