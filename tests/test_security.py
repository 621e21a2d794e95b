"""What comes from elsewhere does nothing but be read: checkpoints, yaml, files from the web.

Names in files: test_security_of_names.py; our own code: test_security_of_code.py.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.utils.file_io import PathManager
from torch import nn

from panoptic_segformer import load_config
from panoptic_segformer.analysis.published import load_published_results
from panoptic_segformer.checkpoint.backbone import load_timm_weights
from panoptic_segformer.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_segformer.checkpoint.download import local_copy
from panoptic_segformer.checkpoint.model_zoo import MODEL_ZOO
from panoptic_segformer.checkpoint.pickles import read_pickle
from panoptic_segformer.cli import main
from panoptic_segformer.comparison.blueprint import read_blueprint
from panoptic_segformer.comparison.spec import ModelSpec, read_spec
from panoptic_segformer.comparison.weights import load_weights
from panoptic_segformer.data.reading import read_json
from tiny import tiny_overrides

LITE = "synthetic/panoptic_segformer_lite0.yaml"


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "code_ran"


def pickled(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content))


def old_torch(path: Path, content: object) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def new_torch(path: Path, content: object) -> None:
    torch.save(content, path)


FORMS = {
    "zip.pth": new_torch,
    "old.pth": old_torch,
    "pickle.pth": pickled,
    "zoo.pkl": pickled,
    "torch.pkl": new_torch,
    "pycls.pyth": new_torch,
    "tensors.safetensors": pickled,
    "no_ending": new_torch,
}


@pytest.fixture(params=FORMS)
def malicious(request, tmp_path, marker) -> Path:
    """A file that makes the marker when it is read carelessly."""
    path = tmp_path / request.param
    content = Malicious(marker)
    FORMS[request.param](path, {"model": content, "state_dict": content, "model_state": content, "__author__": content})
    return path


def careless(path: Path) -> None:
    """Read a checkpoint as one should not."""
    try:
        torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    except (RuntimeError, pickle.UnpicklingError):
        pickle.loads(path.read_bytes())


READERS = {
    "training": lambda path: PanopticCheckpointer(nn.Linear(1, 1)).load(str(path)),
    "address": lambda path: PathManager.get_local_path(f"psf://{path}"),
    "backbone": lambda path: load_timm_weights(nn.Linear(1, 1), str(path)),
    "comparison": lambda path: load_weights(nn.Linear(1, 1), path),
}


@pytest.mark.filterwarnings("ignore:.*TypedStorage:UserWarning")
def test_files_are_malicious(malicious, marker):
    careless(malicious)
    assert marker.exists()


@pytest.mark.parametrize("reader", READERS)
def test_checkpoint_runs_no_code(malicious, marker, reader, tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=f"{malicious.name} .*can't be read"):
        READERS[reader](malicious)
    assert not marker.exists()


def test_resumed_checkpoint_runs_no_code(malicious, marker, tmp_path):
    (tmp_path / "last_checkpoint").write_text(malicious.name)
    with pytest.raises(ValueError, match=f"{malicious.name} .*can't be read"):
        PanopticCheckpointer(nn.Linear(1, 1), str(tmp_path)).resume_or_load("", resume=True)
    assert not marker.exists()


@pytest.mark.parametrize("verb", ["demo", "predict-many", "export", "benchmark"])
@pytest.mark.parametrize("malicious", ["zip.pth", "zoo.pkl"], indirect=True)
def test_verbs_run_no_code(malicious, marker, verb, scenes_root, config_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(scenes_root))
    pictures = str(scenes_root / "synthetic_scenes/val/images")
    words = {
        "demo": ["--input", pictures, "--output", str(tmp_path / "out")],
        "predict-many": ["--input", pictures, "--output", str(tmp_path / "out")],
        "export": ["--format", "torch", "--output", str(tmp_path / "model.pt2")],
        "benchmark": ["--runs", "1", "--warm-up", "1"],
    }[verb]
    model = ["--config-file", str(config_dir / LITE), "--weights", str(malicious)]
    assert main([verb, *model, *words, "--opts", *tiny_overrides(tmp_path)]) == 2
    assert "can't be read" in capsys.readouterr().err
    assert not marker.exists()


def test_pickle_of_the_model_zoo_is_read(tmp_path):
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "scalar": np.float64(0.5)}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody"}, protocol=2))
    model = read_pickle(tmp_path / "zoo.pkl")["model"]
    assert np.array_equal(model["w"], arrays["w"])
    assert model["scalar"] == 0.5


@pytest.mark.parametrize("blobs", [True, False])
def test_pickle_of_the_model_zoo_loads(tmp_path, blobs):
    tensors = {"weight": np.full((1, 1), 7, np.float32), "bias": np.full(1, 8, np.float32), "bias_momentum": 0}
    (tmp_path / "caffe.pkl").write_bytes(pickle.dumps({"blobs": tensors} if blobs else tensors))
    model = nn.Linear(1, 1)
    PanopticCheckpointer(model).load(str(tmp_path / "caffe.pkl"))
    assert [model.weight.item(), model.bias.item()] == [7, 8]


def python_tag(marker: Path) -> str:
    return f"!!python/object/apply:os.mkdir ['{marker}']"


YAML_READERS = {
    "config": lambda path: load_config(path),
    "comparison": lambda path: read_spec(path),
    "project": lambda path: read_blueprint(ModelSpec("m", str(path), "w", setup=()), "cpu"),
    "published": lambda path: load_published_results(path),
    "json": lambda path: read_json(path),
}


@pytest.mark.parametrize("reader", YAML_READERS)
@pytest.mark.parametrize("place", ["MODEL: {tag}", "OUTPUT_DIR: {tag}", "{tag}", "models: [{tag}]"])
def test_yaml_runs_no_code(tmp_path, marker, reader, place):
    (tmp_path / "it.yaml").write_text(place.format(tag=python_tag(marker)))
    with pytest.raises(ValueError, match=r"it\.yaml"):
        YAML_READERS[reader](tmp_path / "it.yaml")
    assert not marker.exists()
    yaml.unsafe_load((tmp_path / "it.yaml").read_text())
    assert marker.exists()


def test_base_of_a_config_runs_no_code(tmp_path, marker):
    (tmp_path / "base.yaml").write_text(f"OUTPUT_DIR: {python_tag(marker)}")
    (tmp_path / "it.yaml").write_text("_BASE_: base.yaml")
    with pytest.raises(ValueError, match=r"it\.yaml"):
        load_config(tmp_path / "it.yaml")
    assert not marker.exists()


def test_overrides_are_values_and_not_code(config_dir, marker):
    word = f"__import__('os').mkdir('{marker}')"
    assert load_config(config_dir / LITE, ["OUTPUT_DIR", word])["OUTPUT_DIR"] == word
    with pytest.raises(ValueError, match="SOLVER.MAX_ITER"):
        load_config(config_dir / LITE, ["SOLVER.MAX_ITER", word])
    assert not marker.exists()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def served(tmp_path):
    """Address of a checkpoint on this machine, and its hash."""
    (tmp_path / "web").mkdir()
    path = tmp_path / "web/tiny.pth"
    torch.save({"model": nn.Linear(1, 1).state_dict()}, path)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=path.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/tiny.pth", hashlib.sha256(path.read_bytes()).hexdigest()
        server.shutdown()


WEB_READERS = {
    "training": lambda address: PanopticCheckpointer(nn.Linear(1, 1)).load(address),
    "address": lambda address: PathManager.get_local_path(f"psf://{address}"),
    "backbone": lambda address: load_timm_weights(nn.Linear(1, 1), address),
    "comparison and robustness": local_copy,
}


@pytest.mark.parametrize("reader", WEB_READERS)
@pytest.mark.parametrize("scheme", ["http", "ftp", "HTTP"])
def test_web_is_https_alone(cache, reader, scheme, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection was made"))
    with pytest.raises(ValueError, match="no https address"):
        WEB_READERS[reader](f"{scheme}://example.org/model.pth")
    assert not list(cache.rglob("*"))


@pytest.mark.parametrize("path", ["/../../x.pth", "/a/../../../x.pth", "/%2e%2e/%2E%2E/x.pth"])
def test_address_leads_not_out_of_the_cache(cache, path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection was made"))
    with pytest.raises(ValueError, match="out of the cache"):
        local_copy(f"https://example.org{path}")
    assert not list(cache.rglob("*"))


def test_released_models_come_by_https():
    assert all(model.address.startswith("https://") for model in MODEL_ZOO.values())


def test_file_of_the_hash_in_its_address_is_taken(cache, served):
    address, sha256 = served
    model = nn.Linear(1, 1)
    PanopticCheckpointer(model).load(f"{address}#sha256={sha256}")
    assert local_copy(f"{address}#sha256={sha256}").read_bytes()


@pytest.mark.parametrize("reader", WEB_READERS)
def test_file_of_another_hash_is_refused_and_not_found_again(cache, served, reader):
    with pytest.raises(ValueError, match="has the SHA-256 .*, published is 0000"):
        WEB_READERS[reader](f"{served[0]}#sha256={'0' * 64}")
    left = [path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == ["tiny.pth.damaged"]


@pytest.mark.parametrize("ending", ["sha256=12", "md5=0", "sha256=" + "G" * 64])
def test_hash_that_is_none_is_refused(cache, served, ending):
    with pytest.raises(ValueError, match="expected #sha256="):
        local_copy(f"{served[0]}#{ending}")
