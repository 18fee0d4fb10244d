"""Multi-resolution hash encoding (Instant-NGP, Mueller et al. 2022, section 3)."""

from lumigraph.fields.hashgrid.encoding import HashGrid
from lumigraph.fields.hashgrid.layout import GridLayout

__all__ = ["GridLayout", "HashGrid"]
