"""What all tests share: shapes are checked at run time here, and real data is found where it is."""

import os
from pathlib import Path

# Before the hook below is installed: what a hooked module is the first to import, the hook looks for in a cache of its
# own, and compiles anew where that is empty. These are most of it.
import lightning.pytorch  # noqa: F401
import pytest
from jaxtyping import install_import_hook

REPOSITORY = Path(__file__).parents[1]
SOURCE = REPOSITORY / "src"


def _keep_to_one_core() -> None:
    """Of several test processes each has a core of its own, so that none takes threads for all cores: threads that wait
    for each other's processes made some tests ten times as slow."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


_keep_to_one_core()


def _checked_modules() -> list[str]:
    """Modules whose signatures are checked: all, except those that hold numba kernels, which no decorator may wrap."""
    names = []
    for path in sorted((SOURCE / "lumigraph").rglob("*.py")):
        if (
            path.name != "__init__.py"
            and "import numba" not in (text := path.read_text("utf-8"))
            and "from numba" not in text
        ):
            names.append(".".join(path.relative_to(SOURCE).with_suffix("").parts))
    return names


# Shapes are documentation in production and checked here. A test of torch.compile must switch this off around its call:
# jaxtyping.config.update("jaxtyping_disable", True).
install_import_hook(_checked_modules(), "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real scenes, kept beside the repository; tests that need them are skipped where they are absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder of real scenes is not beside this repository")
    return folder
