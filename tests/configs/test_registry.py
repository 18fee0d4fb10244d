from importlib import metadata

import pytest

from lumigraph.configs import registry
from lumigraph.configs.registry import MethodEntry
from lumigraph.errors import LumigraphError


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch):
    """Pretend that an installed package adds these entry points."""

    def install(*points: metadata.EntryPoint) -> None:
        monkeypatch.setattr(registry.metadata, "entry_points", lambda group: points)
        registry.methods.cache_clear()

    yield install
    registry.methods.cache_clear()


EXTRA = MethodEntry(
    name="extra", kind="teacher", config="json:JSONDecoder", renderer="json:JSONEncoder", summary="x"
)


def point(name: str, value: str) -> metadata.EntryPoint:
    return metadata.EntryPoint(name, value, registry.ENTRY_POINTS)


@pytest.mark.parametrize("name", sorted(registry.METHODS))
def test_every_built_in_method_is_there(name: str) -> None:
    assert registry.load_config_class(name).__name__ in registry.METHODS[name].config
    assert hasattr(registry.load_renderer_class(name), "render")


def test_entry_points_add_methods(entry_points) -> None:
    entry_points(point("extra", f"{__name__}:EXTRA"))
    assert set(registry.methods()) == {*registry.METHODS, "extra"}
    assert registry.load_config_class("extra").__name__ == "JSONDecoder"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("extra", "no_such_module:EXTRA", "cannot be loaded"),
        ("extra", f"{__name__}:NOTHING", "cannot be loaded"),
        ("other", f"{__name__}:EXTRA", "is not a MethodEntry of that name"),
        ("extra", f"{__name__}:pytest", "is not a MethodEntry of that name"),
    ],
)
def test_a_broken_entry_point_is_named(entry_points, name: str, value: str, message: str) -> None:
    entry_points(point(name, value))
    with pytest.raises(LumigraphError, match=message):
        registry.methods()


def test_two_methods_of_one_name_are_refused(entry_points) -> None:
    entry_points(point("extra", f"{__name__}:EXTRA"), point("extra", f"{__name__}:EXTRA"))
    with pytest.raises(LumigraphError, match="two methods called 'extra'"):
        registry.methods()


def test_unknown_names_are_answered_with_close_ones() -> None:
    with pytest.raises(LumigraphError, match=r"no method 'npg'.*close to it: ngp"):
        registry.method_entry("npg")
    with pytest.raises(LumigraphError, match=r"no teacher 'r2l'.*there are: .*ngp"):
        registry.method_entry("r2l", "teacher")
