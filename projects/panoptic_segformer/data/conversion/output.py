"""Write the truth of pictures in COCO-panoptic form, all of it or nothing; the pictures stay where they are.

Shape legend: H, W picture size.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

import numpy as np
from panopticapi.utils import id2rgb
from PIL import Image

from ...writing import whole_file, whole_folder
from ..measuring import measure_segments
from ..names import leaves_folder
from ..parallel import parallel_map

__all__ = ["Output", "Source", "Truth", "check_name"]

Origin = TypeVar("Origin")


class Source(NamedTuple):
    """A picture whose truth is to be written.

    Attributes:
        image_name: file name in the folder of pictures, with / between folders.
        origin: where its truth comes from, as the layout has it.
    """

    image_name: str
    origin: Any

    @property
    def png_name(self) -> str:
        """File name in the folder of png."""
        return str(PurePosixPath(self.image_name).with_suffix(".png"))


class Truth(NamedTuple):
    """The truth of one picture.

    Attributes:
        ids: (H, W) int32, 0 = void.
        segments: category id and whether it is a crowd, by id; ids without a pixel are left out.
    """

    ids: np.ndarray
    segments: dict[int, tuple[int, bool]]


@dataclass(frozen=True)
class Output:
    """Where a converted dataset goes.

    Attributes:
        json: the panoptic json; png: the folder of png; neither may exist.
        workers: number of processes.
    """

    json: Path
    png: Path
    workers: int = 1

    def write(
        self, sources: Sequence[Source], read: Callable[[Origin], Truth], categories: Sequence[dict[str, Any]]
    ) -> int:
        """Write the truth of pictures and return the number of segments.

        Args:
            sources: the pictures.
            read: makes the truth of a source's origin; runs in other processes.
            categories: of the json.
        Raises: ValueError: if there is no picture, two would have one png, or a file would be replaced. Whatever
            `read` raises. After an error nothing is written.
        """
        self._check(sources)
        for folder in (self.json.parent, self.png.parent):
            folder.mkdir(parents=True, exist_ok=True)
        # The json comes last: where it is, the png are.
        with whole_file(self.json) as draft, whole_folder(self.png) as folder:
            work = partial(_write_png, read=read, folder=folder)
            images, annotations = [], []
            for number, (size, annotation) in enumerate(parallel_map(work, sources, self.workers), start=1):
                name = sources[number - 1].image_name
                images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
                annotations.append({"image_id": number, **annotation})
            content = {"images": images, "annotations": annotations, "categories": list(categories)}
            draft.write_text(json.dumps(content), encoding="utf-8")
        return sum(len(annotation["segments_info"]) for annotation in annotations)

    def _check(self, sources: Sequence[Source]) -> None:
        if not sources:
            raise ValueError("there is no picture to convert: correct the folder")
        for path in (self.json, self.png):
            if path.exists():
                raise ValueError(f"{path} exists: give another name or remove it, nothing is replaced")
        json_path, png_root = self.json.resolve(), self.png.resolve()
        if png_root in (json_path, *json_path.parents) or json_path in png_root.parents:
            raise ValueError(f"json {self.json} and folder of png {self.png} lie in each other: put them side by side")
        names = Counter(source.png_name for source in sources)
        if repeated := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"{len(repeated)} png would belong to several pictures, first {repeated[0]}: rename one")
        for source in sources:
            check_name(source.image_name, "pictures")


def check_name(name: str, what: str) -> None:
    """Raise ValueError if a file name that was read from a file is none, or leads out of its folder."""
    if not isinstance(name, str) or not PurePosixPath(name).name:
        raise ValueError(f"file name {name!r} is no name: correct it")
    if leaves_folder(name):
        raise ValueError(f"file name {name!r} leads out of the folder of {what}: names must lie below it")


def _write_png(source: Source, *, read: Callable[[Any], Truth], folder: Path) -> tuple[tuple[int, int], dict[str, Any]]:
    """Write the png of a picture and return its (height, width) and its entry of the json."""
    truth = read(source.origin)
    segments = []
    for id_, extent in measure_segments(truth.ids).items():
        category_id, is_crowd = truth.segments[id_]
        counts = {"area": extent.area, "bbox": extent.box, "iscrowd": int(is_crowd)}
        segments.append({"id": id_, "category_id": category_id, **counts})
    path = folder / source.png_name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(id2rgb(truth.ids)).save(path)
    return truth.ids.shape, {"file_name": source.png_name, "segments_info": segments}
