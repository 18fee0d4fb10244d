"""The pool of hard rays: those that a student got most wrong come back (R2L, section A.6; Wang et al. 2022).

n_in = int(ratio_in B), n_out = int(ratio_out B), n_in = min(n_in, n_out)          B new rays a step
a step's batch: the B new rays, and, once the pool is full, n_out rays drawn from it without replacement
after the step: the n_in new rays of largest error are appended to the pool, until it holds `multiple` B rays;
from then on they replace the first n_in of the rays that were just drawn

A ray comes back with all that belongs to it: its time, its attributes, and what is known of it beside the colour.
"""

from dataclasses import fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.geometry.rays import Rays
from lumigraph.rendering.randomness import step_generator
from lumigraph.rendering.renderer import Batch
from lumigraph.training.sources import RaySource

_STREAM = 0xA0761D6478BD642F
"""Odd 64-bit constant that keeps the draws of different seeds apart."""
_INNER = "new."
_BYTES_PER_RAY = 80
"""Origin, direction, radius, near, far, colour, time and camera number of a ray, and a little for what it may have."""
_TOLD = ("rgba", "depth", "depth_sigma", "weight", "attribute_masks")
"""What a batch tells of each ray."""


class HardPool(RaySource):
    """Adds hard rays of earlier steps to the batches of `source`.

    Errors are those of the forward pass before the update, and of new rays only: a pool ray is not judged again. The
    pool is state: it goes into checkpoints, and has to be a new one when the source changes to real photos.
    """

    def __init__(
        self, source: RaySource, rays: int, ratio: tuple[float, float], multiple: int, seed: int
    ) -> None:
        """`rays`: new rays of a step (B); `ratio`: (in, out); `multiple`: the pool's size in units of B."""
        self.source = source
        self.ratio = ratio
        self.seed = seed
        self._entering = self._counts(rays)[0]
        self.steps_to_fill = -(-multiple * rays // self._entering) if self._entering else 0
        """Steps after which the pool is full; the last may overshoot, as in the published code."""
        self._pool: dict[str, Tensor] = {}
        self._drawn = torch.empty(0, dtype=torch.int64)
        self._device: torch.device | None = None

    @property
    def size(self) -> int:
        """Rays in the pool."""
        return len(self._pool["rgba"]) if self._pool else 0

    @property
    def full(self) -> bool:
        return self.steps_to_fill > 0 and int(self._fills) >= self.steps_to_fill

    @property
    def _fills(self) -> Tensor:
        return self._pool.get("fills", torch.zeros((), dtype=torch.int64))

    def _counts(self, rays: int) -> tuple[int, int]:
        leaving = int(self.ratio[1] * rays)
        return min(int(self.ratio[0] * rays), leaving), leaving

    def begin_step(self, reached: float) -> None:
        self.source.begin_step(reached)

    def read_photos(self, quiet: bool) -> None:
        self.source.read_photos(quiet)

    def batch(self, step: int, rays: int) -> Batch:
        fresh = self.source.batch(step, rays)
        if not self.full:
            self._drawn = torch.empty(0, dtype=torch.int64)
            return replace(fresh, fresh=len(fresh.rays))
        generator = step_generator(_STREAM, self.seed, step)
        permutation = torch.randperm(self.size, generator=generator)
        self._drawn = permutation[: self._counts(len(fresh.rays))[1]].to(fresh.rgba.device)
        return _joined(fresh, {name: values[self._drawn] for name, values in self._rows().items()})

    def _rows(self) -> dict[str, Tensor]:
        return {name: values for name, values in self._pool.items() if name != "fills"}

    def observe(self, batch: Batch, squared_error: Float[Tensor, " B"]) -> None:
        count = len(batch.rays) if batch.fresh is None else batch.fresh
        fresh = _part(batch, count)
        self.source.observe(fresh, squared_error[:count])
        entering = self._counts(count)[0]
        if not entering:
            return
        hardest = squared_error[:count].topk(entering).indices
        rows = {name: values[hardest] for name, values in _rows_of(fresh).items()}
        if self.full:
            for name, values in rows.items():
                self._pool[name][self._drawn[:entering]] = values
        elif not self._pool:
            self._pool = {**rows, "fills": torch.ones((), dtype=torch.int64)}
        else:
            for name, values in rows.items():
                self._pool[name] = torch.cat([self._pool[name], values])
            self._pool["fills"] = self._fills + 1

    def to(self, device: torch.device) -> "HardPool":
        self.source.to(device)
        self._device = device
        self._pool = self._placed(self._pool)
        return self

    def _placed(self, pool: dict[str, Tensor]) -> dict[str, Tensor]:
        """The pool on the device of the batches; how full it is stays on the CPU, where it is asked for every step."""
        device = self._device
        return {
            name: values.to("cpu" if name == "fills" else device or values.device)
            for name, values in pool.items()
        }

    @property
    def nbytes(self) -> int:
        return self.source.nbytes + _BYTES_PER_RAY * self.steps_to_fill * self._entering

    def state_dict(self) -> dict[str, Tensor]:
        inner = {_INNER + name: values for name, values in self.source.state_dict().items()}
        return {**self._pool, **inner}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        inner = {name.removeprefix(_INNER): v for name, v in state.items() if name.startswith(_INNER)}
        self.source.load_state_dict(inner)
        # A checkpoint is read into CPU memory, after the source was told its device.
        self._pool = self._placed(
            {name: values for name, values in state.items() if not name.startswith(_INNER)}
        )


def _rows_of(batch: Batch) -> dict[str, Tensor]:
    """All per-ray tensors of a batch by name."""
    named = {field.name: getattr(batch.rays, field.name) for field in fields(Rays)}
    named |= {name: getattr(batch, name) for name in _TOLD}
    return {name: values for name, values in named.items() if values is not None}


def _batch_of(rows: dict[str, Tensor], fresh: int | None) -> Batch:
    rays = Rays(**{name: values for name, values in rows.items() if name not in _TOLD})
    return Batch(rays=rays, fresh=fresh, **{name: rows[name] for name in _TOLD if name in rows})


def _part(batch: Batch, count: int) -> Batch:
    return _batch_of({name: values[:count] for name, values in _rows_of(batch).items()}, None)


def _joined(fresh: Batch, hard: dict[str, Tensor]) -> Batch:
    rows = _rows_of(fresh)
    return _batch_of(
        {name: torch.cat([values, hard[name]]) for name, values in rows.items()}, fresh=len(fresh.rays)
    )
