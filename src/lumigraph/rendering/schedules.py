"""Factors on learning rates that several methods use."""

import math

from lumigraph.configs.light_field import ScheduleConfig


def student_schedule(config: ScheduleConfig, step: int, progress: float) -> float:
    """Linear warm-up, then 0.1^((step - n) / decay) (R2L section A.4), or a cosine over the budget; as a factor on the
    config's `lr`."""
    scale = 1.0
    if config.schedule == "budget":
        scale = config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
    elif config.schedule == "steps" and step >= config.warmup_steps:
        scale = 0.1 ** ((step - config.warmup_steps) / config.decay_steps)
    if step < config.warmup_steps:
        first = config.warmup_lr / config.lr
        scale *= first + (1 - first) * step / config.warmup_steps
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
