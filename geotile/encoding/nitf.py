"""The georeference of a NITF tile: IGEOLO and BLOCKA corners, RPC00B (MIL-STD-2500C; STDI-0002 appendices E and F).

GDAL's own writer refuses negative RPC offsets and every CRS but WGS 84 and UTM, and writes no BLOCKA corners
(decision 10 in ARCHITECTURE.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from geotile.geometry.georeference import WGS84, Georeference
from geotile.geometry.placement import RPC_COEFFICIENTS, Points, RpcPlacement


def nitf_options(georeference: Georeference, height: int, width: int) -> dict[str, str]:
    """Return GDAL's creation options for a NITF with a georeference and a size in pixels.

    The corners are those of pixel centres, in degrees: whole seconds in IGEOLO, millionths of a degree (about 0.1 m)
    in BLOCKA, which GDAL prefers. RPCs keep the digits that RPC00B provides.
    """
    if georeference.placement is None or georeference.crs is None:
        return {}
    centres = np.array([[0.5, 0.5], [width - 0.5, 0.5], [width - 0.5, height - 0.5], [0.5, height - 0.5]])
    corners = georeference.points_to_world(centres, WGS84)
    options = {}
    if np.isfinite(corners).all() and (np.abs(corners) <= [180, 90]).all():
        igeolo = "".join(_dms(y, "NS", 2) + _dms(x, "EW", 3) for x, y in corners)
        options = {"ICORDS": "G", "IGEOLO": igeolo, "TRE": f"BLOCKA={_blocka(corners, height)}"}
    if isinstance(georeference.placement, RpcPlacement):
        options["TRE"] = f"RPC00B={rpc00b(dict(georeference.placement.metadata))}"
    return options


def rpc00b(metadata: Mapping[str, str]) -> str:
    """Format GDAL's RPC metadata as the 1,041 characters of RPC00B.

    The offsets of a tile may be negative. The standard does not allow for this, but GDAL reads it.
    """
    value = {name: float(text) for name, text in metadata.items() if name not in RPC_COEFFICIENTS}
    text = "1" + "".join(f"{min(max(value.get(name, 0), 0), 9999.99):07.2f}" for name in ("ERR_BIAS", "ERR_RAND"))
    for kind in ("OFF", "SCALE"):
        text += f"{round(value[f'LINE_{kind}']):06d}{round(value[f'SAMP_{kind}']):05d}"
        text += f"{value[f'LAT_{kind}']:+08.4f}{value[f'LONG_{kind}']:+09.4f}{round(value[f'HEIGHT_{kind}']):+05d}"
    return text + "".join(_coefficient(float(n)) for name in RPC_COEFFICIENTS for n in metadata[name].split())


def _coefficient(value: float) -> str:
    mantissa, exponent = f"{value:+.6E}".split("E")
    return f"{mantissa}E{int(exponent):+d}" if -10 < int(exponent) < 10 else "+0.000000E+0"


def _dms(degrees: float, signs: str, digits: int) -> str:
    """Format an angle as degrees, minutes and whole seconds, with the letter of its sign."""
    seconds = round(abs(degrees) * 3600)
    return f"{seconds // 3600:0{digits}d}{seconds // 60 % 60:02d}{seconds % 60:02d}{signs[int(degrees < 0)]}"


def _blocka(corners: Points, height: int) -> str:
    """Format the corners, (4, 2) longitude and latitude clockwise from the upper left, as BLOCKA."""
    upper_left, upper_right, lower_right, lower_left = (f"{y:+010.6f}{x:+011.6f}" for x, y in corners)
    return f"0100000{height:05d}000000{' ' * 16}{upper_right}{lower_right}{lower_left}{upper_left}010.0"
