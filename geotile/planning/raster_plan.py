"""The plan of a run whose model answers rasters: regions that end where chunks of the output end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from geotile.blending.form import RasterForm
from geotile.blending.output_grid import OutputGrid
from geotile.core.choices import MAX_CLASSES
from geotile.core.thresholds import ANY, by_name
from geotile.detectors.class_names import class_names
from geotile.endpoints.raster import RasterAnswer
from geotile.errors import ArgumentError
from geotile.grid.regions import region_chunks
from geotile.grid.tile_grid import TileGrid
from geotile.options.raster import RasterOptions, check_classes

_CHUNK = 512  # pixels of a chunk of the output per pixel of its scale
_LARGE = 2**35  # pixels of an output from which chunks are twice as long, and so are regions whose size is "auto"
_MAX_PART_BYTES = 64 * 2**20  # of the sums of a region
_BINARY = 0.5


@dataclass(frozen=True, kw_only=True)
class RasterPlan:
    """Tiles, regions and form of an output."""

    grid: TileGrid
    out: OutputGrid
    form: RasterForm
    chunk: int
    """Side of a chunk of the output in pixels. Regions end where chunks end."""

    def with_grid(self, grid: TileGrid) -> RasterPlan:
        """Return the plan with other regions."""
        return replace(self, grid=grid, out=OutputGrid(grid, self.out.up, self.out.down))


def raster_plan(
    grid: TileGrid, answer: RasterAnswer, sent_yx: tuple[int, int], options: RasterOptions, *, auto: bool = True
) -> RasterPlan:  # fmt: skip
    """Return the plan of an output of which one answer is known.

    Parameters
    ----------
    grid : TileGrid
        Tiles, and regions of about the size that is wanted.
    answer : RasterAnswer
        The model's answer for a tile.
    sent_yx : tuple of int
        Height and width of the tile that it was sent.
    options : RasterOptions
    auto : bool, default True
        Whether the size of the regions was not chosen by the user.

    Raises
    ------
    ArgumentError
        If the options do not fit the answer.
    ResponseError
        If the size of the answer does not fit the tile.
    """
    up, down = answer.scale(sent_yx)
    form = replace(raster_form(answer, options), tiles_on_a_pixel=_tiles_on_a_pixel(grid))
    height, width = (-(-n * up // down) for n in grid.shape_yx)
    longer = 2 if height * width > _LARGE else 1
    chunk = _CHUNK * up * longer
    aligned = _with_regions(
        grid, chunk * down // up, down, _bytes_of_a_pixel(form) * up**2 / down**2, longer if auto else 1
    )
    return RasterPlan(grid=aligned, out=OutputGrid(aligned, up, down), form=form, chunk=chunk)


def _tiles_on_a_pixel(grid: TileGrid) -> int:
    counts = []
    for axis in grid.axes:
        stops = np.searchsorted(axis.starts, axis.starts + axis.tile, side="left")
        counts.append(int((stops - np.arange(len(stops))).max()))
    return counts[0] * counts[1]


def _with_regions(grid: TileGrid, edge: int, align: int, bytes_a_pixel: float, longer: int) -> TileGrid:
    """Return the grid with regions that end at multiples of `edge` pixels and whose sums fit in memory.

    They are `longer` times as long as those of the grid: a region takes seven tasks, and Dask's scheduler some kB for
    each.
    """
    side = max(edge, int((_MAX_PART_BYTES / bytes_a_pixel) ** 0.5))
    y, x = (
        region_chunks(axis.length, axis.tile, axis.overlap, np.arange(edge, axis.length, edge), size)
        for axis, size in ((axis, max(min(side, longer * max(axis.chunks)), edge)) for axis in grid.axes)
    )
    return TileGrid(grid.shape_yx, grid.tile_size, grid.overlap, (y, x), align)


def _bytes_of_a_pixel(form: RasterForm) -> int:
    """Return the size of what is kept of a pixel until it is blended."""
    if form.blend == "trim":
        return 1 + 2 * (form.bands or 1) * (2 if form.output == "scores" else form.dtype.itemsize)
    return 4 + form.sum_dtype.itemsize * (form.n_classes or form.planes if form.is_class_map else form.planes)


def named_classes(options: RasterOptions) -> Sequence[str] | None:
    """Return the names of the classes that a user gives, in the order of their numbers.

    Raises
    ------
    ArgumentError
        If a file cannot be read, or a class has no name.
    """
    names = class_names(options.classes, "classes")
    if names is None:
        return None
    missing = sorted(set(range(len(names))) - set(names))
    if missing:
        raise ArgumentError(f"classes must name all classes, from number 0 on; class {missing[0]} has no name")
    named = [names[number] for number in range(len(names))]
    check_classes(named)
    return named


def raster_form(answer: RasterAnswer, options: RasterOptions) -> RasterForm:
    """Return what becomes of answers such as this one."""
    planes, kind = len(answer.values), answer.values.dtype.kind
    is_class_map = options.output != "values" and kind in "bui"
    named = named_classes(options)
    classes = answer.classes if named is None else tuple(named)
    if is_class_map:
        _check_class_map(planes, classes, options)
    elif options.output == "values":
        classes = _checked_names(classes, planes, planes, options)
    else:
        wanted = 2 if planes == 1 and options.output == "classes" else planes
        classes = _checked_names(classes, wanted, planes, options)
        if planes == 1 and options.activation == "softmax":
            raise ArgumentError(
                "activation='softmax' would make a score of 1 of whatever the model answers, which is one value for a "
                "pixel; use 'sigmoid'"
            )
        if planes > MAX_CLASSES:
            raise ArgumentError(f"the model must have at most {MAX_CLASSES:,} classes; its answer has {planes:,}")
    thresholds = (
        None if options.output != "classes" or is_class_map else _thresholds(options.threshold, planes, classes)
    )
    numbers = len(classes) if classes is not None else planes
    small = numbers <= 255 if not is_class_map or classes is not None else answer.values.dtype.itemsize == 1
    return RasterForm(
        output=options.output, blend=options.blend, planes=planes, is_class_map=is_class_map,
        activation=options.activation or "none", thresholds=thresholds, classes=classes,
        score_dtype=options.score_dtype, small=small,
    )  # fmt: skip


def _check_class_map(planes: int, classes: Sequence[str] | None, options: RasterOptions) -> None:
    if planes > 1:
        raise ArgumentError(
            f"the model answers integers in {planes} planes. Have it return the number of a class for each pixel, "
            "(y, x), or scores as floats, (class, y, x); or use output='values'"
        )
    if options.output == "scores":
        raise ArgumentError("the model answers class numbers, not scores; use output='classes'")
    for name in ("threshold", "activation"):
        if getattr(options, name) is not None:
            raise ArgumentError(f"{name} would have no effect: the model answers class numbers; leave it out")
    if options.blend != "trim" and classes is None:
        raise ArgumentError(f"blend={options.blend!r} counts votes for each class; give their names with classes=")


def _checked_names(
    classes: Sequence[str] | None, wanted: int, planes: int, options: RasterOptions
) -> tuple[str, ...] | None:
    if classes is None:
        return None
    if len(classes) != wanted:
        if options.classes is None:
            return None  # the file's names of its planes do not fit the classes, so they name something else
        of_one = (planes, wanted) == (1, 2)
        why = "for 0 and 1, since the model answers one score for a pixel" if of_one else "as the model answers planes"
        raise ArgumentError(f"classes must have {wanted} names, {why}; got {list(classes)!r}")
    return tuple(classes)


def _thresholds(
    threshold: float | Mapping[str, float] | None, planes: int, classes: Sequence[str] | None
) -> tuple[float, ...] | None:
    if threshold is None:
        return (_BINARY,) if planes == 1 else None
    return tuple(by_name(threshold, [ANY] * planes if classes is None else classes[-planes:], "threshold"))


def describe(form: RasterForm) -> dict[str, Any]:
    """Return what the values of an output depend on, as JSON."""
    return dict(vars(form))
