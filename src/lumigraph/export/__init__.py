"""Renderers as files that other programs open: ONNX graphs, and bundles that hold them with all a player needs."""
