"""Which views train, and which are held out. Imports nothing heavy: the command line shows these options."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from lumigraph.errors import LumigraphError

Rule = Literal["auto", "files", "every", "most_centred", "names", "fraction", "interpolation", "all"]
Select = Literal["first", "uniform", "farthest"]


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """How views are divided into train, val and test."""

    split: Rule = "auto"
    """auto: as the scene's files say, else every k-th; files: as the files say; every: the 1st, k+1st, ... view by
    name is a test view; most_centred: the view nearest to the middle of all cameras is the one test view; names:
    the test views are those of --test-names; fraction: evenly spread training views; interpolation: in the order of
    their times every --interval-th view trains, and the middle ones between them are the val views; all: every view
    trains, none is held out."""
    every: int = 8
    """The k of every k-th."""
    fraction: float = 0.9
    """The part of the views that trains, for --split fraction."""
    interval: int = 4
    """The distance between training views, for --split interpolation: an even number."""
    views: int | None = None
    """Train on so few of the training views, which must be there; the held-out ones stay as they are (None: all)."""
    select: Select = "first"
    """Which ones: the first by name, uniformly spread in that order, or those farthest apart in space."""
    test_names: tuple[str, ...] = ()
    """File names of the test views, with or without folder and extension, for --split names."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "SplitOptions":
        """The inverse of `dataclasses.asdict`.

        Raises:
            TypeError, AttributeError: `data` has another form.
        """
        return cls(**{**data, "test_names": tuple(data.get("test_names", ()))})

    def check(self) -> None:
        """Raises LumigraphError when a value is out of its range."""
        if self.every < 2:
            raise LumigraphError(f"--every {self.every} leaves nothing to train on", todo="Choose 2 or more")
        if self.interval < 2 or self.interval % 2:
            raise LumigraphError(
                f"--interval {self.interval} has no middle", todo="Choose an even number, for example 4"
            )
        if not 0.0 < self.fraction < 1.0:
            raise LumigraphError(
                f"--fraction {self.fraction} is not between 0 and 1", todo="Choose for example 0.9"
            )
        if self.views is not None and self.views < 1:
            raise LumigraphError(f"--views {self.views} leaves nothing to train on", todo="Choose 1 or more")
        if bool(self.test_names) != (self.split == "names"):
            raise LumigraphError(
                "--split names and --test-names need each other",
                todo="Give both, as in --split names --test-names 003.png 007.png, or neither",
            )


def divide(
    names: Sequence[str],
    options: SplitOptions,
    listed: Mapping[str, Sequence[str]] | None,
    where: str,
    positions: Sequence[Sequence[float]] | None = None,
    times: Sequence[float] | None = None,
) -> dict[str, list[int]]:
    """The places in `names` of the views of each split; splits without views are left out.

    Args:
        names: the views, in the order of their names.
        options: the rule.
        listed: the names that the scene's files put into each split, or None where they say nothing.
        where: the file, for messages.
        positions: of the camera of each view, in any units; None where the format has none.
        times: of each view, in any units; None where the scene is still.

    Raises:
        LumigraphError: the rule asks for lists or positions that do not exist, or leaves no view to train on.
    """
    options.check()
    rule = options.split
    if rule == "auto":
        rule = "every" if listed is None else "files"
    if rule == "files":
        result = _listed(names, listed, where)
    elif rule == "interpolation":
        result = _between(_moments(len(names), times), options.interval, where)
    else:
        held_out = _held_out(rule, names, options, positions, where)
        result = {"train": [i for i in range(len(names)) if i not in held_out], "test": sorted(held_out)}
    result = {part: chosen for part, chosen in result.items() if chosen}
    if "train" not in result:
        raise LumigraphError(
            f"no training view is left of {len(names)}",
            where=where,
            todo="Add images, or choose another --split",
        )
    return result


def few(positions: Sequence[Sequence[float]], count: int, select: Select, where: str) -> list[int]:
    """`count` of the views at `positions`, in ascending order.

    "first" takes the first; "uniform" spreads them evenly over the order, both ends included; "farthest" begins with
    the first and goes on with the one that is farthest from all taken so far.

    Raises:
        LumigraphError: there are fewer views.
    """
    there = len(positions)
    if count > there:
        raise LumigraphError(
            f"--views {count} is more than the {there} training views of this scene",
            where=where,
            todo=f"Choose at most {there}, or leave --views out",
        )
    if select == "first":
        return list(range(count))
    if select == "uniform":
        return sorted({round(i * (there - 1) / max(count - 1, 1)) for i in range(count)})
    taken, away = [0], [math.dist(place, positions[0]) for place in positions]
    while len(taken) < count:
        farthest = max((i for i in range(there) if i not in taken), key=lambda i: away[i])
        taken.append(farthest)
        away = [
            min(old, math.dist(place, positions[farthest]))
            for old, place in zip(away, positions, strict=True)
        ]
    return sorted(taken)


def _listed(
    names: Sequence[str], listed: Mapping[str, Sequence[str]] | None, where: str
) -> dict[str, list[int]]:
    if listed is None:
        raise LumigraphError(
            "the files of this scene list no splits",
            where=where,
            todo="Choose another --split, such as every",
        )
    places = {name: place for place, name in enumerate(names)}
    return {
        part: sorted(places[name] for name in set(chosen) & places.keys()) for part, chosen in listed.items()
    }


def _moments(count: int, times: Sequence[float] | None) -> list[list[int]]:
    """The places of all views, those of one time together, in the order of their times; each for itself, in the order
    of their names, where nothing has a time."""
    if times is None:
        return [[place] for place in range(count)]
    found: dict[float, list[int]] = {}
    for place, time in enumerate(times):
        found.setdefault(time, []).append(place)
    return [found[time] for time in sorted(found)]


def _between(moments: Sequence[Sequence[int]], interval: int, where: str) -> dict[str, list[int]]:
    """Every `interval`-th moment trains, the middle of each gap judges, the others are left out (HyperNeRF's
    `InterpDataSource`). What several cameras saw at a moment stays together."""
    if interval >= len(moments):
        raise LumigraphError(
            f"--interval {interval} leaves no gap between the views of {len(moments)} moments",
            where=where,
            todo="Choose a smaller one",
        )
    train = range(0, len(moments), interval)
    middles = [place + interval // 2 for place in train[:-1]]
    return {
        part: sorted(view for place in chosen for view in moments[place])
        for part, chosen in (("train", train), ("val", middles))
    }


def _held_out(
    rule: Rule,
    names: Sequence[str],
    options: SplitOptions,
    positions: Sequence[Sequence[float]] | None,
    where: str,
) -> set[int]:
    """The test views by every rule that has only training and test views."""
    count = len(names)
    if rule == "every":
        return set(range(0, count, options.every))
    if rule == "fraction":
        kept = math.ceil(count * options.fraction)
        return set(range(count)) - {round(i * (count - 1) / max(kept - 1, 1)) for i in range(kept)}
    if rule == "most_centred":
        return {_most_centred(positions, where)}
    if rule == "names":
        return {_named(wanted, names, where) for wanted in options.test_names}
    return set()


def _most_centred(positions: Sequence[Sequence[float]] | None, where: str) -> int:
    """The camera nearest to the mean of all; the first of several (nerf_pl, `LLFFDataset`)."""
    if positions is None:
        raise LumigraphError(
            "--split most_centred cannot be applied to this format", where=where, todo="Choose --split every"
        )
    middle = [math.fsum(axis) / len(positions) for axis in zip(*positions, strict=True)]
    return min(range(len(positions)), key=lambda i: math.dist(positions[i], middle))


def _named(wanted: str, names: Sequence[str], where: str) -> int:
    """The one view that a name given by the user means."""

    def means(name: str) -> bool:
        path = PurePosixPath(name)
        return wanted in (name, path.name, path.stem) or name.endswith(f"/{wanted}")

    found = [place for place, name in enumerate(names) if means(name)]
    if len(found) == 1:
        return found[0]
    if not found:
        close = difflib.get_close_matches(wanted, names, n=3, cutoff=0.3) or names[:3]
        todo = f"Did you mean {' or '.join(close)}?"
        raise LumigraphError(f"--test-names {wanted!r} is no view", where=where, todo=todo)
    raise LumigraphError(
        f"--test-names {wanted!r} means several views: {', '.join(names[place] for place in found[:3])}",
        where=where,
        todo="Give the whole name",
    )
