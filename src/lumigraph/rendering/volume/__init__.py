"""Integrating a radiance field along rays: which samples to take (march), and what they add up to (composite)."""
