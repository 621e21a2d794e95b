"""Reading checkpoint files safely, and loading what fits of them with a summary.

Detectron2 loads silently whatever has a matching name; here a person sees what was loaded, and weights of another
model are refused.
"""

from __future__ import annotations

import logging
import pickle
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .convert import is_released
from .download import is_on_the_web, set_aside

__all__ = ["load_with_summary", "read_checkpoint", "read_copy", "read_own_checkpoint"]

logger = logging.getLogger(__name__)

# Smallest share of a checkpoint's tensors that must fit the model, and of the model's that a checkpoint must fill.
LEAST_SHARE = 0.5
# A file with this module alone is a pretrained backbone, which fills no other.
BACKBONE = "backbone"
# Detectron2's files of backbones hold their ImageNet classifier as well.
CLASSIFIERS = ("fc1000.", "stem.fc.")


def read_checkpoint(path: str | Path) -> dict[str, object]:
    """Return the content of a .pth or .safetensors file; nothing in it can run code (torch's weights_only).

    Raises: FileNotFoundError: if it is missing. ValueError: if it is cut off, or not a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint {path} does not exist: check MODEL.WEIGHTS, or MODEL.TIMM.WEIGHTS for a bare backbone"
        )
    try:
        if path.suffix == ".safetensors":
            content = _load_safetensors(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"checkpoint {path} ({path.stat().st_size} bytes) can't be read: {reason}; it is cut off, not a PyTorch "
            "file, or holds more than tensors and plain values: get the file again"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"checkpoint {path} holds a {type(content).__name__}, expected a dict of tensors")
    return dict(content)


def read_copy(file: Path, address: str) -> dict[str, object]:
    """Return the content of an address's local copy, a checkpoint.

    Raises: as `read_checkpoint`. A file from the web that can't be read is set aside, or it would be found again.
    """
    try:
        return read_checkpoint(file)
    except ValueError as error:
        if not is_on_the_web(address):
            raise
        raise ValueError(f"{error} (it came from {address}{set_aside(file)})") from error


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError  # comes with timm, which models with Detectron2's ResNet need not have
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def read_own_checkpoint(path: str | Path) -> dict[str, object]:
    """Return the content of a checkpoint in Detectron2's form.

    Raises: as `read_checkpoint`, and ValueError: if it has the released code's form.
    """
    content = read_checkpoint(path)
    if "model" not in content and "state_dict" in content:
        raise ValueError(
            f"checkpoint {path} has the released code's form: give it as MODEL.WEIGHTS psf://{path}, "
            "which converts it while loading"
        )
    return content


def load_with_summary(
    model: nn.Module,
    load: Callable[[Mapping[str, Tensor], bool, bool], object],
    state_dict: Mapping[str, Tensor],
    strict: bool,
    assign: bool,
) -> object:
    """Load the tensors that fit and log how many did; strict loading is left to torch.

    Args:
        model: receives the tensors.
        load: the model's plain `load_state_dict`.
        state_dict: tensors by our names.
        strict: torch's meaning, every name must fit.
        assign: torch's meaning, take the tensors instead of copying them.
    Returns: what `load` returns: names that are missing in the state dict, and names that the model lacks.
    Raises: ValueError: if under half of the checkpoint's tensors fit the model, or they fill under half of what is
        behind the backbone (of the backbone, for a file that has nothing else).
    """
    if strict:
        return load(state_dict, strict, assign)
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    fitting = {name: tensor for name, tensor in state_dict.items() if own.get(name) == tuple(tensor.shape)}
    reshaped = [name for name in state_dict if name in own and name not in fitting]
    unknown = [name for name in state_dict if name not in own]
    # Detectron2's checkpointer has taken tensors of another shape away already, so the model's side counts as well:
    # what is behind the backbone, or the backbone where the file has nothing else.
    is_backbone = all(_of_backbone(name) or name.startswith(CLASSIFIERS) for name in state_dict)
    expected = [name for name in own if _of_backbone(name) == is_backbone]
    filled = sum(name in fitting for name in expected)
    if len(fitting) < LEAST_SHARE * len(state_dict) or filled < LEAST_SHARE * len(expected):
        raise ValueError(
            f"only {len(fitting)} of the checkpoint's {len(state_dict)} tensors fit this model ({len(own)} tensors): "
            "it belongs to another model or config. "
            f"Unknown: {_examples(unknown)}; other shape: {_examples(reshaped)}"
            + ("; a released Panoptic SegFormer is given as MODEL.WEIGHTS psf://FILE" if is_released(unknown) else "")
        )
    fresh = [name for name in own if name not in fitting]
    logger.info(
        "loaded %d of the checkpoint's %d tensors into %d of the model", len(fitting), len(state_dict), len(own)
    )
    if fresh:
        logger.warning("%d tensors keep their initial values: %s", len(fresh), _by_module(fresh))
    if reshaped:
        logger.warning("%d of them have another shape in the checkpoint: %s", len(reshaped), _examples(reshaped))
    if unknown:
        logger.warning("%d tensors of the checkpoint are not in the model: %s", len(unknown), _examples(unknown))
    incompatible = load(fitting, strict, assign)
    incompatible.unexpected_keys.extend(unknown)
    return incompatible


def _examples(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown or "none"


def _module(name: str) -> str:
    return name.split(".")[0]


def _of_backbone(name: str) -> bool:
    return _module(name) == BACKBONE


def _by_module(names: list[str]) -> str:
    counts = Counter(map(_module, names))
    return ", ".join(f"{module} ({number})" for module, number in counts.items())
