"""The sixteen corruptions of COCO-C and their severities, the same for a picture in every run.

The library imagecorruptions does the work; this says which kinds there are, in the order of the paper's table, and
where the library's random numbers come from.
Reference: Li et al., "Panoptic SegFormer", CVPR 2022, table of COCO-C; Michaelis et al., "Benchmarking Robustness in
Object Detection", 2019. Shape legend: H, W size of a picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from detectron2.data import transforms as T

from ..comparison.spec import closest
from ..optional import import_optional

__all__ = ["CORRUPTIONS", "LEAST_SIDE", "SEVERITIES", "Corrupt", "Corruption", "choose_corruptions", "corrupt_picture"]

# The library's names by the groups of the paper's table.
CORRUPTIONS = {
    "blur": ("motion_blur", "defocus_blur", "glass_blur", "gaussian_blur"),
    "noise": ("gaussian_noise", "impulse_noise", "shot_noise", "speckle_noise"),
    "digital": ("brightness", "contrast", "saturate", "jpeg_compression"),
    "weather": ("snow", "spatter", "fog", "frost"),
}
SEVERITIES = range(1, 6)
# Pixels; the library refuses smaller pictures.
LEAST_SIDE = 32
# These two do not use numpy's global random numbers and take a seed instead.
_SEEDED_BY_ARGUMENT = frozenset({"glass_blur", "impulse_noise"})


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption (the library's name) at one severity, 1 (mild) to 5."""

    name: str
    severity: int

    def __str__(self) -> str:
        return f"{self.name} {self.severity}"


def choose_corruptions(names: Iterable[str], severities: Iterable[int]) -> list[Corruption]:
    """Return all named kinds at all severities, in the order of the paper's table, each once.

    Args:
        names: kinds, groups of them (blur, noise, digital, weather), or "all".
        severities: from 1 to 5.
    Raises: ValueError: if a name or a severity is unknown (says which there are).
    """
    known = [kind for kinds in CORRUPTIONS.values() for kind in kinds]
    groups = {"all": known, **CORRUPTIONS}
    chosen: set[str] = set()
    for name in names:
        if name not in groups and name not in known:
            raise ValueError(
                f"there is no corruption {name!r}{closest(name, [*groups, *known])}: give 'all', one of the groups "
                f"{', '.join(CORRUPTIONS)}, or some of {', '.join(known)}"
            )
        chosen.update(groups.get(name, (name,)))
    severities = sorted(set(severities))
    if wrong := [severity for severity in severities if severity not in SEVERITIES]:
        raise ValueError(
            f"severity {wrong[0]} does not exist: give whole numbers from {SEVERITIES[0]} to {SEVERITIES[-1]}"
        )
    return [Corruption(name, severity) for name in known if name in chosen for severity in severities]


class Corrupt(T.Augmentation):
    """Corrupt a picture, as the first augmentation of a mapper: segments stay as they are."""

    def __init__(self, corruption: Corruption, image_format: str) -> None:
        """Keep what is done; image_format: order of the channels, "RGB" or "BGR"."""
        super().__init__()
        self.corruption = corruption
        self.image_format = image_format

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Return the change of an image (H, W, 3) uint8."""
        del image
        step = -1 if self.image_format == "BGR" else 1

        def change(image: np.ndarray) -> np.ndarray:
            return corrupt_picture(image[..., ::step], self.corruption)[..., ::step]

        return T.ColorTransform(change)


def corrupt_picture(image: np.ndarray, corruption: Corruption) -> np.ndarray:
    """Return the corrupted picture, equal for equal pictures: its random numbers come from the picture itself.

    Args:
        image: (H, W, 3) uint8 RGB, which stays as it is.
        corruption: kind and severity.
    Raises: ImportError: if the library is missing. ValueError: if the picture is smaller than 32 pixels.
    """
    library = import_optional("imagecorruptions", "robustness")
    if min(image.shape[:2]) < LEAST_SIDE:
        raise ValueError(
            f"a picture of (height, width) {image.shape[:2]} can't be corrupted, the library needs at least "
            f"{LEAST_SIDE} pixels on each side: enlarge it or leave it out"
        )
    image = np.ascontiguousarray(image)
    words = hashlib.sha256(f"{corruption} {image.shape}".encode() + image.tobytes()).digest()
    seed = int.from_bytes(words[:4], "big")
    options = {"seed": seed} if corruption.name in _SEEDED_BY_ARGUMENT else {}
    with _numpy_seed(seed):
        return library.corrupt(image, severity=corruption.severity, corruption_name=corruption.name, **options)


@contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """Seed numpy's global random numbers, which the library takes, and set them back at the end."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
