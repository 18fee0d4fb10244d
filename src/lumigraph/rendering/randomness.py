"""Randomness that is a function of (seed, step) alone, so that training resumes bit for bit."""

import torch


def step_generator(stream: int, seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device` for one step of one seed. `stream` is an odd 64-bit constant of whoever draws, which
    keeps apart what different seeds draw at different steps."""
    return torch.Generator(device).manual_seed(((seed + 1) * stream + step) % 2**63)
