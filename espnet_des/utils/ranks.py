"""Processes of a training on several devices (DDP)."""

import logging

import torch


def is_in_group() -> bool:
    """True within a training by torch.distributed, be it of one process."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def rank() -> int:
    """Number of this process; 0 where there is one only."""
    return torch.distributed.get_rank() if is_in_group() else 0


def device_of_group() -> torch.device:
    """Where tensors must be that the processes exchange."""
    return torch.device("cuda" if torch.distributed.get_backend() == "nccl" else "cpu")


def are_several() -> bool:
    """True within a training of several processes."""
    return is_in_group() and torch.distributed.get_world_size() > 1


def as_the_first_has_it(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """The first process's values of tensors that are on the CPU; every process must ask."""
    if not are_several():
        return list(tensors)
    received = []
    for tensor in tensors:
        there = tensor.to(device_of_group(), copy=True)
        torch.distributed.broadcast(there, src=0)
        received.append(there.cpu())
    return received


def warn_of_data(message: str) -> None:
    """Warn of this process's own data, which no other process sees.

    ESPnet lets nothing but errors of the others through; their log lines name the rank.
    """
    logging.log(logging.ERROR if rank() else logging.WARNING, message)
