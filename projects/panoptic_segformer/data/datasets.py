"""Register datasets in COCO-panoptic form (a json, a folder of png, a folder of pictures) from yaml alone.

The names can then stand in DATASETS.TRAIN and DATASETS.TEST; the metadata is what Detectron2's own "standard"
registration gives, so that its visualizer and evaluators work.
Reference: detectron2/data/datasets/coco_panoptic.py, https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from .categories import Categories
from .reading import PATHS_HINT, read_categories, read_panoptic_json

__all__ = [
    "PanopticPaths",
    "configured_categories",
    "configured_paths",
    "load_panoptic",
    "register_datasets",
    "tolerate_missing_files",
]

logger = logging.getLogger(__name__)

_KEYS = ("IMAGES", "PANOPTIC_JSON", "PANOPTIC_PNG")


_tolerates_missing_files: ContextVar[bool] = ContextVar("tolerates_missing_files", default=False)


@contextmanager
def tolerate_missing_files() -> Iterator[None]:
    """Let datasets that are used meanwhile have entries of missing files; how many is a warning, not an error."""
    token = _tolerates_missing_files.set(True)
    try:
        yield
    finally:
        _tolerates_missing_files.reset(token)


@dataclass(frozen=True)
class PanopticPaths:
    """Where a dataset lies.

    Attributes:
        image_root: folder of pictures; panoptic_json: the json; panoptic_root: folder of png.
    """

    image_root: str
    panoptic_json: str
    panoptic_root: str


def register_datasets(cfg: CfgNode) -> None:
    """Register what DATASETS.TRAIN and TEST name of DATASETS.REGISTER.

    An entry reads {name: {IMAGES: dir, PANOPTIC_JSON: file, PANOPTIC_PNG: dir}}. Of the files only the categories
    of the json are read; the rest when the dataset is used. An entry that is registered already is left as it is,
    and so is one that neither list names: a base config may hold more datasets than a machine has.
    Raises: FileNotFoundError: if a json does not exist. ValueError: if an entry has other keys, if its json
        is not panoptic, or if its name stands for other paths already.
    """
    for name, entry in cfg.DATASETS.REGISTER.items():
        if name not in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
            continue
        paths = _paths(name, entry)
        if name in DatasetCatalog.list():
            _check_same(name, paths)
        else:
            _register(name, paths)


def configured_categories(cfg: CfgNode) -> Categories:
    """Register a config's datasets and return the classes that those of DATASETS.TRAIN and TEST share.

    Raises: ValueError: if there is no dataset, or their classes differ; otherwise as `register_datasets`.
    """
    register_datasets(cfg)
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    if not names:
        raise ValueError("DATASETS.TRAIN and DATASETS.TEST are empty: the classes come from a dataset's metadata")
    return Categories.of_datasets(names)


def configured_paths(cfg: CfgNode, name: str) -> PanopticPaths:
    """Return where a dataset lies, one of DATASETS.REGISTER or one that is registered already; reads no file.

    Raises: ValueError: if there is no such dataset, it is not in COCO-panoptic form, or its entry has other keys.
    """
    if name in cfg.DATASETS.REGISTER:
        return _paths(name, cfg.DATASETS.REGISTER[name])
    registered = [*cfg.DATASETS.REGISTER, *DatasetCatalog.list()]
    if name not in registered:
        raise ValueError(f"dataset {name!r} is unknown: enter it in DATASETS.REGISTER, which has {registered[:8]}, ...")
    metadata = MetadataCatalog.get(name)
    keys = ("image_root", "panoptic_json", "panoptic_root")
    if missing := [key for key in keys if metadata.get(key) is None]:
        raise ValueError(
            f"dataset {name!r} is not in COCO-panoptic form, its metadata lacks {', '.join(missing)}: choose another"
        )
    return PanopticPaths(*(metadata.get(key) for key in keys))


def load_panoptic(paths: PanopticPaths) -> list[dict[str, Any]]:
    """Return one Detectron2 dataset dict per annotated picture.

    Its keys: file_name, image_id, height, width, pan_seg_file_name, segments_info (category_id contiguous,
    isthing).
    Raises: FileNotFoundError: if folders, pictures or png are missing (counts them and names the first).
        ValueError: if the json is not panoptic, holds no annotated picture, or contradicts itself.
    """
    content = read_panoptic_json(paths.panoptic_json)
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"]: (i, category) for i, category in enumerate(content["categories"])}
    dicts = []
    for annotation in content["annotations"]:
        image = images.get(annotation["image_id"])
        if image is None:
            raise ValueError(
                f"{paths.panoptic_json} annotates picture id {annotation['image_id']} "
                f"({annotation['file_name']}), which is not among its {len(images)} 'images': add it there "
                "or remove the annotation"
            )
        segments = [_segment(segment, categories, annotation, paths) for segment in annotation["segments_info"]]
        dicts.append(_dataset_dict(image, annotation, segments, paths))
    if not dicts:
        raise ValueError(f"{paths.panoptic_json} lists no annotated pictures ('annotations' is empty): nothing to use")
    if unused := len(images) - len({entry["image_id"] for entry in dicts}):
        logger.info("%s: %d pictures without annotation are not used", paths.panoptic_json, unused)
    _check_files([entry["file_name"] for entry in dicts], "picture", paths.image_root)
    _check_files([entry["pan_seg_file_name"] for entry in dicts], "panoptic png", paths.panoptic_root)
    return dicts


def _paths(name: str, entry: Any) -> PanopticPaths:
    if not isinstance(entry, CfgNode) or sorted(entry) != sorted(_KEYS):
        raise ValueError(
            f"DATASETS.REGISTER.{name} must have exactly the keys {', '.join(_KEYS)}, it has "
            f"{', '.join(entry) if isinstance(entry, CfgNode) else repr(entry)}"
        )
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()
    image_root, panoptic_json, panoptic_root = (str(root / Path(entry[key]).expanduser()) for key in _KEYS)
    return PanopticPaths(image_root, panoptic_json, panoptic_root)


def _check_same(name: str, paths: PanopticPaths) -> None:
    metadata = MetadataCatalog.get(name)
    present = tuple(metadata.get(key) for key in ("image_root", "panoptic_json", "panoptic_root"))
    wanted = (paths.image_root, paths.panoptic_json, paths.panoptic_root)
    if present != wanted:
        raise ValueError(
            f"dataset name {name!r} is taken: it stands for {present}, DATASETS.REGISTER gives {wanted}. "
            "Choose another name"
        )


def _register(name: str, paths: PanopticPaths) -> None:
    categories = read_categories(paths.panoptic_json)
    names = [category["name"] for category in categories]
    colors = [category["color"] for category in categories]
    contiguous = {category["id"]: index for index, category in enumerate(categories)}
    things = {category["id"] for category in categories if category["isthing"]}
    DatasetCatalog.register(name, partial(load_panoptic, paths))
    MetadataCatalog.get(name).set(
        image_root=paths.image_root,
        panoptic_json=paths.panoptic_json,
        panoptic_root=paths.panoptic_root,
        evaluator_type="coco_panoptic_seg",
        ignore_label=255,
        label_divisor=1000,
        # Things and stuff share one range of ids, so both lists hold all classes.
        thing_classes=names,
        stuff_classes=names,
        thing_colors=colors,
        stuff_colors=colors,
        thing_dataset_id_to_contiguous_id={key: value for key, value in contiguous.items() if key in things},
        stuff_dataset_id_to_contiguous_id={key: value for key, value in contiguous.items() if key not in things},
    )


def _segment(
    segment: dict[str, Any],
    categories: dict[int, tuple[int, dict[str, Any]]],
    annotation: dict[str, Any],
    paths: PanopticPaths,
) -> dict[str, Any]:
    known = categories.get(segment["category_id"])
    if known is None:
        raise ValueError(
            f"{paths.panoptic_json}: picture id {annotation['image_id']} ({annotation['file_name']}) has a "
            f"segment of category id {segment['category_id']}, which is none of the {len(categories)} in "
            "'categories': add the category or correct the segment"
        )
    index, category = known
    return {**segment, "category_id": index, "isthing": bool(category["isthing"])}


def _dataset_dict(
    image: dict[str, Any], annotation: dict[str, Any], segments: list[dict[str, Any]], paths: PanopticPaths
) -> dict[str, Any]:
    return {
        "file_name": os.path.join(paths.image_root, image["file_name"]),
        "image_id": image["id"],
        "height": image["height"],
        "width": image["width"],
        "pan_seg_file_name": os.path.join(paths.panoptic_root, annotation["file_name"]),
        "segments_info": segments,
    }


def _check_files(files: list[str], what: str, root: str) -> None:
    if not os.path.isdir(root):
        raise FileNotFoundError(f"folder {root} of the {what} files does not exist: {PATHS_HINT}")
    # One listing per folder: asking for each file alone takes minutes on network disks.
    folders = {os.path.dirname(file) for file in files}
    listings = {folder: set(os.listdir(folder)) if os.path.isdir(folder) else set() for folder in folders}
    missing = [file for file in files if os.path.basename(file) not in listings[os.path.dirname(file)]]
    if not missing:
        return
    found = f"{len(missing)} of {len(files)} {what} files are missing, first {', '.join(missing[:3])}"
    if not _tolerates_missing_files.get():
        raise FileNotFoundError(f"{found}: complete the folder or remove their entries from the json")
    logger.warning("%s; they will be left out", found)
