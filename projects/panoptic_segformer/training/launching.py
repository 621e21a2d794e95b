"""Start a training on one process or on many, by Detectron2's launcher or under `torchrun`.

Nothing here is a launcher: torchrun has started its processes already, and they only have to find each other.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

import torch
from detectron2.engine import create_ddp_model
from detectron2.engine import launch as launch_processes
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch import distributed, nn

__all__ = ["launch", "parallel_model"]

# What torchrun tells its processes: their number, that on this machine, and which of these this one is.
TORCHRUN_FACTS = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK")


def launch(main: Callable[[argparse.Namespace], object], arguments: argparse.Namespace) -> None:
    """Run `main(arguments)` in every process of a training.

    Processes talk by nccl where torch finds GPUs, otherwise by gloo.

    Args:
        main: a function of a module's top level.
        arguments: Detectron2's usual ones, see `default_argument_parser`.
    Raises: ValueError: if more GPUs are asked for than there are, or processes are asked for under torchrun, which has
        started them.
    """
    if distributed.is_torchelastic_launched():
        _join_torchrun(main, arguments)
        return
    _check_gpus(arguments.num_gpus, "--num-gpus")
    launch_processes(
        main,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(arguments,),
    )


def parallel_model(model: nn.Module) -> nn.Module:
    """Return the model so that its gradients are averaged over all processes; itself where there is one alone.

    Detectron2's own call names the process's GPU, and fails for a model on the CPU.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    return create_ddp_model(model, broadcast_buffers=False, **({"device_ids": None} if on_cpu else {}))


def _join_torchrun(main: Callable[[argparse.Namespace], object], arguments: argparse.Namespace) -> None:
    """Run as one of torchrun's processes; what they have to know is in the environment."""
    world_size, local_size, local_rank = (int(os.environ[name]) for name in TORCHRUN_FACTS)
    if (arguments.num_gpus, arguments.num_machines) != (1, 1):
        raise ValueError(
            f"--num-gpus {arguments.num_gpus} --num-machines {arguments.num_machines} ask for processes, of which "
            f"torchrun has started {world_size}: leave them out, and give torchrun --nproc-per-node and --nnodes"
        )
    if world_size == 1:
        main(arguments)
        return
    _check_gpus(local_size, "torchrun's --nproc-per-node")
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(local_rank)
    distributed.init_process_group("nccl" if has_gpu else "gloo", timeout=DEFAULT_TIMEOUT)
    comm.create_local_process_group(local_size)
    main(arguments)
    # After an error it would wait for the others, which torchrun ends anyway.
    distributed.destroy_process_group()


def _check_gpus(processes: int, option: str) -> None:
    number = torch.cuda.device_count()
    if number and processes > number:
        raise ValueError(
            f"{option} is {processes}, but torch finds {number} GPUs here: give at most {number}, or hide the GPUs "
            "(CUDA_VISIBLE_DEVICES=) to train on the CPU"
        )
