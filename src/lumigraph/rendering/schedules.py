"""Factors on learning rates that several methods use."""

import math


def delayed_log_linear(progress: float, last: float, delay: float, delay_factor: float) -> float:
    """Falls from 1 to `last` evenly in its logarithm, `progress` in [0, 1]; up to the progress `delay` it is smaller by
    a factor that rises from `delay_factor` to 1 along a quarter of a sine (Mip-NeRF, section 4; mip-NeRF 360,
    section 5). Both go by progress, which follows the clock where that ends training."""
    fallen = last**progress
    if progress >= delay:
        return fallen
    rise = math.sin(0.5 * math.pi * progress / delay)
    return fallen * (delay_factor + (1 - delay_factor) * rise)
