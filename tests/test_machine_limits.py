"""The limits of a container count, whichever version of control groups sets them."""

from pathlib import Path

import pytest

from lumigraph import machine_limits
from lumigraph.cli import doctor
from lumigraph.rendering import machine
from lumigraph.scenes import stored_arrays

GIB = 2**30


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which control groups say their limits; empty."""
    monkeypatch.setattr(machine_limits, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine_limits, "_machine_available", lambda: 64 * GIB)
    monkeypatch.setattr(machine_limits.os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    return tmp_path


def limit(folder: Path, version: int) -> None:
    """3 GiB, of which 2 are used, 1/2 by cached files."""
    if version == 2:
        (folder / "memory.max").write_text(f"{3 * GIB}\n")
        (folder / "memory.current").write_text(f"{2 * GIB}\n")
        (folder / "memory.stat").write_text(f"anon 17\ninactive_file {GIB // 2}\n")
    else:
        (folder / "memory").mkdir()
        (folder / "memory" / "memory.limit_in_bytes").write_text(f"{3 * GIB}\n")
        (folder / "memory" / "memory.usage_in_bytes").write_text(f"{2 * GIB}\n")
        (folder / "memory" / "memory.stat").write_text(f"cache 17\ntotal_inactive_file {GIB // 2}\n")


@pytest.mark.parametrize("version", [1, 2])
def test_memory_of_a_container(container: Path, version: int) -> None:
    limit(container, version)
    assert machine_limits.memory_limit() == min(3 * GIB, machine_limits.memory_limit() or 0)
    assert machine_limits.available_memory() == 3 * GIB // 2


def test_without_a_limit_the_machine_counts(container: Path) -> None:
    assert machine_limits.available_memory() == 64 * GIB
    (container / "memory.max").write_text("max\n")
    assert machine_limits.available_memory() == 64 * GIB
    (container / "memory.max").unlink()
    (container / "memory").mkdir()
    (container / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert machine_limits.available_memory() == 64 * GIB
    assert (machine_limits.memory_limit() or 0) < 2**60


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 12), ("250000 100000", 2), ("1000 100000", 1)])
def test_cores_of_a_container(container: Path, quota: str, cores: int) -> None:
    (container / "cpu.max").write_text(quota)
    assert machine_limits.available_cores() == cores


def test_everyone_asks_the_same(container: Path) -> None:
    """Readers of images, the choice of threads, and the doctor."""
    import torch

    limit(container, 2)
    (container / "cpu.max").write_text("300000 100000")
    assert stored_arrays.threads() == 3
    assert machine.available_cores() == 3
    assert doctor._cores().detail.startswith("3 usable of")
    assert machine.available_memory(torch.device("cpu")) == 3 * GIB // 2
    assert doctor._memory().detail == "3.0 GiB"
    assert stored_arrays.MemoryBudget().claim(stored_arrays.np.array([GIB // 2, GIB])) == (1, 3 * GIB // 4)
