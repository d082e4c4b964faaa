"""Detections and polygons on an interactive map, with the image under them."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geotile.errors import ArgumentError
from geotile.geometry.georeference import georeference_of
from geotile.imagery.array_check import check_array
from geotile.imagery.file_array import source_of
from geotile.public import public
from geotile.results.class_legend import colour, frame_colours, label_colours
from geotile.results.exploring_many import Picture, map_of_many
from geotile.results.plotting import rgb

if TYPE_CHECKING:
    import folium
    import lonboard

_SIDE_PX = 2048  # of the picture of the image
_MANY_ROWS = 50_000  # more are drawn by the graphics card: folium makes an element of the page of each shape
_MAX_ROWS = 3_000_000  # a notebook sends them all to the browser, some 200 bytes each
_DECIMALS = 3  # of the numbers beside the pointer
_SHOWN = ("label", "score", "class", "length_m", "width_m", "heading_deg", "area_m2", "tile")


@public
def explore(found: gpd.GeoDataFrame, image: xr.DataArray | None = None) -> folium.Map | lonboard.Map:
    """Show detections or polygons on an interactive map, with the image under them.

    The picture of the image is made from its overviews, with at most 2,048 pixels a side. A colour stays with a label.
    Up to 50,000 rows are drawn by folium (``pip install folium``), where the list of layers is the legend; more are
    drawn by lonboard (``pip install lonboard``). The browser that shows the map needs the internet: for the JavaScript
    of the map and for a base map, which folium leaves out where there is an image.

    Parameters
    ----------
    found : geopandas.GeoDataFrame
        Detections, polygons or vectors, as `detect`, `polygonize` and `embed` return them, with a CRS.
    image : xarray.DataArray, optional
        Their image, as `open_image` returns it, or a map of classes, as `predict` does; placed by an affine transform.
        A lazy map asks the model for its tiles.

    Returns
    -------
    folium.Map or lonboard.Map
        It shows itself in a notebook; ``.save("map.html")`` writes a folium.Map, ``.to_html("map.html")`` a
        lonboard.Map.

    Raises
    ------
    ArgumentError
        If the package that draws is not installed, there is no CRS, there are more than 3,000,000 rows, or no affine
        transform places the image.

    Examples
    --------
    >>> import geotile
    >>> from geotile.testing import bright_objects, write_example
    >>> image = geotile.open_image(write_example())
    >>> view = explore(geotile.detect(image, bright_objects, tile_size=128, overlap=32), image)
    >>> "object" in view.get_root().render()
    True
    """
    _check(found)
    drawn = found.to_crs("EPSG:4326")
    shown = [name for name in _SHOWN if name in drawn and name != drawn.geometry.name]
    drawn = gpd.GeoDataFrame(drawn[shown], geometry=drawn.geometry)
    for name in shown:
        if drawn[name].dtype.kind == "f":
            drawn[name] = drawn[name].astype(float).round(_DECIMALS)
        elif drawn[name].dtype.kind not in "biu":  # text has several types in pandas
            drawn[name] = drawn[name].astype(str)
    drawn = drawn[~(drawn.geometry.is_empty | drawn.geometry.isna())]
    names = drawn["label"] if "label" in shown else drawn.geometry.geom_type
    colours = frame_colours(drawn) if "label" in shown else label_colours(sorted(set(names)))
    picture = None if image is None else _picture(image)
    if len(drawn) > _MANY_ROWS:
        return map_of_many(drawn, colours, names, picture)
    return _map_of_few(drawn, colours, names, picture)


def _map_of_few(
    drawn: gpd.GeoDataFrame, colours: dict[str, str], names: Any, picture: Picture | None
) -> folium.Map:  # fmt: skip
    """Return a map with a layer for each label."""
    try:
        import folium
    except ImportError:
        raise ArgumentError(
            "maps are drawn by folium, which is not installed. Install it with pip install folium"
        ) from None
    view = folium.Map(tiles="OpenStreetMap" if picture is None else None, control_scale=True, max_zoom=24)
    corners = None
    if picture is not None:
        pixels, (west, south, east, north) = picture
        corners = [[south, west], [north, east]]
        folium.raster_layers.ImageOverlay(pixels, corners, name="image", mercator_project=False).add_to(view)
    for name in sorted(set(names)):
        title = f"{html.escape(name) or 'detection'} ({int((names == name).sum())})"
        _layer(drawn[names == name], title, colours[name]).add_to(view)
    folium.LayerControl(collapsed=False).add_to(view)
    if len(drawn):
        west, south, east, north = drawn.total_bounds
        view.fit_bounds([[south, west], [north, east]])
    elif corners is not None:
        view.fit_bounds(corners)
    return view


def _check(found: Any) -> None:
    if not isinstance(found, gpd.GeoDataFrame):
        raise ArgumentError(f"found must be a GeoDataFrame, as geotile.detect returns it; got {type(found).__name__}")
    if found.crs is None:
        raise ArgumentError(
            "found must have a CRS, since a map shows the ground; got none. Use geotile.plot_detections"
        )
    if len(found) > _MAX_ROWS:
        raise ArgumentError(
            f"found must have at most {_MAX_ROWS:,} rows, since a browser gets them all; got {len(found):,}. Filter "
            "them, or open the file in QGIS"
        )


def _layer(rows: gpd.GeoDataFrame, name: str, colour: str) -> Any:
    """Return a layer of the map, with the columns of each row in a popup."""
    import folium

    fields = [each for each in rows.columns if each != rows.geometry.name and not rows[each].isna().all()]
    texts = [each for each in fields if rows[each].dtype.kind not in "biuf"]
    rows = rows.assign(**{each: rows[each].map(html.escape) for each in texts})  # Leaflet reads text as HTML
    return folium.GeoJson(
        rows.to_json(),
        name=f'<span style="color:{colour}">&#9632;</span> {name}',  # the list of layers is the legend
        style_function=lambda _: {"color": colour, "weight": 2, "fillOpacity": 0.1},
        marker=folium.CircleMarker(radius=4, color=colour),
        tooltip=folium.GeoJsonTooltip(fields) if fields else None,
    )


def _picture(image: xr.DataArray) -> Picture:
    """Return the image, small, in the projection of the map, with alpha; and its bounds in degrees."""
    is_class_map = isinstance(image, xr.DataArray) and image.dims == ("y", "x") and image.dtype.kind in "bui"
    if is_class_map:
        image = xr.concat([image], "band")
    check_array(image)
    georeference = georeference_of(image)
    if georeference.transform is None or georeference.crs is None:
        raise ArgumentError("image must be placed by an affine transform and a CRS to lie on the map; leave it out")
    height, width = image.shape[-2:]
    source = None if is_class_map else source_of(image.data)
    if source is not None:
        pixels = source.thumbnail(_SIDE_PX).values
    else:
        step = max(1, -(-max(height, width) // _SIDE_PX))
        pixels = np.asarray(image[..., ::step, ::step])
    scale = width / pixels.shape[-1], height / pixels.shape[-2]
    colours = _class_colours(pixels[0], image.rio.nodata) if is_class_map else rgb(pixels)
    small = xr.DataArray(np.moveaxis(colours, -1, 0), dims=("band", "y", "x"))
    small = small.rio.write_transform(georeference.transform @ georeference.transform.scale(*scale))
    warped = small.rio.write_crs(georeference.crs).rio.write_nodata(0).rio.reproject("EPSG:3857")
    shown = np.moveaxis(warped.values, 0, -1)
    alpha = 255 * shown.any(axis=-1, keepdims=True).astype(np.uint8)
    return np.concatenate([shown, alpha], axis=-1), warped.rio.transform_bounds("EPSG:4326")


def _class_colours(numbers: NDArray[Any], nodata: float | None) -> NDArray[np.uint8]:
    """Return the colours of class numbers, (y, x, 3) uint8; black, which is shown as nothing, where there is none."""
    shown = np.zeros((*numbers.shape, 3), np.uint8)
    for number in np.unique(numbers).tolist():
        if number != nodata:
            shown[numbers == number] = colour(number)
    return shown
