"""Which methods exist. Everything here is names: a method's code is imported only when it is asked for."""

import difflib
import importlib
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any, Literal

from lumigraph.configs.serial import config_from_json as config_from_json
from lumigraph.configs.serial import config_to_json as config_to_json
from lumigraph.errors import LumigraphError

ENTRY_POINTS = "lumigraph.methods"
"""Packages add methods here: the entry point's name is the method's, its value a `MethodEntry`."""

Kind = Literal["teacher", "student"]


@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """One method, by the places where its parts are found (`module:Class`)."""

    name: str
    """What users type."""
    kind: Kind
    """A teacher is trained on photos; a student is distilled from a teacher."""
    config: str
    """Config dataclass, with `training_steps`, the length of training where none is asked for. Its module must not
    import torch, and may hold `PRESETS: dict[str, config]`."""
    renderer: str
    """The `Renderer` class; built by `from_scene(config, info)`."""
    summary: str
    """One line for --help."""


METHODS: dict[str, MethodEntry] = {
    entry.name: entry
    for entry in (
        MethodEntry(
            name="ngp",
            kind="teacher",
            config="lumigraph.configs.ngp:NGPConfig",
            renderer="lumigraph.teachers.ngp:NGP",
            summary="Instant-NGP: a hash grid with an occupancy grid; minutes on a CPU; --cones for several scales",
        ),
        MethodEntry(
            name="dynamic-ngp",
            kind="teacher",
            config="lumigraph.configs.dynamic_ngp:DynamicNGPConfig",
            renderer="lumigraph.teachers.dynamic_ngp:DynamicNGP",
            summary="Instant-NGP for scenes that move or have attributes: grids of space and time; minutes on a CPU",
        ),
        MethodEntry(
            name="nerf",
            kind="teacher",
            config="lumigraph.configs.nerf:NeRFConfig",
            renderer="lumigraph.teachers.nerf:NeRF",
            summary="NeRF: a coarse and a fine MLP, sampled densely; also what published checkpoints become",
        ),
        MethodEntry(
            name="mipnerf",
            kind="teacher",
            config="lumigraph.configs.mipnerf:MipNeRFConfig",
            renderer="lumigraph.teachers.mipnerf:MipNeRF",
            summary="Mip-NeRF: cones instead of rays, for pictures of several scales without aliasing",
        ),
        MethodEntry(
            name="mipnerf360",
            kind="teacher",
            config="lumigraph.configs.mipnerf360:MipNeRF360Config",
            renderer="lumigraph.teachers.mipnerf360:MipNeRF360",
            summary="mip-NeRF 360: proposal networks, contraction of unbounded scenes, codes of cameras",
        ),
        MethodEntry(
            name="dnerf",
            kind="teacher",
            config="lumigraph.configs.dnerf:DNeRFConfig",
            renderer="lumigraph.teachers.dnerf:DNeRF",
            summary="D-NeRF: a moving scene as a still field and a network that takes points to where they were",
        ),
        MethodEntry(
            name="tnerf",
            kind="teacher",
            config="lumigraph.configs.tnerf:TNeRFConfig",
            renderer="lumigraph.teachers.dnerf:DNeRF",
            summary="T-NeRF: a moving scene as a NeRF with time as an input, the baseline of D-NeRF",
        ),
        MethodEntry(
            name="hypernerf",
            kind="teacher",
            config="lumigraph.configs.hypernerf:HyperNeRFConfig",
            renderer="lumigraph.teachers.hypernerf:HyperNeRF",
            summary="HyperNeRF: scenes that move and change topology, warped to a template with ambient dimensions",
        ),
        MethodEntry(
            name="conerf",
            kind="teacher",
            config="lumigraph.configs.conerf:CoNeRFConfig",
            renderer="lumigraph.teachers.conerf:CoNeRF",
            summary="CoNeRF: scenes that move, of which named attributes are controlled, each with a mask",
        ),
        MethodEntry(
            name="r2l",
            kind="student",
            config="lumigraph.configs.r2l:R2LConfig",
            renderer="lumigraph.students.r2l:R2L",
            summary="R2L: a deep residual MLP from a ray to its colour, one evaluation per ray",
        ),
        MethodEntry(
            name="dylin",
            kind="student",
            config="lumigraph.configs.dylin:DyLiNConfig",
            renderer="lumigraph.students.dylin:DyLiN",
            summary="DyLiN: a light field of a moving scene; time moves the ray before it is answered",
        ),
        MethodEntry(
            name="codylin",
            kind="student",
            config="lumigraph.configs.codylin:CoDyLiNConfig",
            renderer="lumigraph.students.codylin:CoDyLiN",
            summary="CoDyLiN: DyLiN with attributes, such as a head's turn, that are set when it is drawn",
        ),
        MethodEntry(
            name="mobile-r2l",
            kind="student",
            config="lumigraph.configs.mobile_r2l:MobileR2LConfig",
            renderer="lumigraph.students.mobile_r2l:MobileR2L",
            summary="MobileR2L: a picture in one pass of a convolutional network, for phones and browsers",
        ),
        MethodEntry(
            name="mobile-dylin",
            kind="student",
            config="lumigraph.configs.mobile_dylin:MobileDyLiNConfig",
            renderer="lumigraph.students.mobile_dylin:MobileDyLiN",
            summary="MobileDyLiN: MobileR2L for scenes that move or have attributes, which move the rays as in DyLiN",
        ),
        MethodEntry(
            name="lightspeed",
            kind="student",
            config="lumigraph.configs.lightspeed:LightSpeedConfig",
            renderer="lumigraph.students.lightspeed:LightSpeed",
            summary="LightSpeed: a picture in one pass, most of it looked up in grids of ray coordinates",
        ),
    )
}


@cache
def methods() -> dict[str, MethodEntry]:
    """All methods: the built-in ones, then those of installed packages, by name."""
    found = dict(METHODS)
    for point in metadata.entry_points(group=ENTRY_POINTS):
        package = point.dist.name if point.dist else point.value
        advice = f"update or uninstall {package}"
        try:
            entry = point.load()
        except (ImportError, AttributeError) as error:
            raise LumigraphError(
                f"method {point.name!r} cannot be loaded: {error}", where=package, todo=advice
            ) from error
        if not isinstance(entry, MethodEntry) or entry.name != point.name:
            raise LumigraphError(
                f"entry point {point.name!r} is not a MethodEntry of that name", where=package, todo=advice
            )
        if entry.name in found:
            raise LumigraphError(f"there are two methods called {entry.name!r}", where=package, todo=advice)
        found[entry.name] = entry
    return found


def method_entry(name: str, kind: Kind | None = None) -> MethodEntry:
    """The entry of a method, by name; an unknown one raises `LumigraphError` with the closest names."""
    available = {key: entry for key, entry in methods().items() if kind in (None, entry.kind)}
    if name in available:
        return available[name]
    what = kind or "method"
    close = difflib.get_close_matches(name, available, n=3, cutoff=0.5)
    hint = f"close to it: {', '.join(close)}" if close else f"there are: {', '.join(sorted(available))}"
    raise LumigraphError(f"there is no {what} {name!r}", todo=hint)


def load_config_class(name: str) -> type[Any]:
    """The config dataclass of a method. Imports no torch."""
    return _load(method_entry(name).config)


def load_renderer_class(name: str) -> type[Any]:
    """The `Renderer` class of a method."""
    return _load(method_entry(name).renderer)


def load_presets(name: str) -> dict[str, Any]:
    """The named configs of a method; empty where it has none."""
    module = importlib.import_module(method_entry(name).config.partition(":")[0])
    return dict(getattr(module, "PRESETS", {}))


def preset(name: str, preset_name: str) -> Any:
    """One named config of a method; an unknown one raises `LumigraphError` with the names that exist."""
    presets = load_presets(name)
    if preset_name not in presets:
        known = ", ".join(presets) or "none"
        raise LumigraphError(f"{name} has no preset {preset_name!r}", todo=f"presets: {known}")
    return presets[preset_name]


def _load(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)
