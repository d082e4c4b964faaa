"""Detections as columns, and the merges that make one set of them."""
