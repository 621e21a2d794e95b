"""How long a model takes and how much memory, stage by stage, in inference and in training."""

from .inference import PictureBatch, profile_inference, time_inference
from .memory import MemoryUnknownError, in_fresh_process, peak_memory
from .stages import Profile, Run, repeat
from .training import profile_training, time_training_step, training_examples

__all__ = [
    "MemoryUnknownError",
    "PictureBatch",
    "Profile",
    "Run",
    "in_fresh_process",
    "peak_memory",
    "profile_inference",
    "profile_training",
    "repeat",
    "time_inference",
    "time_training_step",
    "training_examples",
]
