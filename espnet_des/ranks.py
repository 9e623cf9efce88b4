"""Processes of a training on several devices (DDP)."""

import logging

import torch


def rank() -> int:
    """Number of this process; 0 where there is one only."""
    dist = torch.distributed
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def warn_of_data(message: str) -> None:
    """Warn of this process's own data, which no other process sees.

    ESPnet lets nothing but errors of the others through; their log lines name the rank.
    """
    logging.log(logging.ERROR if rank() else logging.WARNING, message)
