"""A painted, georeferenced scene with known objects: ships on water; cars, trucks and buildings on land."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.shutil import copy as copy_file

PIXEL_M = 0.3
CRS = "EPSG:32631"
_STEP_PX = 6  # between the points where water and other buildings are looked for: both are larger
_ORIGIN = (430_000.0, 5_780_000.0)
# label: ranges of length and width in pixels, and colours. All colours are brighter than the ground.
KINDS: dict[str, tuple[tuple[int, int], tuple[int, int], list[tuple[int, int, int]]]] = {
    "car": ((14, 18), (7, 8), [(235, 40, 40), (250, 250, 250), (245, 215, 40)]),
    "truck": ((34, 46), (11, 13), [(250, 250, 250), (245, 140, 30)]),
    "ship": ((64, 110), (16, 24), [(245, 245, 250), (225, 60, 50)]),
}


@dataclass(frozen=True)
class Scene:
    """A painted scene and its objects."""

    path: Path
    """Path of the image: a Cloud-Optimized GeoTIFF, uint8 RGB, 512-px blocks."""
    truth: gpd.GeoDataFrame
    """The objects: ``label``, ``xmin, ymin, xmax, ymax`` and ``geometry`` (oriented boxes, and polygons for buildings),
    all in image pixels."""


def make_scene(path: str | os.PathLike[str], size: int = 4096, objects: int = 600, seed: int = 7) -> Scene:
    """Paint a scene and write it as a Cloud-Optimized GeoTIFF.

    A third of the objects crosses borders of 512-px blocks, where tiles and regions meet. One in thirty is an L-shaped
    building with wings of 140 to 330 pixels, or of 540 to 680, which is larger than most tiles.

    Parameters
    ----------
    path : str or path
        Path of the file to write.
    size : int, default 4096
        Height and width in pixels. A pixel covers 0.3 m.
    objects : int, default 600
        Number of objects to place. The scene has slightly fewer, because some do not fit anywhere.
    seed : int, default 7
        Seed of the random numbers. The same seed paints the same scene.

    Returns
    -------
    Scene
        The path of the image and its objects.

    Examples
    --------
    >>> import tempfile
    >>> scene = make_scene(tempfile.mkdtemp() + "/scene.tif", size=512, objects=10)
    >>> sorted(set(scene.truth["label"]) - {"car", "truck", "ship", "building"})
    []
    """
    rng = np.random.default_rng(seed)
    ground, water = _ground(size, rng)
    free, n_buildings = np.ones(water.shape, bool), objects // 30
    rows = list(_place_buildings(ground, water, free, n_buildings, np.random.default_rng(seed + 1)))
    rows += _place_objects(ground, water, free, objects - n_buildings, rng)
    truth = gpd.GeoDataFrame({"label": [label for label, _ in rows]}, geometry=[shape for _, shape in rows])
    truth[["xmin", "ymin", "xmax", "ymax"]] = shapely.bounds(truth.geometry.to_numpy()).reshape(-1, 4)
    return Scene(_write_cog(Path(path), ground), truth)


def write_example() -> str:
    """Write a 256 x 256 RGB GeoTIFF with three bright objects to a temporary file and return its path.

    The file is removed when Python exits.

    Examples
    --------
    >>> import rasterio
    >>> rasterio.open(write_example()).shape
    (256, 256)
    """
    pixels = np.full((3, 256, 256), 40, np.uint8)
    for y, x in ((20, 30), (100, 90), (200, 30)):
        pixels[:, y : y + 16, x : x + 24] = 230
    folder = tempfile.mkdtemp(prefix="geotile-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = os.path.join(folder, "example.tif")
    with rasterio.open(
        path, "w", driver="GTiff", width=256, height=256, count=3, dtype="uint8", crs=CRS,
        transform=_transform(), tiled=True, blockxsize=64, blockysize=64,
    ) as file:  # fmt: skip
        file.write(pixels)
    return path


def _transform() -> Affine:
    return Affine.translation(*_ORIGIN) @ Affine.scale(PIXEL_M, -PIXEL_M)


def _noise(size: int, cell: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return smooth noise in [0, 1] of shape (size, size), with features about `cell` pixels wide."""
    n = size // cell + 3
    grid = rng.random((n, n), dtype=np.float32)
    position = np.arange(size, dtype=np.float32) / cell
    i, t = position.astype(int), position % 1
    t = (t * t * (3 - 2 * t)).astype(np.float32)
    rows = grid[i] * (1 - t)[:, None] + grid[i + 1] * t[:, None]
    smooth: NDArray[np.float32] = rows[:, i] * (1 - t) + rows[:, i + 1] * t
    return smooth


def _ground(size: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Paint water, shore, fields and roads; return the pixels (3, y, x) and the mask of water (y, x)."""
    height = _noise(size, max(size // 4, 8), rng) + 0.35 * _noise(size, max(size // 14, 8), rng)
    height += 0.9 * np.linspace(-0.5, 0.5, size, dtype=np.float32)  # land rises to the right
    water, shore = height < 0.6, (height >= 0.6) & (height < 0.625)
    fields = np.floor(5 * _noise(size, 160, rng)) / 5
    grain = _noise(size, 3, rng) * 16 + _noise(size, 24, rng) * 14
    colours = np.array([[86, 104, 62], [46, 52, 26]], np.float32)
    pixels = np.empty((3, size, size), np.uint8)
    yards = _yards(size)
    for band in range(3):
        land = colours[0, band] + colours[1, band] * (fields - 0.5) + grain
        land[yards] = 104 + grain[yards] * 0.5
        sea = (18, 58, 88)[band] + 26 * np.clip(height, 0, 1) + grain * 0.5
        land = np.where(shore, (148, 138, 108)[band] + grain * 0.6, land)
        pixels[band] = np.clip(np.where(water, sea, land), 0, 160)
    return pixels, water


def _yards(size: int) -> NDArray[np.bool_]:
    """Return the mask (y, x) of roads along a grid, with a car park beside every other crossing."""
    position = np.arange(size)
    road = (position % 384) < 26
    yard = ((position % 768) >= 26) & ((position % 768) < 190)
    return (road[:, None] | road[None, :]) | (yard[:, None] & yard[None, :])


def _place_buildings(
    pixels: NDArray[np.uint8], water: NDArray[np.bool_], free: NDArray[np.bool_], count: int, rng: np.random.Generator
) -> Iterator[tuple[str, Any]]:
    """Paint L-shaped buildings on paved ground at random places on land, every fifth one larger than most tiles."""
    size = pixels.shape[1]
    for number in range(count):
        large = number % 5 == 0
        wings = rng.uniform(*((540, 680) if large else (140, 330)), 2)
        depth = rng.uniform(70, 120) if large else rng.uniform(44, 76)
        tilt = rng.uniform(-25, 25) if number % 2 else 0.0
        for _ in range(200):
            shape = _l_shape(rng.uniform(0, size, 2), wings, depth, 90 * rng.integers(4) + tilt)
            if _fits_on_land(shape.buffer(24), water, free):
                _pave(pixels, shape.buffer(16, join_style="mitre"))
                _paint(pixels, free, shape, (206, 192, 176))
                _paint(pixels, free, shape.buffer(-6, join_style="mitre"), (224, 212, 198), shadow_px=0)
                yield "building", shape
                break


def _place_objects(
    pixels: NDArray[np.uint8], water: NDArray[np.bool_], free: NDArray[np.bool_], count: int, rng: np.random.Generator
) -> Iterator[tuple[str, Any]]:
    """Paint ships and vehicles at random places; yield the label and the outline of each, in image pixels."""
    size = pixels.shape[1]
    for number in range(count):
        label = str(rng.choice(list(KINDS), p=[0.6, 0.2, 0.2]))
        lengths, widths, colours = KINDS[label]
        length, width = (float(rng.integers(*span, endpoint=True)) for span in (lengths, widths))
        colour = colours[rng.integers(len(colours))]
        for _ in range(40):
            x, y = rng.uniform(0, size, 2)
            if number % 3 == 0 and size >= 1024:  # across the border of a block
                x = 512 * rng.integers(1, size // 512) + rng.uniform(-6, 6)
            shape = _rectangle(x, y, length, width, rng.uniform(0, np.pi))
            if _fits(shape, label == "ship", water, free):
                _paint(pixels, free, shape, colour)
                yield label, shape
                break


def _l_shape(centre: NDArray[np.float64], wings: NDArray[np.float64], depth: float, angle: float) -> Any:
    """Return an L of two wings of some lengths and one depth, turned about its centre by an angle in degrees."""
    (a, b), d = wings, depth
    corners = np.array([[0, 0], [a, 0], [a, d], [d, d], [d, b], [0, b]]) + centre - wings / 2
    return shapely.affinity.rotate(shapely.Polygon(corners), angle, origin=tuple(centre.tolist()))


def _rectangle(x: float, y: float, length: float, width: float, angle: float) -> Any:
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [length / 2, width / 2]
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return shapely.Polygon(corners @ rotation + [x, y])


def _fits(shape: Any, on_water: bool, water: NDArray[np.bool_], free: NDArray[np.bool_]) -> bool:
    x0, y0, x1, y1 = (int(v) for v in shape.buffer(5).bounds)
    if x0 < 0 or y0 < 0 or x1 >= water.shape[1] or y1 >= water.shape[0]:
        return False
    area = slice(y0, y1 + 1), slice(x0, x1 + 1)
    return bool(free[area].all() and (water[area] == on_water).all())


def _fits_on_land(shape: Any, water: NDArray[np.bool_], free: NDArray[np.bool_]) -> bool:
    x0, y0, x1, y1 = shape.bounds
    if x0 < 0 or y0 < 0 or x1 >= water.shape[1] - 1 or y1 >= water.shape[0] - 1:
        return False
    ys, xs = np.mgrid[int(y0) : int(y1) + 1 : _STEP_PX, int(x0) : int(x1) + 1 : _STEP_PX]
    inside = shapely.contains_xy(shape, xs, ys)
    return bool((free[ys, xs] & ~water[ys, xs])[inside].all())


def _covered(shape: Any, margin_px: float = 0) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """Return the rows and columns around a shape, and which of their pixels lie inside it."""
    x0, y0, x1, y1 = (int(v) for v in shape.buffer(margin_px).bounds)
    ys, xs = np.mgrid[y0 : y1 + 1, x0 : x1 + 1] + 0.5
    return (slice(y0, y1 + 1), slice(x0, x1 + 1)), shapely.contains_xy(shape, xs, ys)


def _pave(pixels: NDArray[np.uint8], shape: Any) -> None:
    area, inside = _covered(shape)
    for band in range(3):
        pixels[band][area][inside] = 104


def _paint(
    pixels: NDArray[np.uint8], free: NDArray[np.bool_], shape: Any, colour: tuple[int, int, int], shadow_px: int = 2
) -> None:
    area, inside = _covered(shape, 3)
    shadow = np.zeros_like(inside)
    if shadow_px:
        shadow[shadow_px:, shadow_px:] = inside[:-shadow_px, :-shadow_px]
    shadow &= ~inside
    around, taken = _covered(shape.buffer(5))
    free[around][taken] = False
    for band in range(3):
        patch = pixels[band][area]
        patch[shadow] = patch[shadow] // 2
        patch[inside] = colour[band]


def _write_cog(path: Path, pixels: NDArray[np.uint8]) -> Path:
    profile: dict[str, Any] = {
        "count": 3, "height": pixels.shape[1], "width": pixels.shape[2], "dtype": "uint8", "crs": CRS,
        "transform": _transform(), "photometric": "RGB",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.tif"
        with rasterio.open(plain, "w", driver="GTiff", tiled=True, **profile) as file:
            file.write(pixels)
        copy_file(
            plain, path, driver="COG", compress="DEFLATE", predictor="YES", blocksize=512,
            overview_resampling=Resampling.average.name,
        )  # fmt: skip
    return path
