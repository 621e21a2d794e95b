from __future__ import annotations

import os
import sys
from fractions import Fraction

import numpy as np
import pytest

from panoptic_segformer.data.categories import Categories
from panoptic_segformer.inference import prediction, video
from panoptic_segformer.inference.prediction import Drawing, predict_video
from panoptic_segformer.inference.result import PanopticResult
from panoptic_segformer.inference.video import check_cameras, open_frames, write_video

av = pytest.importorskip("av", reason="needs PyAV, the extra `video`")

CATEGORIES = Categories((0,), (1,), ("person",), ("sky",), ((200, 0, 0),), ((0, 0, 200),))


def half_person(images):
    """Take the left half of every frame for a person."""
    results = []
    for image in images:
        ids = np.zeros(image.shape[:2], np.int32)
        ids[:, : image.shape[1] // 2] = 1
        info = [{"id": 1, "category_id": 0, "isthing": True, "score": 0.9, "area": int(ids.sum())}]
        results.append(PanopticResult.from_output(image, {"panoptic_seg": (ids, info)}, CATEGORIES))
    return results


def film(path, size=(48, 64), number=10, rate=Fraction(30000, 1001)):
    """Write a video whose frames grow brighter."""
    with write_video(path, rate) as writer:
        for index in range(number):
            writer.add(np.full((*size, 3), 20 * index % 256, np.uint8))
    return path


def frames_of(path):
    with open_frames(path) as frames:
        return frames.rate, list(frames.pixels)


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(50)])
def test_written_video_has_the_frames_size_and_rate(tmp_path, rate):
    read_rate, frames = frames_of(film(tmp_path / "a.mp4", rate=rate))
    assert read_rate == rate
    assert len(frames) == 10
    for index, frame in enumerate(frames):
        assert frame.shape == (48, 64, 3)
        assert abs(int(frame.mean()) - 20 * index) <= 6
    assert os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize(("size", "written"), [((47, 63), (48, 64)), ((48, 63), (48, 64)), ((1, 1), (2, 2))])
def test_odd_sizes_get_one_more_row_or_column(tmp_path, size, written):
    _, frames = frames_of(film(tmp_path / "odd.mp4", size, number=3))
    assert [frame.shape[:2] for frame in frames] == [written] * 3


@pytest.mark.parametrize("missing", [(), ("libx264",)])
def test_codec_is_h264_where_there_is_one_and_mpeg4_otherwise(tmp_path, monkeypatch, missing):
    monkeypatch.setattr(av, "codecs_available", set(av.codecs_available) - set(missing))
    expected = "mpeg4" if missing or "libx264" not in av.codecs_available else "h264"
    film(tmp_path / "a.mp4", (47, 64))
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.name == expected
    assert len(frames_of(tmp_path / "a.mp4")[1]) == 10


@pytest.mark.skipif("libx264" not in av.codecs_available, reason="MPEG-4 has no place to say it")
def test_written_video_says_how_its_colours_are_meant(tmp_path):
    with write_video(tmp_path / "a.mp4", Fraction(25)) as writer:
        writer.add(np.full((720, 1280, 3), (200, 40, 40), np.uint8))
    with av.open(str(tmp_path / "a.mp4")) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_range) == (5, 1)  # ITU-T H.273: BT.601 of PAL, limited range
    luma = 0.299 * 200 + 0.587 * 40 + 0.114 * 40
    expected = (16 + 219 * luma / 255, 128 + 112 * (40 - luma) / 0.886 / 255, 128 + 112 * (200 - luma) / 0.701 / 255)
    assert [bytes(plane)[0] for plane in frame.planes] == pytest.approx(expected, abs=2)


def test_rates_without_a_small_fraction_are_rounded(tmp_path):
    film(tmp_path / "a.mp4", rate=Fraction(2997003, 100000))
    assert float(frames_of(tmp_path / "a.mp4")[0]) == pytest.approx(29.97, abs=0.001)


def test_upright_videos_of_phones_are_turned(tmp_path):
    path = tmp_path / "lying.mp4"
    scene = np.zeros((48, 64, 3), np.uint8)
    scene[:24, :32] = 250  # The upper left corner, which is to become the upper right one.
    with write_video(path, Fraction(25)) as writer:
        writer.add(scene)
    turned = tmp_path / "turned.mp4"
    content = bytearray(path.read_bytes())
    # The matrix of the track's header, as 16.16 fixed point: from the identity to (x, y) -> (48 - y, x).
    identity = b"".join(value.to_bytes(4, "big") for value in (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000))
    quarter = b"".join(
        (value % 2**32).to_bytes(4, "big") for value in (0, 0x10000, 0, -0x10000, 0, 0, 48 << 16, 0, 0x40000000)
    )
    place = content.index(identity, content.index(b"tkhd"))
    content[place : place + len(identity)] = quarter
    turned.write_bytes(content)
    (frame,) = frames_of(turned)[1]
    assert frame.shape == (64, 48, 3)
    assert frame[:30, 26:].min() > 200
    assert max(frame[:, :22].max(), frame[34:].max()) < 50


def test_video_that_is_none_names_the_file(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("text.mp4", "empty.mp4"):
        with pytest.raises(ValueError, match=rf"{name} cannot be read"):
            frames_of(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"absent\.mp4 is not there"):
        frames_of(tmp_path / "absent.mp4")


def test_video_of_sound_alone_names_the_file(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match=r"sound\.mp4 has no pictures, only \['audio'\]"):
        frames_of(tmp_path / "sound.mp4")


def test_writer_refuses_frames_of_another_size_and_leaves_nothing(tmp_path):
    def write():
        with write_video(tmp_path / "a.mp4", Fraction(25)) as writer:
            writer.add(np.zeros((48, 64, 3), np.uint8))
            writer.add(np.zeros((20, 30, 3), np.uint8))

    with pytest.raises(ValueError, match=r"\(height, width\) \(20, 30\), the first one had \(48, 64\)"):
        write()
    assert os.listdir(tmp_path) == []


def test_writer_without_frames_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="no frames"), write_video(tmp_path / "a.mp4", Fraction(25)):
        pass
    assert os.listdir(tmp_path) == []


def test_missing_library_says_which_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"'\.\[video\]'"):
        video.require_video()


@pytest.mark.skipif(sys.platform != "linux", reason="cameras are files on Linux alone")
def test_camera_that_is_not_there_names_its_file():
    with pytest.raises(FileNotFoundError, match="camera 87 is not there, /dev/video87 does not exist"):
        check_cameras([87])
    with pytest.raises(FileNotFoundError, match="camera 87 is not there"), open_frames(87):
        pass


def test_cameras_of_other_systems_are_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ValueError, match="cameras are read on Linux and macOS, this is win32"), open_frames(0):
        pass


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("max_frames", [None, 3])
def test_predict_video_draws_every_frame_in_its_size(tmp_path, batch_size, max_frames):
    source = film(tmp_path / "in.mp4", (48, 64))
    drawings = [Drawing(style, tmp_path, legend=False) for style in ("overlay", "side-by-side")]
    outputs = [(drawing, tmp_path / f"{drawing.style}.mp4") for drawing in drawings]
    expected = max_frames or 10
    assert predict_video(half_person, source, outputs, batch_size, max_frames) == expected
    rate, frames = frames_of(tmp_path / "overlay.mp4")
    assert rate == Fraction(30000, 1001)
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * expected
    assert int(frames[1][40, 10, 0]) > int(frames[1][40, 10, 1]) + 50, "the person is red"
    assert np.ptp(frames[1][40, 50].astype(int)) < 30
    assert frames_of(tmp_path / "side-by-side.mp4")[1][0].shape[1] > 128


def test_predict_video_holds_a_batch_of_frames_at_a_time(tmp_path, monkeypatch):
    read, ahead = 0, []

    def counting(source):
        from contextlib import contextmanager

        @contextmanager
        def opened():
            def pixels():
                nonlocal read
                for _ in range(20):
                    read += 1
                    yield np.zeros((16, 16, 3), np.uint8)

            yield video.Frames(pixels(), Fraction(25), None)

        return opened()

    done = 0

    def predictor(images):
        nonlocal done
        ahead.append(read - done)
        done += len(images)
        return half_person(images)

    monkeypatch.setattr(prediction, "open_frames", counting)
    drawing = Drawing("overlay", tmp_path, legend=False)
    assert predict_video(predictor, tmp_path / "x.mp4", [(drawing, tmp_path / "y.mp4")], batch_size=3) == 20
    assert max(ahead) == 3


@pytest.mark.parametrize(("source", "is_camera"), [(0, True), ("x.mp4", False)])
def test_interrupt_ends_a_camera_and_breaks_off_a_video(tmp_path, monkeypatch, source, is_camera):
    from contextlib import nullcontext

    def pixels():
        yield from [np.zeros((16, 16, 3), np.uint8)] * 5
        raise KeyboardInterrupt

    frames = video.Frames(pixels(), Fraction(10), None)
    monkeypatch.setattr(prediction, "open_frames", lambda _: nullcontext(frames))
    drawing = Drawing("overlay", tmp_path, legend=False)
    with nullcontext() if is_camera else pytest.raises(KeyboardInterrupt):
        assert (
            predict_video(half_person, source if is_camera else tmp_path / source, [(drawing, tmp_path / "y.mp4")]) == 5
        )
    assert os.listdir(tmp_path) == (["y.mp4"] if is_camera else [])
    if is_camera:
        assert len(frames_of(tmp_path / "y.mp4")[1]) == 5


def test_predict_video_that_breaks_in_the_middle_leaves_nothing(tmp_path):
    whole = film(tmp_path / "whole.mp4", (480, 640), number=30)
    broken = tmp_path / "broken.mp4"
    content = bytearray(whole.read_bytes())
    start = content.index(b"mdat") + 4
    content[start : start + 60] = bytes(60)
    broken.write_bytes(content)
    drawing = Drawing("overlay", tmp_path, legend=False)
    with pytest.raises(ValueError, match=r"broken\.mp4"):
        predict_video(half_person, broken, [(drawing, tmp_path / "out.mp4")])
    assert not (tmp_path / "out.mp4").exists()
