"""Detections as columns, and the merges that combine those of overlapping tiles."""
