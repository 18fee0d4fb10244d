"""What must hold for the environment and for the repository as a whole."""

import ast
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import TypeCheckError

import lumigraph
from lumigraph.evaluation.report import error_picture

REPOSITORY = Path(__file__).parents[1]
SOURCES = sorted((REPOSITORY / "src").rglob("*.py"))


@pytest.mark.parametrize("package", ["torchvision", "torchaudio"])
def test_packages_that_break_lightning_beside_a_cpu_torch_are_absent(package: str) -> None:
    assert find_spec(package) is None, (
        f"uninstall {package}: beside a CPU torch, lightning fails at import with it"
    )
    assert package + "==" not in (REPOSITORY / "constraints.txt").read_text("utf-8")


def test_shapes_are_checked_while_testing() -> None:
    with pytest.raises(TypeCheckError):
        error_picture(np.zeros((4, 4, 3)), np.zeros((4, 5, 3)), ceiling=1.0)


@pytest.mark.parametrize("word", ["weights_only=False", "allow_pickle=True", "import pickle", "shell=True"])
def test_nothing_that_runs_code_from_data(word: str) -> None:
    found = [
        str(path) for path in SOURCES if word.replace(" ", "") in path.read_text("utf-8").replace(" ", "")
    ]
    assert found == []


def test_every_dependency_has_a_tested_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines()
    }
    names = {re.split(r"[\[<>=]", name)[0].lower() for name in wanted} - {"lumigraph"}
    assert names - pinned == set()


@pytest.mark.parametrize("path", sorted((REPOSITORY / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_explain_themselves(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    said = ast.get_docstring(tree) or ""
    program = any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
    assert (
        f"python benchmarks/{path.name}" in said if program else said.startswith("Shared by the benchmarks")
    )
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
            assert any(keyword.arg == "help" for keyword in call.keywords), ast.unparse(call)


def test_version_is_one_that_installers_take() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", lumigraph.__version__)
