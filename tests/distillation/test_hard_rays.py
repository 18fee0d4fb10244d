"""The pool of hard rays, step by step against the published loop."""

import numpy as np
import pytest
import torch

from lumigraph.distillation.hard_rays import HardPool
from lumigraph.distillation.shard_source import MixedSource
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.renderer import Batch
from lumigraph.training.sources import RaySource


class Numbered(RaySource):
    """Ray i of step s has the origin (s, i, 0)."""

    def batch(self, step: int, rays: int) -> Batch:
        origins = torch.stack(
            [torch.full((rays,), float(step)), torch.arange(rays).float(), torch.zeros(rays)], 1
        )
        ones = torch.ones(rays)
        return Batch(Rays(origins, origins + 1, ones, ones, 2 * ones), torch.rand(rays, 4))


def errors(step: int, rays: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(step).permutation(rays)).float()


@pytest.mark.parametrize(
    ("ratio", "multiple"), [((0.2, 0.2), 3), ((0.1, 0.3), 2), ((0.3, 0.1), 2), ((0.15, 0.2), 1)]
)
def test_pool_is_the_published_loop(ratio: tuple[float, float], multiple: int) -> None:
    rays = 20
    pool = HardPool(Numbered(), rays, ratio, multiple, seed=0)
    n_in, n_out = int(ratio[0] * rays), int(ratio[1] * rays)
    n_in = min(n_in, n_out)
    plain: list[tuple[float, float]] = []
    full = False
    for step in range(60):
        batch = pool.batch(step, rays)
        assert batch.fresh == rays
        assert len(batch.rays) == rays + (n_out if full else 0)
        drawn = [tuple(origin) for origin in batch.rays.origins[rays:, :2].tolist()]
        index = [plain.index(ray) for ray in drawn]
        assert len(set(index)) == len(index)
        error = torch.cat(
            [errors(step, rays), 1e6 * torch.ones(len(drawn))]
        )  # hard rays are not judged again
        hardest = [(float(step), float(i)) for i in error[:rays].argsort(descending=True)[:n_in]]
        pool.observe(batch, error)
        if full:
            for place, ray in zip(index[:n_in], hardest, strict=True):
                plain[place] = ray
        else:
            plain += hardest
            full = len(plain) >= multiple * rays
        assert pool.full == full
        assert sorted(plain) == sorted(tuple(row) for row in pool.state_dict()["origins"][:, :2].tolist())


def test_published_numbers() -> None:
    pool = HardPool(Numbered(), 81_920, (0.2, 0.2), 20, seed=0)
    assert pool.steps_to_fill == 100
    assert pool._counts(81_920) == (16_384, 16_384)


def test_asking_for_other_steps_changes_nothing() -> None:
    pools = [HardPool(Numbered(), 20, (0.2, 0.2), 1, seed=0) for _ in range(2)]
    for step in range(12):
        pools[0].batch(0, 5)  # as a warm-up does
        seen = [pool.batch(step, 20).rays.origins for pool in pools]
        assert torch.equal(*seen)
        for pool in pools:
            pool.observe(pool.batch(step, 20), torch.cat([errors(step, 20), torch.zeros(len(seen[0]) - 20)]))


def test_state_goes_on_where_it_was() -> None:
    first = HardPool(Numbered(), 20, (0.2, 0.2), 1, seed=0)
    for step in range(9):
        batch = first.batch(step, 20)
        first.observe(batch, torch.cat([errors(step, 20), torch.zeros(len(batch.rays) - 20)]))
    second = HardPool(Numbered(), 20, (0.2, 0.2), 1, seed=0)
    second.load_state_dict({name: values.clone() for name, values in first.state_dict().items()})
    assert torch.equal(first.batch(9, 20).rays.origins, second.batch(9, 20).rays.origins)


class Placed(Numbered):
    """Numbered rays on whichever device was asked for."""

    device = torch.device("cpu")

    def to(self, device: torch.device) -> "Placed":
        self.device = device
        return self

    def batch(self, step: int, rays: int) -> Batch:
        made = super().batch(step, rays)
        return Batch(made.rays.to(self.device), made.rgba.to(self.device))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("steps", [2, 9])
def test_restored_pool_lies_where_the_batches_are(mixed: bool, steps: int) -> None:
    """As training does it: the source is told its device, and then a state in CPU memory comes back. The device
    "meta" refuses what mixes it with another."""

    def made() -> HardPool:
        inner = MixedSource(Placed(), Placed(), 0.5) if mixed else Placed()
        return HardPool(inner, 20, (0.2, 0.2), 1, seed=0)

    first = made()
    for step in range(steps):
        batch = first.batch(step, 20)
        first.observe(batch, torch.cat([errors(step, 20), torch.zeros(len(batch.rays) - 20)]))
    meta = torch.device("meta")
    second = made()
    second.to(meta)
    second.load_state_dict({name: values.clone() for name, values in first.state_dict().items()})
    state = second.state_dict()
    assert {name for name, values in state.items() if values.device != meta} == {"fills"}
    assert int(state["fills"]) == min(steps, 5)
    batch = second.batch(steps, 20)
    assert len(batch.rays) == (24 if steps == 9 else 20)
    assert batch.rays.origins.device == batch.rgba.device == meta
    second.observe(batch, torch.zeros(len(batch.rays), device=meta))
    assert second.size == (20 if steps == 9 else 12)
