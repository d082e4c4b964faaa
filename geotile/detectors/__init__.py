"""Families of detection networks: tiles → input tensors, output tensors → boxes, scores, labels."""

from geotile.detectors.detector import Detector, Tensor
from geotile.detectors.families import FAMILIES

__all__ = ["FAMILIES", "Detector", "Tensor"]
