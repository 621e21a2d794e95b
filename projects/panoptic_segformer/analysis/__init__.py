"""What a model consists of and costs, which configs there are, and what documents report of other methods."""

from .configs import ConfigSummary, summarize_configs
from .cost import FlopCount, PartSize, count_flops, count_parameters, model_parts
from .published import PublishedResult, averaging_gap, load_published_results
from .sizing import build_for_sizing

__all__ = [
    "ConfigSummary",
    "FlopCount",
    "PartSize",
    "PublishedResult",
    "averaging_gap",
    "build_for_sizing",
    "count_flops",
    "count_parameters",
    "load_published_results",
    "model_parts",
    "summarize_configs",
]
