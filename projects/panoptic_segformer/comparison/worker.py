"""The process of one model: `python -m panoptic_segformer.comparison.worker JOB.json`.

It predicts what the cache lacks and writes result.json beside the job. Nothing here imports our meta-architectures
unless the model is one of them: an external project may use the same registry names.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import sys
import traceback
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from .. import compat

compat.apply()

import detectron2  # noqa: E402

from ..architectures import ARCHITECTURES  # noqa: E402
from ..checkpoint.download import local_copy  # noqa: E402
from ..hashing import file_digest  # noqa: E402
from ..profiling.machine import device_name  # noqa: E402
from .blueprint import Blueprint, read_blueprint  # noqa: E402
from .cache import PredictionCache, code_digest, digest_of  # noqa: E402
from .conversion import ModelClasses, convert_output  # noqa: E402
from .costs import TIMED_PICTURES, measure_costs  # noqa: E402
from .job import PROGRESS, RESULT_FILE, Job, JobPicture, JobResult  # noqa: E402
from .process import PROJECTS, end_with_parent  # noqa: E402
from .weights import load_weights  # noqa: E402

__all__ = ["ModelRun", "build", "main"]

# Parts of the pictures that progress is told of.
PROGRESS_STEPS = 10
# Letters; the log has the whole error.
LONGEST_ERROR = 1000
OWN_PACKAGES = sorted({PROJECTS / architecture.package.partition(".")[0] for architecture in ARCHITECTURES.values()})


def main(job_file: str) -> int:
    """Run a job and write its result; return 0, or 1 if the result is an error."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    path = Path(job_file)
    try:
        result = ModelRun(Job.read(path)).run()
    except Exception as error:  # Code of other projects fails in any way, and one line of it goes into the table.
        traceback.print_exc()
        result = JobResult(error=" ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_ERROR])
    result.write(path.with_name(RESULT_FILE))
    return 1 if result.error else 0


def build(job: Job) -> tuple[nn.Module, Blueprint]:
    """Return the model of a job with its weights."""
    run = ModelRun(job)
    return run.model, run.blueprint


class ModelRun:
    """One model on its pictures; it is built when something is not in the cache.

    Attributes:
        job: what is asked for.
        blueprint: of the model.
        classes: of the model.
        cache: of predictions and costs.
        facts: what is known about the model so far, in words.
    """

    def __init__(self, job: Job) -> None:
        """Read the model's config.

        Raises: FileNotFoundError, ValueError: if the config or the weights are not what they should be.
        """
        self.job = job
        self.cache = PredictionCache(job.cache)
        self.blueprint = read_blueprint(job.model, job.device)
        self.classes = ModelClasses.of_dataset(self.blueprint.dataset)
        self._weights = local_copy(job.model.weights)
        self._weights_digest = file_digest(self._weights)
        spec = job.model
        # Code changes without its names; so do a dataset's classes, which say what the ids of a prediction mean.
        code = (code_digest([*OWN_PACKAGES, *spec.paths]), spec.imports, spec.setup)
        versions = (torch.__version__, detectron2.__version__)
        classes = dataclasses.asdict(self.classes)
        self._identity = digest_of(
            self._weights_digest, self.blueprint.text, code, versions, classes, spec.opts, spec.allow_partial
        )
        self.facts = {
            "config": spec.config,
            "weights": f"{spec.weights} (sha256 {self._weights_digest})",
            "input": self.blueprint.describe_input(),
            "classes": f"{len(self.classes.categories)} of {self.blueprint.dataset}",
            "torch": torch.__version__,
            "device": device_name("cpu" if not torch.cuda.is_available() or job.device == "cpu" else "cuda"),
            "threads": str(torch.get_num_threads()),
        }

    @cached_property
    def model(self) -> nn.Module:
        """The model with its weights, in inference mode.

        Raises: ValueError: if the weights fit in part and the job does not allow that.
        """
        spec = self.job.model
        model = self.blueprint.build()
        fit = load_weights(model, self._weights, spec.trust)
        if not fit.complete and not spec.allow_partial:
            raise ValueError(
                f"weights {spec.weights} do not fit: {fit.describe()}; give the config that they were trained with, "
                "or set 'allow_partial: true'"
            )
        self.cache.write_record(
            self._facts_key, {"architecture": type(model).__name__, "fit of the weights": fit.describe()}
        )
        return model

    def run(self) -> JobResult:
        """Predict and measure what is not in the cache."""
        keys = {picture.name: digest_of(self._identity, picture.sha256) for picture in self.job.pictures}
        self._predict([picture for picture in self.job.pictures if self.cache.read(keys[picture.name]) is None], keys)
        costs, cost_facts = self._costs() if self.job.costs else ({}, {})
        facts = self.cache.read_record(self._facts_key)
        if facts is None:
            self.model  # noqa: B018  building writes them
            facts = self.cache.read_record(self._facts_key)
        return JobResult(
            keys=keys,
            categories=list(self.classes.categories.values()),
            costs=costs,
            facts={**self.facts, **facts, **cost_facts},
        )

    @property
    def _facts_key(self) -> str:
        return digest_of(self._identity, "facts")

    @torch.inference_mode()
    def _predict(self, pictures: list[JobPicture], keys: dict[str, str]) -> None:
        step = max(1, len(pictures) // PROGRESS_STEPS)
        for number, picture in enumerate(pictures, 1):
            inputs = self.blueprint.inputs(picture.path)
            (output,) = self.model(inputs)
            size = (inputs[0]["height"], inputs[0]["width"])
            self.cache.write(keys[picture.name], convert_output(output, size, self.classes))
            if number % step == 0:
                _tell(f"{number} of {len(pictures)} pictures")

    def _costs(self) -> tuple[dict[str, float], dict[str, str]]:
        job = self.job
        timed = [picture.sha256 for picture in job.pictures[:TIMED_PICTURES]]
        machine = [self.facts[key] for key in ("device", "threads", "torch")]
        key = digest_of(self._identity, "costs", timed, job.runs, job.flops_size, machine)
        record = self.cache.read_record(key)
        if record is None:
            _tell("costs are measured")
            costs, facts = measure_costs(self.model, self.blueprint, job, build)
            record = {"costs": costs, "facts": {**facts, "costs measured": datetime.date.today().isoformat()}}
            self.cache.write_record(key, record)
        return record["costs"], record["facts"]


def _tell(words: str) -> None:
    """Let the comparison tell its user about progress."""
    sys.stdout.write(f"{PROGRESS}{words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(sys.argv[1]))
