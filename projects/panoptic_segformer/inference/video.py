"""Videos and cameras in, videos out; one frame is held at a time.

PyAV does the work (the extra `video`). Sound is left out, and the frame rate is constant: the average of the video's.
Shape legend: H, W size of a frame.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..optional import import_optional
from ..writing import whole_file

__all__ = ["Frames", "VideoWriter", "check_cameras", "open_frames", "require_video", "write_video"]

# Where neither video nor camera tells its frame rate.
USUAL_RATE = Fraction(25)
# Rates of television are multiples of 1 / 1001; some codecs take no larger denominators.
LARGEST_DENOMINATOR = 1001
# Encoders, the best first, with their options; mpeg4 is part of every build of the library.
ENCODERS = {"libx264": {"crf": "20"}, "mpeg4": {"qscale": "3"}}


@dataclass(frozen=True)
class Frames:
    """An opened video or camera.

    Attributes:
        pixels: yields (H, W, 3) uint8 RGB; raises ValueError where the video is damaged.
        rate: frames per second.
        number: of frames, as far as the file tells it.
    """

    pixels: Iterator[np.ndarray]
    rate: Fraction
    number: int | None


def require_video() -> ModuleType:
    """Return PyAV.

    Raises: ImportError: if it is missing (says which extra to install).
    """
    return import_optional("av", "video")


@contextmanager
def open_frames(source: Path | int) -> Iterator[Frames]:
    """Open a video file, or the camera of a number.

    Raises: FileNotFoundError: if there is no such file or camera. ValueError: if it can't be read.
    """
    av = require_video()
    name = f"camera {source}" if isinstance(source, int) else f"video {source}"
    try:
        container = av.open(*_camera(source)) if isinstance(source, int) else av.open(str(source))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name} is not there ({error.filename}): check its name") from error
    except av.FFmpegError as error:
        raise ValueError(
            f"{name} cannot be read ({error.strerror}): give a file or a camera that ffmpeg reads"
        ) from error
    with container:
        if not container.streams.video:
            raise ValueError(f"{name} has no pictures, only {[stream.type for stream in container.streams]}")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = Fraction(stream.average_rate or stream.guessed_rate or USUAL_RATE)
        yield Frames(_decoded(container, av, name), rate.limit_denominator(LARGEST_DENOMINATOR), stream.frames or None)


def check_cameras(numbers: Sequence[int]) -> None:
    """Raise FileNotFoundError if this Linux machine lacks one of the cameras; other systems tell when it is opened."""
    if sys.platform == "linux" and (missing := [number for number in numbers if not _device(number).exists()]):
        raise FileNotFoundError(
            f"camera {missing[0]} is not there, {_device(missing[0])} does not exist: connect it or give another number"
        )


def _device(number: int) -> Path:
    return Path(f"/dev/video{number}")


def _camera(number: int) -> tuple[str, str, str]:
    """Return name, mode and format of a camera, as `av.open` takes them."""
    if sys.platform == "darwin":
        return str(number), "r", "avfoundation"
    if sys.platform == "linux":
        return str(_device(number)), "r", "video4linux2"
    raise ValueError(f"cameras are read on Linux and macOS, this is {sys.platform}: give a video file")


def _decoded(container: Any, av: ModuleType, name: str) -> Iterator[np.ndarray]:
    try:
        for frame in container.decode(video=0):
            pixels = frame.to_ndarray(format="rgb24")
            # Phones write upright videos as lying ones with a note to turn them.
            turns = round(frame.rotation / 90) % 4
            yield np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
    except av.FFmpegError as error:
        raise ValueError(f"{name} is damaged ({error.strerror}): replace it") from error


class VideoWriter:
    """Writes frames of a constant rate: H.264 where the library has it, MPEG-4 otherwise."""

    def __init__(self, container: Any, rate: Fraction) -> None:
        """Take note of PyAV's container that is written to, and of the frames per second."""
        self._container, self._rate = container, rate
        self._av = require_video()
        self._stream: Any = None

    def add(self, frame: np.ndarray) -> None:
        """Append a frame (H, W, 3) uint8 RGB.

        The first one decides the size. Where a side is odd, which the codecs refuse, its last row or column is
        repeated.

        Raises: ValueError: if a frame has another size than the first.
        """
        padded = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
        if self._stream is None:
            self._stream = self._start(padded.shape[1], padded.shape[0])
        expected = (self._stream.height, self._stream.width)
        if padded.shape[:2] != expected:
            raise ValueError(f"a frame has (height, width) {padded.shape[:2]}, the first one had {expected}")
        self._container.mux(self._stream.encode(self._av.VideoFrame.from_ndarray(padded, format="rgb24")))

    def finish(self) -> None:
        """Write what the encoder still holds.

        Raises: ValueError: if there was no frame.
        """
        if self._stream is None:
            raise ValueError("there were no frames to write")
        self._container.mux(self._stream.encode())

    def _start(self, width: int, height: int) -> Any:
        name = next(name for name in ENCODERS if name in self._av.codecs_available)
        stream = self._container.add_stream(name, rate=self._rate, options=ENCODERS[name])
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # That is how the library turns RGB into YUV; players take large videos for BT.709 unless they are told.
        reformatter = self._av.video.reformatter
        stream.codec_context.colorspace = reformatter.Colorspace.ITU601
        stream.codec_context.color_range = reformatter.ColorRange.MPEG
        return stream


@contextmanager
def write_video(path: Path, rate: Fraction) -> Iterator[VideoWriter]:
    """Give a writer of an MP4 file, complete at the end and not there after an error; its folder must exist."""
    with whole_file(path) as partial, require_video().open(str(partial), "w", format="mp4") as container:
        writer = VideoWriter(container, rate)
        yield writer
        writer.finish()
