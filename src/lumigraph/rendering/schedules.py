"""Factors on learning rates that several methods use."""

import math


def delayed_log_linear(
    step: int, progress: float, last: float, delay_steps: int, delay_factor: float
) -> float:
    """Falls from 1 to `last` evenly in its logarithm, `progress` in [0, 1]; in the first `delay_steps` it is smaller
    by a factor that rises from `delay_factor` to 1 along a quarter of a sine (Mip-NeRF, section 4; mip-NeRF 360,
    section 5)."""
    fallen = last**progress
    if step >= delay_steps:
        return fallen
    rise = math.sin(0.5 * math.pi * step / delay_steps)
    return fallen * (delay_factor + (1 - delay_factor) * rise)
