"""What must hold for the environment and for the repository as a whole."""

from importlib.util import find_spec

import pytest


@pytest.mark.parametrize("package", ["torchvision", "torchaudio"])
def test_packages_that_break_lightning_beside_a_cpu_torch_are_absent(package: str) -> None:
    assert find_spec(package) is None, (
        f"uninstall {package}: beside a CPU torch, lightning fails at import with it"
    )
