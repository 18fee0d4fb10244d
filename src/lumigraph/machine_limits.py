"""How many cores and how much memory this process may use, its container's limits included.

Imports nothing heavy: `lumigraph doctor` asks here even where no library can be imported.
"""

import contextlib
import os
import sys
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60
"""Version 1 of Linux's control groups writes a number of about this size where there is no limit."""


def available_cores() -> int:
    """Cores that this process may use: its affinity mask, and the CPU quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return cores


def memory_limit() -> int | None:
    """Bytes this process may ever use: the machine's memory, or its container's limit where that is lower."""
    sizes = [_container_limit()]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min((size for size in sizes if size is not None), default=None)


def available_memory() -> int:
    """Bytes that can still be allocated without swapping, within the limit of this process's container."""
    limits = [_machine_available(), _container_available()]
    return min((limit for limit in limits if limit is not None), default=sys.maxsize)


def _machine_available() -> int | None:
    with contextlib.suppress(ImportError, OSError):
        import psutil

        return psutil.virtual_memory().available
    return None


def _container_limit() -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # no such file, or the word "max": no limit
            limit = int((_CGROUP / name).read_text())
            return limit if limit < _NO_LIMIT else None
    return None


def _container_available() -> int | None:
    limit = _container_limit()
    if limit is None:
        return None
    for used, statistics, cache in (
        ("memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):
            # Cached files count as used but are given up on demand.
            cached = dict(line.split() for line in (_CGROUP / statistics).read_text().splitlines())
            return max(0, limit - int((_CGROUP / used).read_text()) + int(cached.get(cache, 0)))
    return None
