"""Scenes: cameras, images, splits, bounds and background, from files or from formulas."""
