"""Blending: what overlapping tiles say of each pixel becomes one value, the same however the work is divided."""
