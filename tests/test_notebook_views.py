"""What notebooks show of objects: HTML that is short, escaped and without secrets; the progress of a run; plots."""

import io
import re
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import dask.array as da
import geopandas as gpd
import matplotlib as mpl
import numpy as np
import pytest
import rasterio
import rasterio.enums
import shapely
import xarray as xr
from helpers import crowd

import geotile
from geotile.grid.drawing import grid_svg
from geotile.imagery.source import Source
from geotile.running.progress_display import progress_display
from geotile.testing import bright_objects, write_example

mpl.use("Agg")
JOB = {"tile_size": 64, "overlap": 16, "region_size": 128}
HOSTILE = "<script>alert('x')</script>\"&"


class Balanced(HTMLParser):
    """Parser that fails for elements that are not closed, scripts, and event handlers."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text = [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "style", "link", "img", "iframe")
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("id", "href", "src")]
        if tag != "br":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


class Mine(geotile.Endpoint):
    def invoke(self, tiles, content_type):
        return [([], []) for _ in tiles]

    def __str__(self):
        return f"mine://me:hidden@host/{HOSTILE}?token=hidden"


def test_a_plan_a_report_and_the_grid(write_tiff, noise):
    path = write_tiff(noise)
    work = geotile.plan(path, roi=shapely.box(3.0, 45.0, 3.001, 45.3), **JOB)
    shown = Balanced(work._repr_html_()).text
    assert "54 (9 x 6)" in shown
    assert "region of interest" in shown
    assert "54 (9 x 6) of 64 x 64 px" in Balanced(work.grid._repr_html_()).text

    def fails(tile):
        raise RuntimeError(HOSTILE)

    with pytest.warns(UserWarning, match="tiles failed"):
        report = geotile.report(geotile.detect(path, fails, **JOB))
    text = report._repr_html_()
    assert "<script" not in text
    assert HOSTILE in Balanced(text).text
    assert "FAILED" in text
    assert "and 34 more" in text


def test_huge_grids_are_drawn_with_few_elements():
    image = xr.DataArray(da.zeros((3, 400_000, 200_000), (3, 4096, 4096), "uint8"), dims=("band", "y", "x"))
    work = geotile.plan(image)
    assert work.tiles > 100_000
    assert len(work._repr_html_()) < 8_000
    assert "Some of many are drawn" in work._repr_html_()
    for shape in ((1, 1_000_000), (1_000_000, 3), (5, 5)):
        Balanced(grid_svg(geotile.TileGrid(shape, 512, 128)))


def test_the_drawing_has_the_strips_that_tiles_share_and_the_borders_of_regions():
    grid = geotile.TileGrid((240, 240), 100, 30, ((120, 120), (240,)))  # a unit of the drawing is a pixel
    strips, lines, _ = re.findall(r"<path d='([^']*)'", grid_svg(grid))
    starts = grid.axes[0].starts.tolist()
    assert strips.startswith(f"M0 {starts[1]:.1f}h240V{starts[0] + 100:.1f}h-240z")
    assert lines == "M0 120.0h240"


def test_endpoints_and_checks():
    text = geotile.endpoint("https://me:hidden@models.example/a?key=hidden", headers={"X-Key": "hidden"})._repr_html_()
    assert "geotile.HttpEndpoint" in Balanced(text).text
    assert "hidden" not in text + Mine()._repr_html_()
    assert "<script" not in Mine()._repr_html_()
    assert "region=us-west-2" in geotile.endpoint("sagemaker://planes?region=us-west-2")._repr_html_()
    assert "3 detections" not in Balanced(geotile.endpoint(crowd)._repr_html_()).text
    bad = geotile.endpoint(lambda tile: HOSTILE).check()
    assert "cannot be used" in Balanced(bad._repr_html_()).text
    assert Balanced(geotile.endpoint(crowd).check()._repr_html_()).text.startswith("geotile.Check")


def test_progress_without_a_terminal_is_a_line_a_minute(monkeypatch, capsys):
    times = iter([0.0, 1.0, 59.0, 61.0, 61.0, 90.0, 121.5, 121.5, 122.0])
    clock = SimpleNamespace(monotonic=lambda: next(times), strftime=lambda form: "2026-11-27 22:00:00")
    monkeypatch.setattr("geotile.running.progress_display.time", clock)
    with progress_display(True) as (callback,):
        for done in (1, 2, 3, 4, 5):
            callback(geotile.Progress(tiles=200, done=done, seconds=60.0))
        assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == [
            "2026-11-27 22:00:00 3 of 200 tiles", "2026-11-27 22:00:00 5 of 200 tiles",
        ]  # fmt: skip
        callback(geotile.Progress(tiles=200, done=200, seconds=62.0))
    assert capsys.readouterr().err.startswith("2026-11-27 22:00:00 200 of 200 tiles")


@pytest.mark.parametrize("stderr", [open("/dev/full", "w"), None, "closed"])  # noqa: SIM115 - closed with the process
def test_progress_that_cannot_be_printed_ends_no_run(monkeypatch, capsys, stderr):
    if stderr == "closed":
        stderr = io.StringIO()
        stderr.close()
    monkeypatch.setattr("geotile.running.progress_display._LINE_S", 0.0)
    monkeypatch.setattr(sys, "stderr", stderr)
    assert len(geotile.detect(write_example(), bright_objects, tile_size=128, overlap=32, progress=True)) == 3
    assert capsys.readouterr().out == ""


def test_progress_as_html_and_in_a_cell(monkeypatch):
    half = geotile.Progress(tiles=200, done=100, failures=1, seconds=61.0)
    assert "width:50.0%" in half._repr_html_()
    assert "0:01:01" in Balanced(half._repr_html_()).text
    assert "to go" not in str(geotile.Progress(tiles=2, done=2, seconds=3.0))
    Balanced(geotile.Progress(tiles=0)._repr_html_())
    from IPython.core.interactiveshell import InteractiveShell

    class ZMQInteractiveShell(InteractiveShell):
        pass

    class Shell(ZMQInteractiveShell):  # as in Colab
        pass

    published = []
    shell = Shell.instance()
    monkeypatch.setattr(shell.display_pub, "publish", lambda data, **more: published.append((data, more)))
    with progress_display(True) as (callback,):
        callback(half)
        callback(geotile.Progress(tiles=200, done=200))
    Shell.clear_instance()
    assert [more.get("update", False) for _, more in published] == [False, True]  # one output, which changes
    assert len({more["transient"]["display_id"] for _, more in published}) == 1
    assert "width:100.0%" in published[1][0]["text/html"]


def test_a_plan_is_drawn_over_the_overview(write_tiff, noise, monkeypatch):
    path = write_tiff(np.repeat(np.repeat(noise, 4, 1), 4, 2))
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    monkeypatch.setattr("geotile.results.overview._MAX_READ_PX", noise[0].size)  # the last overview, not the file
    ax = geotile.plan(path, tile_size=256, overlap=64, roi=shapely.box(3.0, 45.0, 3.001, 45.3)).plot()
    assert ax.get_title().endswith("regions")
    assert " of 54 tiles" in ax.get_title()
    (picture,) = ax.get_images()
    assert picture.get_extent() == [0, 1680, 1200, 0]
    plain = write_tiff(np.repeat(np.repeat(noise, 4, 1), 4, 2), "plain.tif")
    monkeypatch.setattr(Source, "read", None)  # of a file without overviews no pixel is read
    assert not geotile.plan(plain, tile_size=256, overlap=64).plot().get_images()


def test_computed_arrays_are_not_computed_for_a_plot():
    def never(block):
        raise AssertionError("a pixel was computed")

    lazy = da.map_blocks(never, da.zeros((1, 300, 400), chunks=100), dtype="uint8", meta=np.zeros((0, 0, 0), "uint8"))
    image = xr.DataArray(lazy, dims=("band", "y", "x"))
    assert not geotile.plan(image, **JOB).plot().get_images()
    image = xr.DataArray(np.zeros((1, 300, 400), "uint8"), dims=("band", "y", "x"))
    assert geotile.plan(image, **JOB).plot().get_images()


def test_labels_of_polygons_have_the_colours_of_the_map():
    from geotile.results.class_legend import as_hex, colour, frame_colours

    frame = gpd.GeoDataFrame({"label": ["road", "car"], "class": [3, 7]}, geometry=[shapely.box(0, 0, 1, 1)] * 2)
    assert frame_colours(frame) == {"car": as_hex(colour(7)), "road": as_hex(colour(3))}
    assert len(set(frame_colours(gpd.GeoDataFrame({"label": list("abcdefghij")})).values())) == 10
    for own in (["x", "y"], [np.nan, 1.0], [1, 1], [-1, 2]):  # a user's column, not that of a map of classes
        frame = gpd.GeoDataFrame({"label": ["car", "ship"], "class": own})
        assert frame_colours(frame) == {"car": "#ff3864", "ship": "#00d1ff"}
