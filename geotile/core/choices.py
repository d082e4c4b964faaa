"""The values that options with a fixed set of values take."""

from __future__ import annotations

from typing import Literal

TileFormat = Literal["GTIFF", "NITF", "PNG", "JPEG", "NPY"]
TileCompression = Literal["NONE", "LZW", "JPEG", "J2K"]
OverlapMetric = Literal["iou", "ios"]
SarRemap = Literal["amplitude", "quarter_power"]
MERGE_NAMES = ("seam", "nms", "soft-nms", "greedy-nmm", "nmm", "union", "point-nms", "none")
"""Names of the merges; parameters may follow, as in ``"soft-nms:sigma=0.5"``."""
OutputKind = Literal["classes", "scores", "values"]
Blend = Literal["trim", "hann", "mean", "vote"]
Activation = Literal["softmax", "sigmoid", "none"]
ScoreDtype = Literal["uint8", "float32"]
MAX_CLASSES = 65_535
"""Of an output of classes; the last number of uint16 is nodata."""
Tokens = Literal["single", "class", "mean", "patches"]
EmbeddingDtype = Literal["float32", "float16"]
