"""What numbers of a config must satisfy, said in one way for all methods."""

from collections.abc import Iterable, Mapping
from typing import Any

GRID_RANGES = {
    "levels": (1, 64),
    "features": (1, 16),
    "log2_entries": (4, 28),
    "base_resolution": (2, 1 << 16),
    "finest_resolution": (2, 1 << 20),
}
"""Of the layout of a hash grid: a power of two of entries that memory can hold, and resolutions that float32 can."""


def check_numbers(
    config: Any,
    *,
    positive: tuple[str, ...] = (),
    not_negative: tuple[str, ...] = (),
    shares: tuple[str, ...] = (),
    ranges: Mapping[str, tuple[int, int]] | None = None,
) -> None:
    """Checks fields of `config` by name; a field that is None is left to its default and passes.

    Raises:
        ValueError: one of `positive` is not above 0, one of `not_negative` is below 0, one of `shares` is outside 0..1,
            or one of `ranges` outside its own range, ends included. NaN passes none.
    """
    for name, value in _given(config, positive):
        if not value > 0:
            raise ValueError(f"{name} must be positive, not {value}")
    for name, value in _given(config, not_negative):
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, and is {value}")
    within = dict.fromkeys(shares, (0, 1)) | dict(ranges or {})
    for name, value in _given(config, tuple(within)):
        least, most = within[name]
        if not least <= value <= most:
            raise ValueError(f"{name} must lie in {least}..{most}, not {value}")


def chosen(config: Any, others: Iterable[Any], name: str) -> bool:
    """Whether a field of `config` was chosen on the command line, as far as can be told: none of the `others`, the
    defaults and the presets, has its value."""
    return all(getattr(config, name) != getattr(other, name) for other in others)


def as_option(name: str) -> str:
    """A field as users type it."""
    return f"--{name.replace('_', '-')}"


def _given(config: Any, names: tuple[str, ...]) -> list[tuple[str, Any]]:
    return [(name, value) for name in names if (value := getattr(config, name)) is not None]
