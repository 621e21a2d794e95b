"""Predict one shard after another with one model: the same in the process of the command and in a worker of Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..inference.prediction import predict_files
from ..inference.predictor import PanopticPredictor
from ..inference.saving import PanopticSaver, dataset_category_ids, dataset_image_ids
from ..writing import remove_partial, whole_folder
from .manifest import Manifest
from .places import Places

__all__ = ["Job", "ShardPredictor"]


@dataclass(frozen=True)
class Job:
    """What a worker needs to know; it travels between processes.

    Attributes:
        places: of the output, whose manifest and lists are written.
        config: yaml file, absolute.
        weights: checkpoint, an absolute path or an address.
        overrides: of the config, KEY VALUE.
    """

    places: Places
    config: str
    weights: str
    overrides: tuple[str, ...]


class ShardPredictor:
    """A model that predicts shards."""

    def __init__(self, job: Job) -> None:
        """Read what the run is of; the model is built when it is needed first."""
        self.job = job
        self.manifest = Manifest.read(job.places.manifest)

    def __call__(self, number: int) -> None:
        """Write a shard whole, unless it is there: the png, and the json with segments and failures.

        Raises: FileNotFoundError, ValueError: if there is no model to be had. OSError: if the shard can't be written.
        """
        places, root = self.job.places, Path(self.manifest.root)
        if places.shard(number).is_dir():
            return
        predictor = self._predictor
        remove_partial(places.shard(number))  # of a process that was killed
        files = places.read_list(number)
        category_ids = dataset_category_ids(predictor.datasets[0], predictor.categories)
        with whole_folder(places.shard(number)) as folder:
            image_ids = self._image_ids(number, files)
            saver = PanopticSaver(folder, predictor.categories, category_ids, image_ids, root)
            left_out = predict_files(predictor, files, [saver], self.manifest.batch_size, show_progress=False)
            saver.failures = {file.relative_to(root).as_posix(): reason for file, reason in left_out.items()}
            saver.finish()

    @cached_property
    def _predictor(self) -> PanopticPredictor:
        job = self.job
        return PanopticPredictor(job.config, job.weights, opts=job.overrides, batch_size=self.manifest.batch_size)

    @cached_property
    def _dataset_ids(self) -> Mapping[str, int]:
        return dataset_image_ids(self._predictor.datasets)

    def _image_ids(self, number: int, files: list[Path]) -> dict[str, int]:
        """Return the ids of a shard's pictures by their file names in the json."""
        names = [file.relative_to(self.manifest.root).as_posix() for file in files]
        if self.manifest.uses_dataset_ids:
            return {name: self._dataset_ids[file.name] for name, file in zip(names, files, strict=True)}
        return {name: id_ for id_, name in enumerate(names, start=number * self.manifest.shard_size + 1)}
