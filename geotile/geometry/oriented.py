"""Oriented boxes: rectangles at any angle."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def corners_of(xywhr: NDArray[Any]) -> NDArray[Any]:
    """Return the corners of oriented boxes.

    Parameters
    ----------
    xywhr : numpy.ndarray
        (n, 5): x and y of the centre, length of the side at the angle, length of the other side, and the angle from the
        x axis to the first side in radians. Positive angles turn towards the y axis, which is clockwise in an image.

    Returns
    -------
    numpy.ndarray
        (n, 4, 2) of the same dtype, x and y of the corners, one after the other around the box.

    References
    ----------
    ``xywhr2xyxyxyxy`` of Ultralytics; MMRotate's version "oc" and "le90" have the same meaning.

    Examples
    --------
    >>> corners_of(np.array([[10.0, 10, 8, 4, 0]])).tolist()
    [[[14.0, 12.0], [14.0, 8.0], [6.0, 8.0], [6.0, 12.0]]]
    """
    centre, width, height, angle = xywhr[:, :2], xywhr[:, 2:3] / 2, xywhr[:, 3:4] / 2, xywhr[:, 4:5]
    cos, sin = np.cos(angle), np.sin(angle)
    along, across = np.hstack([width * cos, width * sin]), np.hstack([-height * sin, height * cos])
    ends = centre + along, centre - along
    return np.stack([ends[0] + across, ends[0] - across, ends[1] - across, ends[1] + across], axis=1)
