"""The plan of a run: its tiles, regions and requests, made without reading a pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import shapely
import xarray as xr
from numpy.typing import NDArray

from geotile.core.checks import Pair
from geotile.core.html_table import html_card, html_table
from geotile.core.option import with_options
from geotile.encoding.encoder import Encoder
from geotile.endpoints import endpoint as as_endpoint
from geotile.endpoints.base import Endpoint
from geotile.errors import ArgumentError
from geotile.geometry.georeference import Georeference, georeference_of, wkt_of
from geotile.grid.drawing import grid_legend, grid_svg
from geotile.grid.regions import MERGED_YX, plan_grid
from geotile.grid.tile_grid import TileGrid
from geotile.imagery.masks import nodata_of
from geotile.imagery.source import Source
from geotile.options import AreaOptions, ImageOptions, PlanOptions, TilingOptions
from geotile.planning.advice import advice_on, megabytes
from geotile.planning.model_input import fitted_to_model, size_notes, tile_and_overlap
from geotile.planning.opened_image import ImageLike, OpenedImage, opened_image
from geotile.planning.request_size import check_request_size
from geotile.planning.roi import intersecting_tiles, roi_in_pixels, roi_outlines
from geotile.public import public

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@public
@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """The plan of a run, as `plan` returns it. Its ``repr`` is a summary, and ``plot()`` draws it."""

    name: str
    """URI of the image, without secrets, or name of the array."""
    image: xr.DataArray
    """Image with dims (band, y, x)."""
    source: Source | None
    """File that the image is read from; None for a computed array."""
    grid: TileGrid
    encoder: Encoder
    roi: Any = None
    """Region of interest, a shapely geometry in image pixels; None for the whole image."""
    selected: NDArray[np.bool_] | None = None
    """(tiles down, tiles across) bool, the tiles that share pixels with the region of interest; None for all tiles."""
    pad: bool = False
    """Whether tiles of an image smaller than the tile are filled to full size."""
    notes: tuple[str, ...] = ()
    """What the run does that the options do not show: the bands that are chosen, tiles that are resized."""

    @property
    def regions(self) -> int:
        """Number of regions."""
        return self.grid.n_regions

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return self.grid.n_tiles

    @property
    def requests(self) -> int:
        """Maximum number of requests without retries: one for each tile that intersects the region of interest."""
        return self.grid.n_tiles if self.selected is None else int(self.selected.sum())

    @property
    def advice(self) -> tuple[str, ...]:
        """Advice on what will be slow or large, why, and how to avoid it."""
        return () if self.source is None else tuple(advice_on(self.source, self.grid))

    @property
    def region_bytes(self) -> int:
        """Maximum size of a region with its halo in memory, in bytes."""
        y = max(self.grid.read_window(row, 0).shape_yx[0] for row in range(self.grid.regions_yx[0]))
        x = max(self.grid.read_window(0, col).shape_yx[1] for col in range(self.grid.regions_yx[1]))
        return y * x * self._pixel_bytes

    @property
    def request_bytes(self) -> int:
        """Size of the pixels of a tile in bytes: the size of a request if the tile format does not compress."""
        y, x = sent_shape_yx(self.grid, self.pad)
        return y * x * self._pixel_bytes

    @property
    def read_ratio(self) -> float:
        """Ratio of the pixels of all regions with their halos to the pixels of the image.

        It measures the memory that halos need. Each process decodes the blocks that regions share only once.
        """
        y = sum(self.grid.read_window(row, 0).shape_yx[0] for row in range(self.grid.regions_yx[0]))
        x = sum(self.grid.read_window(0, col).shape_yx[1] for col in range(self.grid.regions_yx[1]))
        return y * x / (self.grid.shape_yx[0] * self.grid.shape_yx[1])

    @property
    def tasks(self) -> int:
        """Number of tasks in the Dask graph of an image that is a file, before Dask fuses them."""
        count, (y, x) = 3 * self.regions + 2, self.grid.regions_yx  # the two shared objects have keys of their own
        while y * x > 1:
            y, x = -(-y // MERGED_YX[0]), -(-x // MERGED_YX[1])
            count += y * x
        return count

    @property
    def _pixel_bytes(self) -> int:
        return int(self.image.shape[0] * self.image.dtype.itemsize)

    def to_geodataframe(self) -> gpd.GeoDataFrame:
        """Return all tiles with their geometry, row, column, region and window.

        Returns
        -------
        geopandas.GeoDataFrame
            One row per tile, row-major. Columns ``row``, ``column``, ``region`` (row-major number), ``y0``, ``y1``,
            ``x0``, ``x1`` (half-open window in image pixels) and ``geometry`` (in the CRS of the image, or in pixels
            if the image has no georeference).
        """
        across, regions_across = self.grid.tiles_yx[1], self.grid.regions_yx[1]
        rows = []
        for number, window in self.grid.tiles():
            row, column = divmod(number, across)
            region = self.grid.region_of(row, column)
            rows.append((row, column, region[0] * regions_across + region[1], *window))
        table = np.array(rows, np.int64)
        y0, y1, x0, x1 = table[:, 3:].T
        geometry = self.encoder.georeference.to_world(np.asarray(shapely.box(x0, y0, x1, y1)), None)
        names = ["row", "column", "region", "y0", "y1", "x0", "x1"]
        return gpd.GeoDataFrame(
            dict(zip(names, table.T, strict=True)), geometry=geometry, crs=self.encoder.georeference.crs
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the regions and tiles over the image, in image pixels.

        The picture of the image is made from its overviews. An image that would have to be read in full, a large file
        without overviews or a computed array, is not drawn.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to draw on. By default those of a new figure.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ImageReadError
            If the file cannot be read.
        """
        from geotile.results.plotting import draw_plan

        return draw_plan(self.image, self.grid, self.selected, self._outlines(), ax)

    def rows(self) -> list[tuple[str, str]]:
        """Return the plan as names and values for people."""
        bands, height, width = self.image.shape
        grid = self.grid
        return [
            ("image", self.name),
            ("size", f"{width:,} x {height:,} px, {bands} x {self.image.dtype}"),
            (
                "regions",
                f"{self.regions:,} ({grid.regions_yx[1]} x {grid.regions_yx[0]}), up to {megabytes(self.region_bytes)}",
            ),
            ("tiles", f"{self.tiles:,} ({grid.tiles_yx[1]} x {grid.tiles_yx[0]})"),
            *([] if self.roi is None else [("in the roi", f"{self.requests:,} of them")]),
            ("requests", f"{self.requests:,} of {megabytes(self.request_bytes)} ({self.encoder.format})"),
            ("pixels read", f"{self.read_ratio:.2f} x the image; shared blocks are decoded once per process"),
            ("graph", f"{self.tasks:,} tasks"),
            *(("note", text) for text in self.notes),
            *(("advice", text) for text in self.advice),
        ]

    def __repr__(self) -> str:
        return "\n".join(["<geotile.Plan>", *(f"{name:>12}  {value}" for name, value in self.rows())])

    def _repr_html_(self) -> str:
        drawing = grid_svg(self.grid, self._outlines()) + grid_legend(self.grid, roi=self.roi is not None)
        return html_card("geotile.Plan", html_table(self.rows()), drawing)

    def _outlines(self) -> list[NDArray[np.float64]]:
        return [] if self.roi is None else roi_outlines(self.roi, self.grid.shape_yx)


@public
@with_options(PlanOptions)
def plan(image: ImageLike, options: PlanOptions) -> Plan:
    """Return the plan of a run without reading a pixel.

    Parameters
    ----------
    image : str, path, pystac.Item or xarray.DataArray
        Image, as `detect` takes it.
    {options}

    Returns
    -------
    Plan

    Raises
    ------
    ImageOpenError
        If the image cannot be opened.
    ArgumentError
        If an argument cannot be used.
    GeoreferenceError
        If the georeference cannot be read, or there is none and a region of interest is given.

    Examples
    --------
    >>> from geotile.testing import write_example
    >>> job = plan(write_example(), tile_size=128, overlap=32)
    >>> job.tiles, job.request_bytes
    (9, 49152)
    """
    model = None if options.endpoint is None else as_endpoint(options.endpoint)
    opened = opened_image(image, options.part(ImageOptions), options)
    return planned(opened, options, options, model)


def planned(image: OpenedImage, tiling: TilingOptions, area: AreaOptions, endpoint: Endpoint | None) -> Plan:
    """Return the plan of an opened image.

    Parameters
    ----------
    image : OpenedImage
    tiling : TilingOptions
    area : AreaOptions
    endpoint : Endpoint or None
        Endpoint whose maximum request size the tiles must fit, and whose input decides on bands and the tile size.

    Raises
    ------
    ArgumentError
        If the image or its tiles do not fit the endpoint, or an option cannot be used.
    """
    image = fitted_to_model(image, endpoint)
    array, source = image.array, image.source
    bands, height, width = array.shape
    tile_yx, overlap_yx = tile_and_overlap(tiling, endpoint)
    grid = plan_grid(
        (bands, height, width), array.dtype.itemsize, image.block_edges, tile_yx, overlap_yx, tiling.region_size,
        sequential=source is not None and source.sequential,
    )  # fmt: skip
    nodata = nodata_of(array)
    encoder = Encoder(tiling.tile_format, georeference_of(array), nodata, tiling.tile_compression)
    encoder.check(str(array.dtype), bands)
    if encoder.georeference.placement is not None:  # ground control points may fit no polynomial
        encoder.georeference.points_to_world(np.array([[width / 2, height / 2]]), None)
    if endpoint is not None:
        check_request_size(endpoint, encoder, (bands, *sent_shape_yx(grid, tiling.pad)), array.dtype)
    roi = None if area.roi is None else roi_in_pixels(area.roi, encoder.georeference, grid.shape_yx)
    selected = None if roi is None else intersecting_tiles(grid, roi)
    return Plan(
        name=image.name, image=array, source=source, grid=grid, encoder=encoder, roi=roi, selected=selected,
        pad=tiling.pad, notes=(*image.notes, *size_notes(tile_yx, endpoint)),
    )  # fmt: skip


def sent_shape_yx(grid: TileGrid, pad: bool) -> Pair:
    """Return height and width in pixels of the tiles that are sent to the endpoint."""
    return (grid.axes[0].tile, grid.axes[1].tile) if pad else grid.tile_window(0, 0).shape_yx


def result_crs(crs: Any, georeference: Georeference) -> str | None:
    """Return the WKT of the CRS of the result, None if the image has no CRS.

    Parameters
    ----------
    crs : Any
        CRS that the user chose, as pyproj takes it; None for that of the image.
    georeference : Georeference
        Georeference of the image.

    Raises
    ------
    ArgumentError
        If `crs` is given and the image has no CRS.
    """
    if crs is None:
        return georeference.crs
    if georeference.crs is None:
        raise ArgumentError(f"crs needs an image with a CRS, and the image has no CRS; got crs={crs!r}. Leave it out")
    return wkt_of(crs)
