"""How many key points a network returns, and whether each has a score."""

from __future__ import annotations

from geotile.errors import ArgumentError


def keypoint_shape(channels: int | None, classes: int | None, said: tuple[int, int] | None) -> tuple[int, int]:
    """Return the number of key points of a detection, and of the values of each: x and y, or x, y and a score.

    Parameters
    ----------
    channels : int, optional
        Number of values of a detection without its box.
    classes : int, optional
        Number of these that are scores or the class number.
    said : tuple of int, optional
        Shape that the metadata of the model say.

    Raises
    ------
    ArgumentError
        If the shape is not known, or the metadata say another one than the outputs have.

    Examples
    --------
    >>> keypoint_shape(52, 1, None)  # 51 values are 17 times 3
    (17, 3)
    """
    values = None if channels is None or classes is None else channels - classes
    if said is not None:
        if said[1] not in (2, 3) or values not in (None, said[0] * said[1]):
            raise ArgumentError(
                f"the metadata of the model say kpt_shape={list(said)}, and its output has {values} values for them. "
                "Export the model again"
            )
        return said
    fitting = [] if values is None else [(values // d, d) for d in (2, 3) if values > 0 and values % d == 0]
    if len(fitting) != 1:
        raise ArgumentError(
            "the number of key points must be known; the metadata of the model do not say kpt_shape, and its output "
            f"has {'an unknown number of' if values is None else values} values for them. Give labels with one name "
            "per class, or export the model with its metadata"
        )
    return fitting[0]
