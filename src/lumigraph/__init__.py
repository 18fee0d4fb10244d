"""lumigraph: from photos to a neural light field that renders in one network evaluation per ray."""

__version__ = "0.1.0"
