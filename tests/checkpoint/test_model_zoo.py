"""Released models by name: their configs, and the way from the web into the cache."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import threading
import urllib.error
import urllib.request

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager

import panoptic_segformer.registration  # noqa: F401  registers the addresses
from golden import Golden
from panoptic_segformer import load_config
from panoptic_segformer.checkpoint import addresses
from panoptic_segformer.checkpoint.model_zoo import MODEL_ZOO, ReleasedModel

NAME = "r50_1x"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def golden(shared_dir) -> Golden:
    return Golden(shared_dir / "golden")


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; counts what is asked for, and hangs up in the middle while `is_cut` is set."""

    requests: list[str]
    is_cut = False

    def do_GET(self):
        self.requests.append(self.path)
        if not self.is_cut:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(b"half")

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server in the place of the released model's; its folder is `server.folder`."""
    folder = tmp_path / "web"
    folder.mkdir()
    handler_class = type("CountingHandler", (Handler,), {"requests": []})
    handler = functools.partial(handler_class, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.folder, server.handler = folder, handler_class
        server.address = f"http://127.0.0.1:{server.server_port}/v1.0/released.pth"
        (folder / "v1.0").mkdir()
        monkeypatch.setitem(
            addresses.MODEL_ZOO, NAME, ReleasedModel("coco/panoptic_segformer_r50_1x.yaml", server.address, 48.0)
        )
        yield server
        server.shutdown()


def publish(server, golden, sha256: str | None = None):
    """Put the golden checkpoint on the server."""
    path = golden.save_checkpoint(server.folder / "v1.0/released.pth")
    addresses.MODEL_ZOO[NAME] = dataclasses.replace(addresses.MODEL_ZOO[NAME], sha256=sha256)
    return path


def files(cache):
    return [path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.parametrize("name", MODEL_ZOO)
def test_released_models_have_a_config(config_dir, name):
    model = MODEL_ZOO[name]
    assert model.config == f"coco/panoptic_segformer_{name}.yaml"
    output_dir = load_config(config_dir / model.config).OUTPUT_DIR
    assert output_dir == f"output/panoptic_segformer_{name}"
    assert model.address.startswith("https://github.com/zhiqi-li/Panoptic-SegFormer/releases/download/v1.0/")


def test_name_loads_and_is_fetched_once(server, golden, cache):
    publish(server, golden)
    for _ in range(2):
        model = golden.build_model()
        DetectionCheckpointer(model).load(f"psf://{NAME}")
        assert torch.equal(model.encoder.level_embedding, golden.state_dict["bbox_head.transformer.level_embeds"])
    assert server.handler.requests == ["/v1.0/released.pth"]
    assert PathManager.isfile(f"psf://{NAME}")


def test_file_that_breaks_off_leaves_nothing_and_starts_anew(server, golden, cache, monkeypatch):
    monkeypatch.setattr(server.handler, "is_cut", True)
    with pytest.raises(ConnectionError, match="can't be fetched: .*retrieval incomplete"):
        PathManager.get_local_path(f"psf://{NAME}")
    assert files(cache) == []
    monkeypatch.setattr(server.handler, "is_cut", False)
    publish(server, golden)
    assert PathManager.get_local_path(f"psf://{NAME}").endswith(".pth")


def test_published_hash_is_accepted(server, golden, cache):
    path = publish(server, golden)
    publish(server, golden, hashlib.sha256(path.read_bytes()).hexdigest())
    assert PathManager.get_local_path(f"psf://{NAME}").endswith(".pth")


def test_other_hash_is_refused_and_the_file_set_aside(server, golden, cache):
    publish(server, golden, "0" * 64)
    with pytest.raises(
        ValueError, match=r"has the SHA-256 [0-9a-f]{64}, published is 0{64}.*damaged in .*fetched anew"
    ):
        PathManager.get_local_path(f"psf://{NAME}")
    assert files(cache) == ["released.pth.damaged"]


def test_page_in_the_place_of_the_file_is_refused_and_set_aside(server, cache):
    (server.folder / "v1.0/released.pth").write_text("<html>Sign in to this network</html>")
    with pytest.raises(ValueError, match=r"can't be read.*get the file again \(it came from http://127"):
        PathManager.get_local_path(f"psf://{NAME}")
    assert files(cache) == ["released.pth.damaged"]


def test_own_file_that_is_broken_stays(cache, tmp_path):
    path = tmp_path / "own.pth"
    path.write_text("no checkpoint")
    with pytest.raises(ValueError, match="can't be read"):
        PathManager.get_local_path(f"psf://{path}")
    assert path.exists()


def test_missing_file_on_the_server_is_named(server, cache):
    with pytest.raises(ConnectionError, match=r"released\.pth can't be fetched: .*404"):
        PathManager.get_local_path(f"psf://{NAME}")


def test_without_network_the_error_says_where_to_put_the_file(golden, cache, monkeypatch):
    def fail(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    place = cache / "zhiqi-li/Panoptic-SegFormer/releases/download/v1.0/panoptic_segformer_swinl_2x.pth"
    with pytest.raises(ConnectionError) as error:
        PathManager.get_local_path("psf://swin_l_2x")
    assert str(error.value).startswith(MODEL_ZOO["swin_l_2x"].address)
    assert str(place) in str(error.value)
    golden.save_checkpoint(place)
    assert PathManager.get_local_path("psf://swin_l_2x").endswith(".pth")


def test_unknown_name_lists_the_released_ones(cache):
    with pytest.raises(FileNotFoundError, match="r50_3x does not exist.*psf://r50_1x.*psf://swin_l_2x"):
        PathManager.get_local_path("psf://r50_3x")
