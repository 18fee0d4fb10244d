"""Optimisers by name: torch's, Lookahead over RAdam, and the Adam of tables, whose kernels come when needed."""

from typing import Any

import torch
from torch import Tensor

OPTIMISERS = ("adam", "adamw", "sgd", "radam", "ranger")
"""What `make_optimiser` knows."""


def make_optimiser(name: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """One optimiser by name over parameter groups, each with `params`, `lr`, `betas`, `eps`, `weight_decay` and
    `momentum` (of sgd); `table` marks those of hash grids, which only adam knows.

    Ranger's first moment fades with 0.95 whatever `betas` says, as in nerf_pl.
    """
    if any(group.get("table") for group in groups):
        from lumigraph.fields.optimisers import TableAdam

        if name != "adam":
            raise ValueError(f"{name} does not know tables, adam does")
        return TableAdam(_without(groups, "momentum"))
    if name in ("adam", "adamw"):
        kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
        optimiser: torch.optim.Optimizer = kind(_without(groups, "momentum"), fused=True)
        optimiser.register_step_post_hook(_count_as_changed)
        return optimiser
    if name == "sgd":
        return torch.optim.SGD(_without(groups, "betas", "eps"))
    if name == "radam":
        return torch.optim.RAdam(_without(groups, "momentum"))
    if name == "ranger":
        return Ranger(
            [{**group, "betas": (0.95, group["betas"][1])} for group in _without(groups, "momentum")]
        )
    raise ValueError(f"there is no optimiser {name!r}, only {', '.join(OPTIMISERS)}")


def warm_up_tables(tables: list[Tensor]) -> None:
    """Compiles what steps tables of these sizes [entries, features]."""
    if not tables:
        return
    from lumigraph.fields.optimisers import TableAdam

    for table in tables:
        rows = torch.zeros(8, table.shape[1], device=table.device, requires_grad=True)
        rows.grad = torch.ones_like(rows)
        TableAdam([{"params": [rows], "lr": 0.0, "table": True}]).step()


def _without(groups: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in group.items() if key not in names} for group in groups]


def _count_as_changed(optimiser: torch.optim.Optimizer, *_: Any) -> None:
    """Fused Adam changes parameters behind autograd's back: whoever keeps something derived from them (packed
    weights) goes by their version."""
    for group in optimiser.param_groups:
        torch.autograd.graph.increment_version(group["params"])


class Ranger(torch.optim.RAdam):
    """RAdam (Liu et al. 2020) with Lookahead (Zhang et al. 2019): every `EVERY` steps the slow weights go the part
    `PART` of the way to the fast ones, which go on from there.

    The slow weights are in the state of each parameter (`slow`), so that checkpoints hold them.
    """

    EVERY = 6
    PART = 0.5

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        moved = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        # Not into the state yet: RAdam takes a state that is not empty for one of its own.
        first = {p: p.detach().clone() for p in moved if "slow" not in self.state[p]}
        loss = super().step(closure)
        for p in moved:
            state = self.state[p]
            if p in first:
                state["slow"] = first[p]
            if int(state["step"]) % self.EVERY == 0:
                p.copy_(state["slow"].lerp_(p, self.PART))
        return loss
