from __future__ import annotations

import signal
import socket

import numpy as np
import pytest
from PIL import Image

from panoptic_segformer.cli import main
from panoptic_segformer.data.synthetic import compose_scene
from results_to_show import halves

pytest.importorskip("gradio", reason="the page needs gradio, of the extra `page`")

from panoptic_segformer.web_page import building
from panoptic_segformer.web_page.building import build_page, read_upload
from panoptic_segformer.web_page.serving import HOST, check_port, write_examples

COMMAND = ("page", "--config-file", "no.yaml", "--weights", "no.pth")


@pytest.fixture(autouse=True)
def untouched_process(monkeypatch):
    """What the command sets for the rest of its process is set back."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def scene() -> Image.Image:
    return Image.fromarray(compose_scene(np.random.default_rng(1), (64, 96)).image)


@pytest.fixture
def taken_port():
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1"])
def test_pictures_of_any_mode_become_rgb(scene, mode, tmp_path):
    file = tmp_path / "picture.tiff"
    scene.convert(mode).save(file)
    picture = read_upload(file)
    assert (picture.shape, picture.dtype) == ((64, 96, 3), np.uint8)
    if mode in ("L", "LA", "RGBA"):
        np.testing.assert_array_equal(picture, scene.convert(mode).convert("RGB"))


def test_grey_of_16_bits_keeps_its_contrast(scene, tmp_path):
    grey = np.asarray(scene.convert("L"))
    Image.fromarray(grey.astype(np.uint16) << 8).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_upload(tmp_path / "grey.png"), np.stack([grey] * 3, axis=-1))


def test_rotation_of_the_camera_is_applied(scene, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    scene.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_upload(tmp_path / "turned.png"), np.rot90(np.asarray(scene), -1))


@pytest.mark.parametrize("content", [b"", b"no picture", b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_file_that_is_no_picture(content, tmp_path):
    (tmp_path / "picture.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"can't be read as a picture: try a JPEG"):
        read_upload(tmp_path / "picture.png")


def test_damaged_picture_is_refused_without_the_servers_path(scene, tmp_path):
    scene.save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1500])
    with pytest.raises(ValueError, match="not damaged") as caught:
        read_upload(tmp_path / "half.jpg")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("size", [(9000, 6000), (14000, 13000)])
def test_picture_of_too_many_pixels(size, tmp_path):
    Image.new("1", size).save(tmp_path / "huge.png")
    with pytest.raises(ValueError, match="more than 50 million pixels: make it smaller"):
        read_upload(tmp_path / "huge.png")


def test_limit_is_the_number_of_pixels(scene, tmp_path, monkeypatch):
    scene.save(tmp_path / "scene.png")
    monkeypatch.setattr(building, "MOST_PIXELS", 64 * 96)
    assert read_upload(tmp_path / "scene.png").shape == (64, 96, 3)
    monkeypatch.setattr(building, "MOST_PIXELS", 64 * 96 - 1)
    with pytest.raises(ValueError, match="make it smaller"):
        read_upload(tmp_path / "scene.png")


def test_page_is_built_without_being_served(tmp_path):
    page = build_page(halves, title="Mine", examples=write_examples(tmp_path / "examples"))
    assert page.title == "Mine"
    assert not page.is_running
    assert not page.analytics_enabled
    assert page.max_threads  # gradio's own, so that the limit below is what keeps predictions apart
    limits = [function.concurrency_limit for function in page.fns.values() if function.name == "predict"]
    assert limits == [1]


def test_examples_are_scenes_and_the_same_every_time(tmp_path):
    first, second = (write_examples(tmp_path / name) for name in ("first", "second"))
    assert len(first) == 6
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert len({file.read_bytes() for file in first}) == 6
    assert Image.open(first[0]).size == (256, 192)


def test_taken_port_is_named_with_the_flag(taken_port, capsys):
    with pytest.raises(OSError, match=rf"port {taken_port} of 127.0.0.1 can't be used .* by --port"):
        check_port(taken_port)
    assert main([*COMMAND, "--port", str(taken_port)]) == 2
    assert f"panseg page: port {taken_port}" in capsys.readouterr().err


def test_free_port_is_left_free(taken_port):
    with socket.socket() as trial:
        trial.bind((HOST, 0))
        port = trial.getsockname()[1]
    check_port(port)
    check_port(port)


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1"])
def test_impossible_port(port, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*COMMAND, "--port", port])
    assert caught.value.code == 2
    assert "from 1 to 65535" in capsys.readouterr().err or port == "-1"


def test_missing_gradio_names_its_extra(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    assert main(COMMAND) == 2
    assert ".[page]" in capsys.readouterr().err


def test_missing_config_stops_it(capsys, monkeypatch):
    with socket.socket() as trial:
        trial.bind((HOST, 0))
        port = trial.getsockname()[1]
    assert main([*COMMAND, "--port", str(port)]) == 2
    assert "no.yaml" in capsys.readouterr().err
