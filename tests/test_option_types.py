"""Every option refuses a value of another type, by its name and before the run."""

import contextlib
import math
from pathlib import Path

import numpy as np
import pytest
import shapely

import geotile
from geotile import options
from geotile.core.option import described
from geotile.core.option_types import TYPES
from geotile.errors import ArgumentError
from geotile.geometry.georeference import wkt_of

CHECKED_WHERE_USED = {"crs", "chunks", "endpoint"}
GROUPS = [
    options.DetectKeywords,
    options.DetectToKeywords,
    options.OpenOptions,
    options.PlanOptions,
    options.ServiceOptions,
]
VALUES = [
    object(), 5, -1, 1.5, math.nan, "x", "", "²", b"x", True, [], {}, (1,), [object()], {"a": object()}, {1: 2},
    np.array([1, 2]), np.array([]), np.float32(0.5), np.int64(3), Path("x"), 10**400, ("a",), ("a", "b"), int,
    {"Ā": "x"}, {"a": "x\r\nb: y"},
]  # fmt: skip


def options_of(*groups):
    return sorted(
        {(name, group) for group in groups for name in described(group)}, key=lambda each: (each[0], each[1].__name__)
    )


@pytest.mark.parametrize(("name", "group"), options_of(*GROUPS))
def test_a_value_is_taken_or_refused_by_name(name, group):
    info = described(group)[name]
    assert info.choices or info.type_text in TYPES or name in CHECKED_WHERE_USED
    for value in VALUES:
        with contextlib.suppress(ArgumentError):
            group(**{name: value})
    if name not in CHECKED_WHERE_USED:
        for wrong in (object(), np.array([object()]), b"x"):
            with pytest.raises(ArgumentError, match=f"^{name} must be "):
                group(**{name: wrong})


@pytest.mark.parametrize("value", VALUES)
def test_a_crs_is_read_or_refused(value):
    with pytest.raises(ArgumentError, match=r"^crs must be a CRS"):
        wkt_of(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(each, "chunks must be") for each in (object(), 1.5, math.nan, "x", b"x", True, [], (1,), np.array([1, 2]), 0)],
        ({"band": 1, "y": 16}, "'band'"), ({"x": 1.5}, "chunks must be"),
    ],
)  # fmt: skip
def test_chunks_are_read_or_refused(value, text, write_tiff, noise):
    with pytest.raises(ArgumentError, match=text):
        geotile.open_image(write_tiff(noise), chunks=value)


@pytest.mark.parametrize("value", [-1, None, {"y": -1}, (-1, -1), {}])
def test_minus_one_is_a_whole_axis(value, write_tiff, noise):
    assert geotile.open_image(write_tiff(noise), chunks=value).data.numblocks == (1, 1, 1)


@pytest.mark.parametrize(
    "roi",
    [
        shapely.Point(math.nan, 1), shapely.Polygon([(0, 0), (math.inf, 1), (1, 1)]), "POINT (nan 1)", '{"a":' * 5000,
        "SRID=²;POINT(0 0)", {"type": "Feature", "geometry": 5}, {"type": "FeatureCollection", "features": 5},
        {"type": "Point", "crs": {"properties": 5}, "coordinates": [0, 0]}, {"type": "Point", "coordinates": "x"},
    ],
)  # fmt: skip
def test_a_roi_of_another_structure_is_refused(roi, write_tiff, noise):
    with pytest.raises(ArgumentError, match=r"^(roi|crs) must be "):
        geotile.plan(write_tiff(noise), tile_size=32, overlap=0, roi=roi)


@pytest.mark.parametrize(
    "given",
    [
        {"headers": {"X-Token": "hush Ā"}}, {"bearer": "hush Ā"}, {"auth": ("me", "hush Ā")}, {"params": {"X-A": "hush Ā"}},
        {"headers": {"X-Token": "hush\r\nX: y"}}, {"bearer": "hush\n"}, {"auth": "me:hush"}, {"auth": ["hush"]},
    ],
)  # fmt: skip
def test_what_no_header_can_hold_is_refused_without_showing_it(given):
    with pytest.raises(ArgumentError, match=f"^{next(iter(given))} must ") as caught:
        geotile.HttpEndpoint("http://127.0.0.1:9/x", **given)
    assert "hush" not in str(caught.value)


def test_secrets_are_not_in_the_text_of_options():
    given = options.HttpOptions(headers={"A": "hush"}, bearer="hush", params={"CustomAttributes": "hush"})
    assert "hush" not in repr(given)


def test_certificates_are_paths_or_strings():
    ready = {"ready_timeout_s": 30, "retries": 0}
    for given in ({"verify": Path("missing.pem")}, {"cert": Path("missing.pem")}, {"cert": (Path("missing.pem"), "b")}):
        endpoint = geotile.HttpEndpoint("https://127.0.0.1:9/x", **given, **ready)
        with pytest.raises(geotile.GeotileError, match=r"missing\.pem"):
            endpoint.ready()
