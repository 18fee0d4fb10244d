"""Students: one file per method, each a network that answers for a ray in one evaluation."""
