"""A large prediction from its inputs to its json: what is finished stays, the rest is done."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from detectron2.config import CfgNode
from tqdm import tqdm

from ..checkpoint.download import local_copy
from ..data.datasets import register_datasets
from ..hashing import file_digest
from ..inference.saving import dataset_image_ids
from ..writing import remove_partial, whole_folder
from .listing import pictures_of, write_lists
from .manifest import Manifest, lasting_config
from .places import Places

__all__ = ["plan_run", "run_shards", "sole_run"]

logger = logging.getLogger(__name__)


@contextmanager
def sole_run(places: Places) -> Iterator[None]:
    """Make the output folder and keep other runs out of it; the system lets go of it when this process dies.

    Raises: ValueError: if another run is at it, or it has something that no run wrote.
    """
    if not places.manifest.exists():
        _check_is_new(places)
    places.shards.mkdir(parents=True, exist_ok=True)
    with (places.folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another run writes into {places.folder}: wait for it, or give another --output"
            ) from error
        for path in (places.manifest, places.lists, places.joined):
            remove_partial(path)
        places.forget_attempts()
        yield


def _check_is_new(places: Places) -> None:
    content = places.folder.iterdir() if places.folder.is_dir() else ()
    strangers = [path for path in content if not path.name.startswith(".") and path != places.shards]
    if places.shards.is_dir():
        strangers += places.shards.iterdir()
    if strangers:
        raise ValueError(f"{places.folder} has {min(strangers).name}, but no run to go on with: give a new folder")


def plan_run(places: Places, inputs: Sequence[str], cfg: CfgNode, weights: str, sizes: tuple[int, int]) -> Manifest:
    """List the pictures by shards, and return what the run is of.

    Args:
        places: of the output.
        inputs: as `pictures_of` takes them.
        cfg: of the model.
        weights: checkpoint, a file or an address.
        sizes: pictures of a shard, and pictures that run together at most.
    Raises: ValueError: if the output has the predictions of another run. Otherwise as `pictures_of`.
    """
    register_datasets(cfg)
    dataset_ids = dataset_image_ids(tuple(cfg.DATASETS.TEST or cfg.DATASETS.TRAIN))
    shard_size, batch_size = sizes
    with whole_folder(places.lists) as folder:
        listing = write_lists(folder, pictures_of(inputs), shard_size, dataset_ids.keys())
        manifest = Manifest(
            pictures=listing.number,
            pictures_sha256=listing.sha256,
            root=str(listing.root),
            uses_dataset_ids=listing.in_dataset,
            shard_size=shard_size,
            batch_size=batch_size,
            weights_sha256=file_digest(local_copy(weights)),
            config=lasting_config(cfg),
        )
        manifest.settle(places.manifest)
    return manifest


def run_shards(places: Places, manifest: Manifest, predict: Callable[[Sequence[int]], Iterable[int]]) -> list[int]:
    """Predict the shards that are not finished and return those that still are not.

    Args:
        places: of the output.
        manifest: of the run.
        predict: takes numbers of shards and yields them as they are finished.
    """
    missing = places.missing(manifest.shards)
    if len(missing) < manifest.shards:
        logger.info("%d of %d shards are finished already", manifest.shards - len(missing), manifest.shards)
    if missing:
        with tqdm(total=manifest.shards, initial=manifest.shards - len(missing), unit=" shards") as progress:
            for _ in predict(missing):
                progress.update()
    return places.missing(manifest.shards)
