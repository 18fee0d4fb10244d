"""Distillation: pseudo views from a teacher, stored or live, and the rays a student still gets wrong."""
