"""Read the yaml file that says which models are compared on what; everything wrong with it is said at once, in words.

Files and folders are looked for beside the yaml file, then in the working folder; a config also in its project.
"""

from __future__ import annotations

import datetime
import difflib
import glob
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["ComparisonSpec", "DatasetSpec", "ModelSpec", "closest", "read_spec"]

_SPEC_KEYS = ("title", "dataset", "pictures", "oracles", "flops_size", "models")
_PATH_KEYS = ("images", "panoptic_json", "panoptic_png")
_DATASET_KEYS = ("name", *_PATH_KEYS, "limit")
_TEXT_KEYS = ("name", "config", "weights")
_LIST_KEYS = ("opts", "paths", "imports", "setup")
_SWITCH_KEYS = ("allow_partial", "trust")
_MODEL_KEYS = (*_TEXT_KEYS, *_LIST_KEYS, *_SWITCH_KEYS, "note", "published")
_KINDS = {str: "text", list: "a list", dict: "a mapping", bool: "true or false"}


@dataclass(frozen=True)
class ModelSpec:
    """One model of a comparison.

    Attributes:
        name: what it is called, different from all others.
        config: path of its config.
        weights: path or address of its checkpoint.
        opts: overrides KEY VALUE of the config.
        paths: folders of projects, put before Python's search path.
        imports: modules to import, which register things.
        setup: config functions as "module:function"; None for a model of this distribution.
        allow_partial: whether weights may fit in part.
        trust: whether the checkpoint may run code when it is read (full pickle).
        note: free words.
        published: figures of others by column, with "source".
    """

    name: str
    config: str
    weights: str
    opts: tuple[Any, ...] = ()
    paths: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    setup: tuple[str, ...] | None = None
    allow_partial: bool = False
    trust: bool = False
    note: str = ""
    published: Mapping[str, float | str] | None = None


@dataclass(frozen=True)
class DatasetSpec:
    """The truth: a dataset that Detectron2 knows by name, or three paths.

    Attributes:
        name: of a registered dataset; "" where the paths are given.
        images, panoptic_json, panoptic_png: folder, file and folder; relative ones start at $DETECTRON2_DATASETS.
        limit: number of pictures, the first ones; None for all.
    """

    name: str = ""
    images: str = ""
    panoptic_json: str = ""
    panoptic_png: str = ""
    limit: int | None = None


@dataclass(frozen=True)
class ComparisonSpec:
    """What is compared on what.

    Attributes:
        title: of the page.
        models: in the order of the file.
        dataset: pictures with truth; None where `pictures` are given.
        pictures: files, folders and glob patterns without truth.
        oracles: whether errors of one kind are corrected by the truth to see what they cost.
        flops_size: height and width that FLOPs are counted at; None for what each model makes of the first picture.
    """

    title: str
    models: tuple[ModelSpec, ...]
    dataset: DatasetSpec | None
    pictures: tuple[str, ...]
    oracles: bool
    flops_size: tuple[int, int] | None


def read_spec(path: str | Path, only: Sequence[str] = ()) -> ComparisonSpec:
    """Return what a comparison's file says.

    Args:
        path: the yaml file.
        only: names of models; the others are left out.
    Raises: FileNotFoundError: if the file, or a file that it names, does not exist. ValueError: if it is not yaml or
        something in it is wrong (names the place and what to do).
    """
    path = Path(path)
    content = _load_yaml(path)
    _check_keys(content, _SPEC_KEYS, str(path))
    if ("dataset" in content) == ("pictures" in content):
        state = "both" if "dataset" in content else "neither"
        raise ValueError(f"{path} has {state} of 'dataset' (pictures with truth) and 'pictures': give one of them")
    if content.get("oracles") is True and "dataset" not in content:
        raise ValueError(f"{path}: 'oracles' correct errors by the truth, which 'pictures' have not: give 'dataset'")
    records = _named_models(content, path)
    if unknown := [name for name in only if name not in records]:
        raise ValueError(f"{path} has no model {unknown[0]!r}{closest(unknown[0], records)}: give names of its models")
    return ComparisonSpec(
        title=_text(content, "title", str(path), path.stem),
        models=tuple(_model(record, path) for name, record in records.items() if not only or name in only),
        dataset=_dataset(content["dataset"], path) if "dataset" in content else None,
        pictures=_pictures(content["pictures"], path) if "pictures" in content else (),
        oracles=_switch(content, "oracles", str(path)),
        flops_size=_size(content.get("flops_size"), path),
    )


def closest(word: str, words: Iterable[str]) -> str:
    """Return a question that names the most similar of some words, "" if none is similar."""
    matches = difflib.get_close_matches(word, [str(known) for known in words], n=1)
    return f", did you mean {matches[0]!r}?" if matches else ""


def _load_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"comparison file {path} does not exist: give a yaml file with the models to compare")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no yaml: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a mapping with 'models' and 'dataset' or 'pictures', got {content!r:.80}")
    return content


def _named_models(content: Mapping[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """Return the records of the models by name."""
    records: dict[str, dict[str, Any]] = {}
    for number, record in enumerate(_list(content, "models", str(path)), 1):
        where = f"{path}, model {number}"
        _check_kind(record, dict, where)
        _check_keys(record, _MODEL_KEYS, where)
        name = _text(record, "name", where)
        if name in records:
            raise ValueError(f"{path} has two models of the name {name!r}: give each a name of its own")
        records[name] = record
    if not records:
        raise ValueError(f"{path}: 'models' is empty, list at least one with name, config and weights")
    return records


def _model(record: Mapping[str, Any], path: Path) -> ModelSpec:
    where = f"{path}, model {record['name']!r}"
    lists = {key: _list(record, key, where, ()) for key in _LIST_KEYS}
    opts = lists.pop("opts")
    if len(opts) % 2 or not all(isinstance(key, str) for key in opts[::2]):
        raise ValueError(f"{where}: 'opts' must be keys and values in turn, got {list(opts)}")
    for key, option in zip(opts[::2], opts[1::2], strict=True):
        if isinstance(option, datetime.date):  # What yaml makes of 2024-01-31.
            raise ValueError(f"{where}: 'opts' gives {key} the date {option}: put it in quotes")
    for key, words in lists.items():
        for word in words:
            _check_kind(word, str, f"{where}: an entry of {key!r}")
    projects = [_existing(folder, [path.parent], f"{where}: project folder") for folder in lists.pop("paths")]
    setup = lists.pop("setup") if "setup" in record else None
    weights = _text(record, "weights", where)
    if "://" not in weights:
        weights = str(_existing(weights, [path.parent], f"{where}: weights"))
    published = record.get("published") or {}
    _check_kind(published, dict, f"{where}: 'published'")
    for column, figure in published.items():
        _check_kind(column, str, f"{where}: a column of 'published'")
        if not isinstance(figure, int | float | str):
            raise ValueError(f"{where}: 'published' must give numbers or texts by column, got {column}: {figure!r}")
    return ModelSpec(
        name=record["name"],
        config=str(_existing(_text(record, "config", where), [path.parent, Path(), *projects], f"{where}: config")),
        weights=weights,
        opts=tuple(opts),
        paths=tuple(str(folder.resolve()) for folder in projects),
        imports=tuple(lists["imports"]),
        setup=None if setup is None else tuple(setup),
        allow_partial=_switch(record, "allow_partial", where),
        trust=_switch(record, "trust", where),
        note=_text(record, "note", where, ""),
        published=published,
    )


def _dataset(value: Any, path: Path) -> DatasetSpec:
    if isinstance(value, str) and value:
        return DatasetSpec(name=value)
    where = f"{path}: 'dataset'"
    _check_kind(value, dict, where)
    _check_keys(value, _DATASET_KEYS, where)
    limit = value.get("limit")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ValueError(f"{where}: 'limit' must be a whole number of at least 1, got {limit!r}")
    if "name" in value:
        if extra := [key for key in _PATH_KEYS if key in value]:
            raise ValueError(f"{where} has 'name' and {extra[0]!r}: give the name alone or the three paths")
        return DatasetSpec(name=_text(value, "name", where), limit=limit)
    return DatasetSpec(**{key: _text(value, key, where) for key in _PATH_KEYS}, limit=limit)


def _pictures(value: Any, path: Path) -> tuple[str, ...]:
    where = f"{path}: 'pictures'"
    _check_kind(value, list, where)
    if not value:
        raise ValueError(f"{where} is empty: list files, folders or glob patterns")
    for item in value:
        _check_kind(item, str, f"an entry of {where}")
    beside = [str(path.parent / item) for item in value]
    return tuple(
        found if Path(found).exists() or glob.glob(found) else item for found, item in zip(beside, value, strict=True)
    )


def _size(value: Any, path: Path) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(side) is int and side >= 32 for side in value):
        raise ValueError(f"{path}: 'flops_size' must be [height, width] of at least 32 pixels each, got {value!r}")
    return value[0], value[1]


def _existing(name: str, folders: Sequence[Path], what: str) -> Path:
    """Return the first of the places of a path that exists."""
    places = dict.fromkeys([folder / Path(name).expanduser() for folder in folders] + [Path(name).expanduser()])
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(f"{what} {name} does not exist, neither as {' nor as '.join(map(str, places))}")


def _check_keys(record: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for key in record:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}{closest(str(key), known)} (known: {', '.join(known)})")


def _check_kind(value: Any, kind: type, what: str) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{what} must be {_KINDS[kind]}, got {value!r:.80}")


def _text(record: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    """Return a text of a record; one without a default must be there and not empty."""
    value = record.get(key, default)
    if value is None or (value == "" and default is None):
        raise ValueError(f"{where} has no {key!r}: give it")
    _check_kind(value, str, f"{where}: {key!r}")
    return value


def _list(record: Mapping[str, Any], key: str, where: str, default: Sequence[Any] | None = None) -> Sequence[Any]:
    if key not in record and default is not None:
        return default
    value = record.get(key)
    _check_kind(value, list, f"{where}: {key!r}")
    return value


def _switch(record: Mapping[str, Any], key: str, where: str) -> bool:
    value = record.get(key, False)
    _check_kind(value, bool, f"{where}: {key!r}")
    return value
