"""Cameras, rays, rotations, trajectories, bounds and contraction."""
