"""Analytic scenes: exact colours, depths and alpha from any number of views, without a file on disk."""

from lumigraph.scenes.procedural.builtin import NAMES, ProceduralViews, load_builtin, make_scene
from lumigraph.scenes.procedural.writing import write_blender

__all__ = ["NAMES", "ProceduralViews", "load_builtin", "make_scene", "write_blender"]
