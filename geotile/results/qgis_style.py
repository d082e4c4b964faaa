"""The style of a GeoPackage in QGIS: a colour for each label, in the table ``layer_styles``, from which QGIS takes it.

QGIS writes this table when a user saves a style in a GeoPackage. Other programs ignore it.
"""

from __future__ import annotations

from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely

from geotile.core.xml_text import fits_xml
from geotile.results.class_legend import frame_colours

_MAX_LABELS = 256  # with a colour of their own
_OTHER = "#9aa0a6"
_KINDS = {0: "marker", 1: "line", 2: "fill"}  # of symbols, by the dimension of the geometry


def add_style(path: str, layer: str, found: gpd.GeoDataFrame, geometry: str) -> None:
    """Add the default style of a layer to a GeoPackage.

    Parameters
    ----------
    path : str
        Local path of the GeoPackage, which has no styles yet.
    layer : str
    found : geopandas.GeoDataFrame
        The rows of the layer, with a column ``label``.
    geometry : str
        Name of the column of geometries.
    """
    now = pd.Timestamp.now("UTC").floor("ms")
    row = {
        "f_table_catalog": "", "f_table_schema": "", "f_table_name": layer, "f_geometry_column": geometry,
        "styleName": "labels", "styleQML": style_qml(found), "styleSLD": "", "useAsDefault": True,
        "description": "A colour for each label, by geotile", "owner": "", "ui": "", "update_time": now,
    }  # fmt: skip
    table = pd.DataFrame([row])
    pyogrio.write_dataframe(table, path, layer="layer_styles", driver="GPKG", layer_options={"FID": "id"})


def style_qml(found: gpd.GeoDataFrame) -> str:
    """Return the style of rows as QML, the XML of QGIS: categories by label, and one for all other labels.

    Examples
    --------
    >>> from shapely import box
    >>> cars = gpd.GeoDataFrame({"label": ["car"]}, geometry=[box(0, 0, 2, 1)])
    >>> style_qml(cars).count("<category ")
    2
    """
    colours = {label: colour for label, colour in frame_colours(found).items() if fits_xml(label)}
    dimension = _dimension(found)
    root = ElementTree.Element("qgis", version="3.22.0", styleCategories="Symbology")
    renderer = ElementTree.SubElement(
        root, "renderer-v2", type="categorizedSymbol", attr="label", enableorderby="0", forceraster="0",
        symbollevels="0", referencescale="-1",
    )  # fmt: skip
    categories, symbols = ElementTree.SubElement(renderer, "categories"), ElementTree.SubElement(renderer, "symbols")
    chosen = [*list(colours.items())[:_MAX_LABELS], (None, _OTHER)]
    for number, (label, colour) in enumerate(chosen):
        is_other = label is None
        ElementTree.SubElement(
            categories, "category", value=label or "", label="other" if is_other else label or "detection",
            symbol=str(number), render="true", type="NULL" if is_other else "string",
        )  # fmt: skip
        symbols.append(_symbol(str(number), dimension, colour))
    ElementTree.SubElement(root, "layerGeometryType").text = str(dimension)
    doctype = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    return doctype + ElementTree.tostring(root, encoding="unicode")


def _dimension(found: gpd.GeoDataFrame) -> int:
    """Return the dimension that most geometries have: 0 points, 1 lines, 2 polygons."""
    counts = np.bincount(np.clip(shapely.get_dimensions(found.geometry.to_numpy()), -1, 2) + 1, minlength=4)[1:]
    return int(counts.argmax()) if counts.any() else 2


def _symbol(name: str, dimension: int, colour: str) -> ElementTree.Element:
    """Return a symbol: an outline with a fill that lets the image through, a line, or a dot."""
    rgb = ",".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
    kind, layer, options = _KINDS[dimension], "SimpleFill", {}
    if kind == "fill":
        options = {"color": f"{rgb},40", "outline_color": f"{rgb},255", "outline_width": "0.5", "style": "solid"}
    elif kind == "line":
        layer, options = "SimpleLine", {"line_color": f"{rgb},255", "line_width": "0.5"}
    else:
        layer, options = "SimpleMarker", {"color": f"{rgb},255", "name": "circle", "size": "2", "outline_style": "no"}
    symbol = ElementTree.Element("symbol", name=name, type=kind, alpha="1", clip_to_extent="1", force_rhr="0")
    element = ElementTree.SubElement(symbol, "layer", {"class": layer, "enabled": "1", "locked": "0", "pass": "0"})
    values = ElementTree.SubElement(element, "Option", type="Map")
    for key, value in options.items():
        ElementTree.SubElement(values, "Option", name=key, type="QString", value=value)
    return symbol
