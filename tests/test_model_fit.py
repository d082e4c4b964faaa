"""An image and its tiles against what a model takes, before the run: bands, dtype, tile size."""

import numpy as np
import pytest
import rasterio
import xarray as xr
from helpers import cli, crowd, save_onnx
from rasterio.enums import ColorInterp
from test_model_inputs import means_model

import geotile
from geotile import ArgumentError

VALUES = {"red": 51, "green": 102, "blue": 204, "nir": 10}  # 0.2, 0.4, 0.8
RIGHT = [0.2, 0.4, 0.8]
JOB = {"tile_size": 32, "overlap": 0, "score_threshold": 0, "merge": None}


def write_bands(path, names, *, described=True, coloured=False, dtype="uint8"):
    """Write an image whose bands have the values of their names; an unknown name has its value from its position."""
    with rasterio.open(path, "w", driver="GTiff", count=len(names), height=32, width=32, dtype=dtype) as file:
        if coloured:
            file.colorinterp = [getattr(ColorInterp, name, ColorInterp.undefined) for name in names]
        for number, name in enumerate(names, 1):
            file.write(np.full((32, 32), VALUES.get(name.lower(), 51 * number), dtype), number)
            if described:
                file.set_band_description(number, name if described is True else f"{described}{number}")
    return str(path)


@pytest.fixture
def model(tmp_path):
    """A model whose scores are the means of its channels."""
    return f"onnx:{means_model(tmp_path / 'm.onnx')}"


def channels(image, model, **options):
    found = geotile.detect(image, model, **JOB, **options).sort_values("label")
    return found["score"].round(3).tolist(), geotile.report(found).notes


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("names", "how", "order"),
    [
        (["blue", "green", "red", "nir"], {}, "3, 2, 1"), (["Blue", "Green", "Red"], {}, "3, 2, 1"),
        (["blue", "green", "red", "nir"], {"described": False, "coloured": True}, "3, 2, 1"),
        (["blue", "green", "red"], {"described": "B", "coloured": True}, "3, 2, 1"),
        (["nir", "red", "green", "blue"], {"coloured": True}, "2, 3, 4"), (["red", "green", "blue", "nir"], {}, None),
        (["red", "green", "blue"], {"described": False, "coloured": True}, None),
    ],
)  # fmt: skip
def test_bands_go_to_the_model_by_their_names(tmp_path, model, names, how, order):
    path = write_bands(tmp_path / "i.tif", names, **how)
    scores, notes = channels(path, model)
    assert scores == RIGHT
    assert notes == ([] if order is None else [f"the model gets red, green and blue: bands {order} of the image"])
    assert channels(geotile.open_image(path), model)[0] == RIGHT
    assert channels(xr.DataArray(geotile.open_image(path).compute()), model)[0] == RIGHT or how.get("coloured")
    work = geotile.plan(path, endpoint=geotile.endpoint(model), tile_size=32, overlap=0)
    assert work.notes == tuple(notes)
    assert all(note in repr(work) for note in notes)
    assert work.source is not None


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_bands_that_the_user_chose_are_kept(tmp_path, model):
    path = write_bands(tmp_path / "i.tif", ["blue", "green", "red", "nir"])
    assert channels(path, model, bands=[1, 2, 3]) == ([0.8, 0.4, 0.2], [])
    assert channels(path, model, bands=["red", "green", "blue"]) == (RIGHT, [])
    assert channels(geotile.open_image(path, bands=[3, 2, 1]), model) == (RIGHT, [])
    assert len(channels(path, model, bands="red")[0]) == 3
    unknown = write_bands(tmp_path / "u.tif", ["a", "b", "c", "d"])  # documented: the first three
    assert channels(unknown, model)[0] == [0.2, 0.4, 0.6]


def test_an_array_with_names_of_bands(model):
    pixels = np.stack([np.full((32, 32), VALUES[name], np.uint8) for name in ("nir", "blue", "green", "red")])
    image = xr.DataArray(pixels, dims=("band", "y", "x"), coords={"band": ["nir", "blue", "green", "red"]})
    assert channels(image, model)[0] == RIGHT
    assert channels(image.chunk({"y": 16}), model)[0] == RIGHT
    assert channels(image.isel(band=[3, 2, 1]), model) == (RIGHT, [])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("names", "dtype", "said"),
    [
        (["nir", "red", "green"], "uint8", r"first bands of the image are \['nir', 'red', 'green'\].*bands=\[\"red\", \"gr"),
        (["green", "red", "nir"], "uint8", "red, green and blue"), (["red", "green", "swir16", "blue", "blue"], "uint8", "swir16"),
        (["red", "nir"], "uint8", r"the image has 2\. Choose them with bands="),
        (["red", "green", "blue"], "uint16", r"takes uint8 pixels; the image has uint16.*geotile\.rescale.*geotile\.stretch"),
        (["red", "green", "blue"], "float32", "has float32"),
    ],
)  # fmt: skip
def test_what_a_model_cannot_take_is_refused_before_the_run(tmp_path, model, names, dtype, said):
    path = write_bands(tmp_path / "i.tif", names, dtype=dtype)
    endpoint = geotile.endpoint(model)
    endpoint.invoke = None  # nothing is asked
    for run in (geotile.detect, lambda image, model: geotile.plan(image, endpoint=model)):
        with pytest.raises(ArgumentError, match=said):
            run(path, endpoint)
    with pytest.raises(ArgumentError, match=said):  # nor is a server
        geotile.detect(path, "oip+http://127.0.0.1:9/v2/models/m")
    assert geotile.detect(path, lambda tile: ([], [])).empty  # a callable takes anything


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_scaled_image_is_taken(tmp_path, model):
    path = write_bands(tmp_path / "i.tif", ["blue", "green", "red"], dtype="uint16")
    assert channels(geotile.rescale(geotile.open_image(path), 0, 255), model)[0] == RIGHT


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_images_are_scaled_where_they_are_used(tmp_path, model):
    path = write_bands(tmp_path / "i.tif", ["blue", "green", "red"], dtype="uint16")
    assert channels(path, model, rescale=(0, 255))[0] == RIGHT
    assert channels(path, model, rescale=(0, 510))[0] == pytest.approx([each / 2 for each in RIGHT], abs=4e-3)
    pixels = np.zeros((3, 32, 32), np.uint16)
    pixels[:, :, 16:] = np.array([100, 200, 400], np.uint16)[:, None, None]
    halves = xr.DataArray(pixels, dims=("band", "y", "x"))
    assert channels(halves, model, stretch=(0, 100))[0] == [0.5, 0.5, 0.5]
    work = geotile.plan(path, endpoint=model, rescale=(0, 255), tile_size=32, overlap=0)
    assert (work.source is not None, work.image.dtype) == (True, np.uint8)
    out = tmp_path / "found.parquet"
    cli("detect", path, model, "-o", out, "--rescale", "0,255", "--tile-size", 32, "--overlap", 0)
    assert out.exists()
    assert "--rescale" in cli("detect", path, model, "-o", out, "--overwrite", status=2).stderr
    assert "LOW,HIGH" in cli("detect", path, model, "-o", out, "--stretch", "2", status=2).stderr
    for wrong in (
        {"rescale": (5, 5)},
        {"stretch": (2, 101)},
        {"rescale": (0, 1), "stretch": (2, 98)},
        {"stretch": True},
    ):
        with pytest.raises(ArgumentError, match=r"^(rescale|stretch) must be"):
            geotile.plan(path, **wrong)


def array(side):
    return xr.DataArray(np.zeros((3, side, side), np.uint8), dims=("band", "y", "x"))


def test_the_default_tile_is_the_input_of_the_model(tmp_path):
    out = {"output0": np.zeros((1, 6, 126))}
    fixed = save_onnx(tmp_path / "f.onnx", out, (1, 3, 64, 96))
    said = {"task": "detect", "names": "['a', 'b']"}
    dynamic, sized = (
        save_onnx(tmp_path / name, out, ("n", 3, "h", "w"), metadata=said | more, declared={"output0": ("n", 6, "a")})
        for name, more in (("d.onnx", {}), ("s.onnx", {"imgsz": "[64, 96]"}))
    )
    axes = {}
    for spec in (f"onnx:{fixed}", f"onnx:{dynamic}", f"onnx:{sized}", crowd, None):
        work = geotile.plan(array(2000), endpoint=spec)
        axes[spec] = [(axis.tile, axis.overlap) for axis in work.grid.axes]
        assert work.notes == ()
    model, other = [(64, 32), (96, 48)], [(1024, 128)] * 2
    assert list(axes.values()) == [model, other, model, other, other]
    assert (
        geotile.report(geotile.detect(array(200), f"onnx:{fixed}")).tiles
        == geotile.plan(array(200), endpoint=f"onnx:{fixed}").tiles
    )
    wide = geotile.plan(array(2000), endpoint=f"onnx:{fixed}", overlap=(16, 64))
    assert [axis.overlap for axis in wide.grid.axes] == [16, 48]


def test_another_tile_size_is_said_in_the_plan_and_the_report(tmp_path):
    model = f"onnx:{save_onnx(tmp_path / 'f.onnx', {'o': np.zeros((1, 6, 84))}, (1, 3, 64, 64))}"
    for size, verb in ((128, "shrinks"), (32, "enlarges"), ((64, 128), "shrinks")):
        work = geotile.plan(array(256), endpoint=model, tile_size=size, overlap=0)
        assert f"the model {verb} them to its input of 64 x 64 px" in work.notes[0]
        report = geotile.report(geotile.detect(array(256), model, tile_size=size, overlap=0))
        assert report.notes == list(work.notes)
        assert verb in repr(report)
    assert geotile.plan(array(256), endpoint=model, tile_size=64, overlap=0).notes == ()
    with pytest.raises(ArgumentError, match=r'tile_size must be a whole number of pixels, .* or "auto"; got'):
        geotile.plan(array(256), tile_size="large")


# --- check ---


def test_check_says_what_it_recognised(tmp_path):
    said = {"task": "detect", "names": str([f"c{n}" for n in range(8)])}
    path = save_onnx(tmp_path / "m.onnx", {"o": np.zeros((1, 12, 126))}, (1, 3, 64, 96), metadata=said)
    found = geotile.endpoint(f"onnx:{path}").check()
    recognised = (
        "Recognised: family 'yolov8', 8 classes (c0, c1, c2, c3, c4, ...), input of 96 x 64 px float32, provider CPU"
    )
    assert found.message.endswith(recognised)
    assert found.warnings == ()
    bare = save_onnx(tmp_path / "b.onnx", {"o": np.zeros((1, 12, 126))}, (1, 3, 64, 96))
    unnamed = geotile.endpoint(f"onnx:{bare}").check()
    assert unnamed.warnings == ("the model does not name its classes, so labels are numbers: give labels=",)
    assert unnamed.message.endswith(f"Warning: {unnamed.warnings[0]}")
    assert "8 classes" in cli("check", f"onnx:{path}").stdout.replace("\n", " ")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (([[0.1, 0.1, 0.5, 0.5]], [0.5]), "shares of the tile"),
        (([[1, 1, 9, 9]] * 6, [0.5] * 6), "all 6 boxes are equal"),
        (([[n, n, n + 9, n + 9] for n in range(30)], [0.5] * 30), "30 detections in a tile of zeros"),
        (([[1, 1, 9, 9]], [0.5]), None), (([], []), None),
    ],
)  # fmt: skip
def test_check_warns_of_an_answer_that_looks_wrong(answer, said):
    found = geotile.endpoint(lambda tile: answer).check()
    assert found
    assert [said in text for text in found.warnings] == ([] if said is None else [True])
    assert all(text in found.message for text in found.warnings)


@pytest.mark.parametrize("score", [87, -2])
def test_check_refuses_scores_that_are_none(score):
    found = geotile.endpoint(lambda tile: ([[0, 0, 9, 9]], [score])).check()
    assert not found
    assert "percentages or logits" in found.message


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    "names", [{"band": ["blue", "green", "red"]}, {"common_name": ("band", ["blue", "green", "red"])}]
)
def test_names_that_the_user_gives_go_before_the_files(write_tiff, noise, model, lazy, names):
    image = geotile.open_image(write_tiff(noise)).assign_coords(names)
    work = geotile.plan(image if lazy else image.compute(), endpoint=geotile.endpoint(model))
    np.testing.assert_array_equal(work.image, noise[::-1])
    assert any("bands 3, 2, 1" in note for note in work.notes)


def test_names_of_a_sensor_are_mentioned(write_tiff, noise, model):
    path = write_tiff(noise)
    with rasterio.open(path, "r+") as file:
        for number, name in enumerate(("B02", "B03", "B04"), 1):
            file.set_band_description(number, name)
    work = geotile.plan(path, endpoint=geotile.endpoint(model))
    assert any("b02, b03, b04 as red, green and blue" in note for note in work.notes)
