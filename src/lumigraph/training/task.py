"""The one training task: make this renderer agree with these rays, or pictures."""

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lumigraph.errors import LumigraphError
from lumigraph.rendering.renderer import Batch, Losses, Pictures, Renderer
from lumigraph.training.checkpoints import Checkpoint, pack_optimiser, unpack_optimiser
from lumigraph.training.sources import RaySource

_WARM_UP_RAYS = 256


@dataclass(frozen=True)
class Budget:
    """When training ends, at step `last_step` or after `seconds` of training, whichever comes first; and how far
    schedules have come.

    Schedules follow the clock where it ends training, else `schedule_steps`, which is the method's own number and not
    that at which training is asked to stop: so n steps, and m more after a resume, are n + m steps.
    """

    first_step: int
    last_step: int | None
    seconds: float | None
    schedule_steps: int

    def progress(self, step: int, seconds: float) -> float:
        """How far schedules have come, in [0, 1]."""
        if self.seconds is not None:
            return min(1.0, seconds / self.seconds)
        return min(1.0, (step - self.first_step) / self.schedule_steps)

    def reached(self, step: int, seconds: float) -> float:
        """How far schedules have come, in schedule steps: where these are counted exactly the steps made, where the
        clock paces them its share of `schedule_steps`."""
        if self.seconds is None:
            return float(step - self.first_step)
        return self.progress(step, seconds) * self.schedule_steps

    def used(self, step: int, seconds: float) -> float:
        """Used part of what ends training, in [0, 1]."""
        parts = [0.0]
        if self.last_step is not None:
            parts.append((step - self.first_step) / max(1, self.last_step - self.first_step))
        if self.seconds is not None:
            parts.append(seconds / self.seconds)
        return min(1.0, max(parts))

    def likely_last_step(self, step: int, seconds: float) -> int | None:
        """The step at which training will end, going by its speed so far; None before there is one."""
        used = self.used(step, seconds)
        if step <= self.first_step or used <= 0:
            return None
        return self.first_step + round((step - self.first_step) / used)

    def spent(self, step: int, seconds: float) -> str | None:
        """ "steps" or "time" when the budget is used up, else None."""
        if self.last_step is not None and step >= self.last_step:
            return "steps"
        if self.seconds is not None and seconds >= self.seconds:
            return "time"
        return None


class Clock:
    """Seconds of training, carried over from earlier sessions of the same run."""

    def __init__(self) -> None:
        self._carried = 0.0
        self._started: float | None = None

    def start(self, carried: float) -> None:
        """Starts to count, with `carried` seconds on the clock."""
        self._carried, self._started = carried, time.perf_counter()

    def stop(self) -> None:
        """Stops counting; what follows is not training."""
        self._carried, self._started = self.seconds, None

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._carried + (0.0 if self._started is None else time.perf_counter() - self._started)


@dataclass
class Window:
    """Sums over the steps since the last report, kept as tensors: reading them would stall an accelerator."""

    steps: int = 0
    rays: int = 0
    squared_error: Tensor | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def add(self, batch: Batch | Pictures, losses: Losses) -> None:
        """Counts one step in. Repeated hard rays are left out of the error: they would make it look worse."""
        error = losses.squared_error.detach()
        error = error.mean() if isinstance(batch, Pictures) else error[: batch.fresh].mean()
        self.squared_error = error if self.squared_error is None else self.squared_error + error
        for name, value in losses.terms.items():
            earlier = self.terms.get(name)
            self.terms[name] = value.detach() if earlier is None else earlier + value.detach()
        self.steps += 1
        self.rays += batch.pixels


class RayTask(LightningModule):
    """Steps a renderer on the rays of a source. Lightning drives it; one call of `training_step` is one
    step."""

    def __init__(
        self, renderer: Renderer, source: RaySource, budget: Budget, seed: int, checkpoint: Checkpoint | None
    ):
        super().__init__()
        # The loss is checked between forward and backward, which Lightning's closure hides.
        self.automatic_optimization = False
        self.renderer = renderer
        self.source = source
        self.budget = budget
        self.seed = seed
        self.clock = Clock()
        self.step = budget.first_step if checkpoint is None else checkpoint.step
        self.window = Window()
        self.seconds = 0.0
        """Training time that schedules go by: `clock`, agreed between processes."""
        self.begun = checkpoint is not None
        """Whether there is anything worth keeping: a step was made, now or before."""
        self._checkpoint = checkpoint
        self._initial_lrs: list[float] = []
        self._optimiser: torch.optim.Optimizer | None = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self._optimiser = self.renderer.make_optimiser()
        self._initial_lrs = [group["lr"] for group in self._optimiser.param_groups]
        return self._optimiser

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """The renderer's optimiser, once Lightning has set it up."""
        if self._optimiser is None:
            raise RuntimeError("the optimiser is made when training starts")
        return self._optimiser

    # ------------------------------------------------------------------ state

    def on_train_start(self) -> None:
        self.renderer.train()
        if self._checkpoint is not None:
            self._restore(self._checkpoint)
        # After the state was put back, which comes from the disk.
        self.source.to(self.device)
        self.source.share(self.trainer.global_rank, self.trainer.world_size)
        if self.trainer.world_size > 1:
            self.source.read_photos(quiet=self.trainer.global_rank > 0)
        self._warm_up()
        self.seconds = 0.0 if self._checkpoint is None else self._checkpoint.seconds
        self._checkpoint = None
        self.clock.start(self.seconds)
        self.window = Window()

    def _warm_up(self) -> None:
        """Compiles kernels before the clock starts."""
        with torch.random.fork_rng():
            batch = self._drawn(self.step, most=_WARM_UP_RAYS)
            self.renderer.warm_up(batch, self.seed)

    def checkpoint(self) -> Checkpoint:
        """Everything that later steps depend on."""
        optimiser, numbers = pack_optimiser(self.optimiser)
        tensors = {f"renderer.{name}": tensor for name, tensor in self.renderer.state_dict().items()}
        tensors |= {f"optimiser.{name}": tensor for name, tensor in optimiser.items()}
        tensors |= {f"source.{name}": tensor for name, tensor in self.source.state_dict().items()}
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        # Clones: safetensors refuses tensors that share memory, as tied weights do.
        return Checkpoint(
            step=self.step,
            seconds=self.clock.seconds,
            tensors={name: tensor.detach().clone() for name, tensor in tensors.items()},
            numbers={"optimiser": numbers},
        )

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Takes up everything but the renderer's weights, which were loaded before the optimiser was made."""
        unpack_optimiser(self.optimiser, checkpoint.part("optimiser"), checkpoint.numbers["optimiser"])
        self.source.load_state_dict(checkpoint.part("source"))
        random = checkpoint.part("rng")
        torch.set_rng_state(random["cpu"])
        if self.device.type == "cuda" and "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"], self.device)

    def forget_momentum(self) -> None:
        """Drops the optimiser's state, after the renderer has started over."""
        self.optimiser.state.clear()

    # ------------------------------------------------------------------ one step

    def training_step(self, batch: Any, index: int) -> None:
        step, seed = self.step, self.seed * self.trainer.world_size + self.trainer.global_rank
        progress = self.budget.progress(step, self.seconds)
        self.renderer.begin_step(step, progress, self.seed)
        self.source.begin_step(self.budget.reached(step, self.seconds))
        # Each process takes every world_size-th batch of the sequence.
        drawn = self._drawn(step * self.trainer.world_size + self.trainer.global_rank)
        losses = self.renderer.losses(drawn, step, seed)
        total = sum_of_terms(losses.terms, step)
        scale = self.renderer.lr_scale(step, progress)
        for group, initial in zip(self.optimiser.param_groups, self._initial_lrs, strict=True):
            group["lr"] = initial * scale
        self.optimiser.zero_grad(set_to_none=True)
        self.manual_backward(total)
        clip_gradients(self.optimiser)
        self.optimiser.step()
        if self.trainer.world_size > 1:
            average_statistics(self.renderer)
        if isinstance(drawn, Batch):
            self.source.observe(drawn, losses.squared_error.detach())
        self.window.add(drawn, losses)
        self.step = step + 1
        self.begun = True

    def _drawn(self, number: int, most: int | None = None) -> Batch | Pictures:
        """What step `number` learns from; at most `most` rays, or one picture, where that is given."""
        renderer = self.renderer
        if renderer.whole_views:
            drawn = self.source.pictures(number, renderer.pictures_per_step if most is None else 1)
        else:
            rays = renderer.rays_per_step
            drawn = self.source.batch(number, rays if most is None else min(most, rays))
        return drawn if drawn.rgba.device == self.device else drawn.to(self.device)


def average_statistics(renderer: Renderer) -> None:
    """Makes the running statistics of batch norm the means of those of all processes, each of which has seen pictures
    of its own: what is rendered and saved goes by all. `SyncBatchNorm`, which CUDA has, sees to that itself."""
    statistics = [
        values
        for module in renderer.modules()
        if isinstance(module, nn.BatchNorm2d)
        for values in (module.running_mean, module.running_var)
        if values is not None
    ]
    if not statistics:
        return
    together = torch.cat(statistics)
    torch.distributed.all_reduce(together)
    together /= torch.distributed.get_world_size()
    for values, mean in zip(statistics, together.split([len(values) for values in statistics]), strict=True):
        values.copy_(mean)


def clip_gradients(optimiser: torch.optim.Optimizer) -> None:
    """Scales the gradient of each parameter group that has a `clip_norm` down to that norm."""
    for group in optimiser.param_groups:
        if group.get("clip_norm") is not None:
            torch.nn.utils.clip_grad_norm_(group["params"], group["clip_norm"])


def sum_of_terms(terms: dict[str, Tensor], step: int) -> Tensor:
    """The total of the loss terms; raises `LumigraphError`, before anything is updated, when it is not
    finite."""
    values = list(terms.values())
    total = values[0] if len(values) == 1 else torch.stack([value.reshape(()) for value in values]).sum()
    if not math.isfinite(float(total.detach())):
        numbers = {name: float(value.detach()) for name, value in terms.items()}
        broken = {name: value for name, value in numbers.items() if not math.isfinite(value)}
        named = ", ".join(f"{name} is {value}" for name, value in broken.items()) or "their sum overflows"
        raise LumigraphError(
            f"the loss is not finite at step {step}: {named}",
            todo="Training stopped before the update and the last checkpoint is intact: go on with --resume "
            "and --precision float32, or start afresh with a lower learning rate or another --seed",
        )
    return total
