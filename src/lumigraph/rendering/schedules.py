"""Factors on learning rates that several methods use."""

import math

from lumigraph.configs.light_field import ScheduleConfig

_LONGEST_RISE = 0.1
"""Part of a budget that the warm-up takes at most: a run of few steps would else end before it."""


def student_schedule(config: ScheduleConfig, step: int, progress: float) -> float:
    """Linear warm-up, then 0.1^((step - n) / decay) (R2L section A.4), or a cosine over the budget; as a factor on the
    config's `lr`."""
    scale, risen = 1.0, step / config.warmup_steps if config.warmup_steps else 1.0
    if config.schedule == "budget":
        scale = config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
        risen = max(risen, progress / _LONGEST_RISE)
    elif config.schedule == "steps" and risen >= 1:
        scale = 0.1 ** ((step - config.warmup_steps) / config.decay_steps)
    if risen < 1:
        first = config.warmup_lr / config.lr
        scale *= first + (1 - first) * risen
    return scale


def delayed_log_linear(progress: float, last: float, delay: float, delay_factor: float) -> float:
    """Falls from 1 to `last` evenly in its logarithm, `progress` in [0, 1]; up to the progress `delay` it is smaller by
    a factor that rises from `delay_factor` to 1 along a quarter of a sine (Mip-NeRF, section 4; mip-NeRF 360,
    section 5). Both go by progress, which follows the clock where that ends training."""
    fallen = last**progress
    if progress >= delay:
        return fallen
    rise = math.sin(0.5 * math.pi * progress / delay)
    return fallen * (delay_factor + (1 - delay_factor) * rise)
