"""Arrays of photos, masks and depth maps: decoded when first asked for, and kept flat as long as they fit into a memory
budget, so that a draw of random pixels is one gather, whether they have one size or many."""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.machine_limits import available_cores, available_memory

log = logging.getLogger("lumigraph")


class MemoryBudget:
    """Memory that the decoded images, masks and depth maps of all splits of a scene share: who asks first gets it.

    Args:
        total: bytes; the default is half of what can be allocated when the first of them are decoded.
    """

    def __init__(self, total: int | None = None) -> None:
        self._left = total
        self._lock = threading.Lock()

    def claim(self, ends: Int[np.ndarray, " N"]) -> tuple[int, int]:
        """How many of N arrays may be kept, the first ones, and the bytes that were left before; `ends` holds the
        running sum of their bytes. What is kept is taken from the rest."""
        with self._lock:
            left = available_memory() // 2 if self._left is None else self._left
            count = int(np.searchsorted(ends, left, side="right"))
            self._left = left - (int(ends[count - 1]) if count else 0)
            return count, left


def threads() -> int:
    """How many threads decode images: one per core that this process may use, at most eight."""
    return min(8, available_cores())


@runtime_checkable
class Arrays(Protocol):
    """Arrays [H_i, W_i, C] by number, and pixels of them."""

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        ...

    def nbytes_of(self, index: int) -> int: ...

    def item(self, index: int) -> np.ndarray: ...

    def load(self, numbers: Sequence[int] | None = None) -> None:
        """Loads those of these numbers, or all, that are not there."""
        ...

    def gather(
        self, index: Int[Tensor, " B"], x: Int[Tensor, " B"], y: Int[Tensor, " B"]
    ) -> Shaped[Tensor, "B C"]:
        """Pixels; what they lie in must be loaded."""
        ...


def loaded(arrays: Arrays) -> Arrays:
    arrays.load()
    return arrays


class ArrayPart:
    """Some of the arrays of another, which keeps them."""

    def __init__(self, whole: Arrays, chosen: Sequence[int]) -> None:
        self._whole = whole
        self._chosen = torch.tensor(chosen, dtype=torch.int64)
        self.nbytes = sum(whole.nbytes_of(index) for index in chosen)

    def nbytes_of(self, index: int) -> int:
        return self._whole.nbytes_of(int(self._chosen[index]))

    def item(self, index: int) -> np.ndarray:
        return self._whole.item(int(self._chosen[index]))

    def load(self, numbers: Sequence[int] | None = None) -> None:
        chosen = self._chosen if numbers is None else self._chosen[torch.tensor(numbers, dtype=torch.int64)]
        self._whole.load(chosen.tolist())

    def gather(
        self, index: Int[Tensor, " B"], x: Int[Tensor, " B"], y: Int[Tensor, " B"]
    ) -> Shaped[Tensor, "B C"]:
        return self._whole.gather(self._chosen[index.cpu()], x, y)


class SparseArrays:
    """Arrays of which only some are stored; the others are NaN everywhere."""

    def __init__(self, stored: Arrays, places: Sequence[int], sizes: list[tuple[int, int]], channels: int):
        """`stored` holds those of the numbers `places`; `sizes`: (width, height) of all."""
        self._stored = stored
        self._sizes = sizes
        self._channels = channels
        self._rows = torch.full((len(sizes),), -1, dtype=torch.int64)
        self._rows[torch.tensor(places, dtype=torch.int64)] = torch.arange(len(places))
        self.nbytes = stored.nbytes

    def nbytes_of(self, index: int) -> int:
        row = int(self._rows[index])
        return 0 if row < 0 else self._stored.nbytes_of(row)

    def item(self, index: int) -> np.ndarray:
        row = int(self._rows[index])
        if row >= 0:
            return self._stored.item(row)
        width, height = self._sizes[index]
        return np.full((height, width, self._channels), np.nan, np.float32)

    def load(self, numbers: Sequence[int] | None = None) -> None:
        if numbers is None:
            self._stored.load()
            return
        rows = self._rows[torch.tensor(numbers, dtype=torch.int64)]
        self._stored.load(rows[rows >= 0].tolist())

    def gather(
        self, index: Int[Tensor, " B"], x: Int[Tensor, " B"], y: Int[Tensor, " B"]
    ) -> Shaped[Tensor, "B C"]:
        rows, x, y = self._rows[index.cpu()], x.cpu(), y.cpu()
        values = torch.full((len(rows), self._channels), torch.nan)
        there = rows >= 0
        values[there] = self._stored.gather(rows[there], x[there], y[there])
        return values


class ArrayLevels:
    """Arrays of another, each followed by the smaller ones that are made of it."""

    def __init__(self, whole: Arrays, smaller: Arrays, count: int) -> None:
        """`smaller` holds the `count` - 1 of the first array of `whole`, then those of the second, and so on."""
        self._whole = whole
        self._smaller = smaller
        self._count = count
        self.nbytes = whole.nbytes + smaller.nbytes

    def _place(self, index: Any) -> tuple[Any, Any, Any]:
        """Of numbers in the whole: whether they are of full size, their place there, and among the smaller ones."""
        place, level = index // self._count, index % self._count
        return level == 0, place, place * (self._count - 1) + level - 1

    def nbytes_of(self, index: int) -> int:
        full, place, smaller = self._place(index)
        return self._whole.nbytes_of(place) if full else self._smaller.nbytes_of(smaller)

    def item(self, index: int) -> np.ndarray:
        full, place, smaller = self._place(index)
        return self._whole.item(place) if full else self._smaller.item(smaller)

    def load(self, numbers: Sequence[int] | None = None) -> None:
        if numbers is None:
            self._whole.load()
            self._smaller.load()
            return
        places = [self._place(number) for number in numbers]
        self._whole.load([place for full, place, _ in places if full])
        self._smaller.load([smaller for full, _, smaller in places if not full])

    def gather(
        self, index: Int[Tensor, " B"], x: Int[Tensor, " B"], y: Int[Tensor, " B"]
    ) -> Shaped[Tensor, "B C"]:
        index, x, y = index.cpu(), x.cpu(), y.cpu()
        full, place, smaller = self._place(index)
        large = self._whole.gather(place[full], x[full], y[full])
        small = self._smaller.gather(smaller[~full], x[~full], y[~full])
        values = large.new_empty((len(index), large.shape[1]))
        values[full], values[~full] = large, small
        return values


class ArrayStore:
    """Arrays [H_i, W_i, C] loaded when first needed and kept flat: pixel (x, y) of i is row start_i + y W_i + x."""

    def __init__(
        self,
        load: Callable[[int], np.ndarray],
        sizes: list[tuple[int, int]],
        channels: int,
        dtype: Any,
        memory: MemoryBudget,
        names: list[str],
    ):
        self._load = load
        self._sizes = sizes
        self._channels = channels
        self._dtype = np.dtype(dtype)
        self._budget = memory
        self._names = names
        counts = np.array([width * height for width, height in sizes], dtype=np.int64)
        self._ends = np.cumsum(counts)
        self._starts = torch.from_numpy(self._ends - counts)
        self._widths = torch.tensor([width for width, _ in sizes], dtype=torch.int64)
        self.nbytes = int(counts.sum()) * channels * self._dtype.itemsize
        self._loaded = np.zeros(len(sizes), dtype=bool)
        self._kept: np.ndarray | None = None
        self._kept_images = len(sizes)
        self._lock = threading.Lock()

    def nbytes_of(self, index: int) -> int:
        width, height = self._sizes[index]
        return width * height * self._channels * self._dtype.itemsize

    def _memory(self) -> np.ndarray:
        """The flat array of the images that are kept: all of them, or the first ones that fit the budget."""
        with self._lock:
            if self._kept is None:
                self._kept = self._reserve()
        return self._kept

    def _reserve(self) -> np.ndarray:
        """Memory for as many images as the budget allows; says so when that is not all."""
        self._kept_images, left = self._budget.claim(self._ends * self._channels * self._dtype.itemsize)
        if self._kept_images < len(self._sizes):
            log.warning(
                "the images take %.1f GB of memory and %.1f GB are left to them: %d of %d are decoded anew each time, "
                "which is slow; a larger --downscale helps",
                self.nbytes / 1e9,
                left / 1e9,
                len(self._sizes) - self._kept_images,
                len(self._sizes),
            )
        rows = int(self._ends[self._kept_images - 1]) if self._kept_images else 0
        # Not touched yet: the system hands out the pages as images arrive.
        return np.empty((rows, self._channels), dtype=self._dtype)

    def _checked(self, index: int) -> np.ndarray:
        values = self._load(index)
        width, height = self._sizes[index]
        if values.shape != (height, width, self._channels) or values.dtype != self._dtype:
            raise LumigraphError(
                f"expected {width}x{height} with {self._channels} channels of {self._dtype}, "
                f"found {values.shape} of {values.dtype}",
                where=self._names[index],
                todo="Check that image and camera belong together",
            )
        return values

    def item(self, index: int) -> np.ndarray:
        index = range(len(self._sizes))[index]
        memory = self._memory()
        if index >= self._kept_images:
            return np.ascontiguousarray(self._checked(index))
        width, height = self._sizes[index]
        end = int(self._ends[index])
        view = memory[end - width * height : end].reshape(height, width, self._channels)
        if not self._loaded[index]:
            view[...] = self._checked(index)
            self._loaded[index] = True
        return view

    def load(self, numbers: Sequence[int] | None = None) -> None:
        self._memory()
        missing = ~self._loaded
        missing[self._kept_images :] = False
        places = np.arange(len(missing)) if numbers is None else np.array(numbers, dtype=np.int64)
        wanted = places[missing[places]].tolist()
        if not wanted:
            return
        with ThreadPoolExecutor(threads()) as pool:
            try:
                list(pool.map(self.item, wanted))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def gather(
        self, index: Int[Tensor, " B"], x: Int[Tensor, " B"], y: Int[Tensor, " B"]
    ) -> Shaped[Tensor, "B C"]:
        index, x, y = index.cpu(), x.cpu(), y.cpu()
        if self._kept_images == len(self._sizes):
            # index_select, not [...]: an order of magnitude faster on a CPU.
            rows = self._starts.index_select(0, index) + y * self._widths.index_select(0, index) + x
            return torch.from_numpy(self._memory()).index_select(0, rows)
        values = torch.empty((len(index), self._channels), dtype=torch.from_numpy(self._memory()).dtype)
        for one in index.unique().tolist():
            chosen = index == one
            values[chosen] = torch.from_numpy(self.item(one))[y[chosen], x[chosen]]
        return values
