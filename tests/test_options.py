"""Options are declared once: signatures, help, flags and requests agree, and no name means two things."""

import inspect
import json
import os
from dataclasses import fields
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import cli, crowd
from typer.main import get_command

import geotile
from geotile import options
from geotile.cli.flags import as_flag, in_flags
from geotile.cli.main import app
from geotile.cli.options import endpoint_options
from geotile.core.option import described, option_names
from geotile.detectors.detector import decoder_identity
from geotile.endpoints import applicable_options
from geotile.testing import bright_objects, write_example

CALLS = {
    "detect": options.DetectKeywords, "detect_to": options.DetectToKeywords, "plan": options.PlanOptions,
    "open_image": options.OpenOptions,
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_calls_have_the_declared_options(name):
    parameters = inspect.signature(getattr(geotile, name)).parameters
    declared = {each.name: each.default for each in fields(CALLS[name])}
    keywords = {each.name: each.default for each in parameters.values() if each.kind is each.KEYWORD_ONLY}
    assert keywords == declared
    text = inspect.getdoc(getattr(geotile, name))
    for option, info in described(CALLS[name]).items():
        assert f"{option} : {info.type_text}" in text
        assert info.doc.endswith(".")


@pytest.mark.parametrize(("command", "group"), [("detect", options.DetectToOptions), ("plan", options.PlanOptions)])
def test_commands_have_a_flag_for_each_option_of_the_same_name(command, group):
    flags = {flag for each in get_command(app).commands[command].params for flag in each.opts}
    for name, info in described(group).items():
        assert (as_flag(name) in flags) == info.on_command_line


def test_no_name_means_two_things():
    """A name in two families is one option, declared once: nothing shadows silently."""
    run, image = (
        option_names(options.JobOptions) - option_names(options.ImageOptions),
        option_names(options.ImageOptions),
    )
    endpoint = option_names(options.EndpointKeywords)
    assert run & image == set()
    assert image & endpoint == set()
    assert run & endpoint == {"score_threshold"}
    assert set(vars(options.ScoreOptions)["__annotations__"]) == {"score_threshold"}
    kinds = (
        options.HttpOptions,
        options.SageMakerOptions,
        options.OnnxOptions,
        options.OipOptions,
        options.FunctionOptions,
    )
    for one, other in combinations(kinds, 2):
        for name in option_names(one) & option_names(other):
            assert described(one)[name].type_text == described(other)[name].type_text, name


@pytest.mark.parametrize(
    ("endpoint", "given", "said"),
    [
        (bright_objects, {"tilesize": 3}, "unknown option 'tilesize'; did you mean 'tile_size'?"),
        ("http://127.0.0.1:9/invocations", {"tilesize": 3}, "did you mean 'tile_size'?"),
        ("http://127.0.0.1:9/invocations", {"barer": "x"}, "did you mean 'bearer'?"),
        ("http://127.0.0.1:9/invocations", {"band": 1}, "did you mean 'bands'?"),
        ("http://127.0.0.1:9/invocations", {"family": "yolov8"}, "'family' does not apply to a run with the endpoint"),
        (bright_objects, {"bearer": "x"}, "'bearer' does not apply to a run with a Python callable"),
        (geotile.endpoint(bright_objects), {"batch_size": 2}, "pass it to geotile.endpoint"),
        (bright_objects, {"xyz": 1}, "unknown option 'xyz'; a run with a Python callable takes"),
        ("http://127.0.0.1:9/invocations", {"ready_timeout": 1}, "did you mean 'ready_timeout_s'?"),
    ],
)  # fmt: skip
def test_unknown_options_are_refused_with_the_nearest_name(endpoint, given, said):
    for call in (geotile.detect, lambda *args, **more: geotile.detect_to(*args, "/nowhere/found.geojson", **more)):
        with pytest.raises(geotile.ArgumentError) as caught:
            call("none.tif", endpoint, **given)
        assert said in str(caught.value)


def test_unknown_options_of_the_other_calls():
    with pytest.raises(geotile.ArgumentError, match="did you mean 'tile_size'"):
        geotile.plan("none.tif", tilesize=3)
    with pytest.raises(geotile.ArgumentError, match="did you mean 'bands'"):
        geotile.open_image("none.tif", band=3)
    with pytest.raises(geotile.ArgumentError, match=r"did you mean 'retries'. It does not apply to plan"):
        geotile.plan("none.tif", retrys=3)
    with pytest.raises(geotile.ArgumentError, match="'tile_size' does not apply to open_image"):
        geotile.open_image("none.tif", tile_size=3)
    with pytest.raises(geotile.ArgumentError, match=r"did you mean 'retries'. It does not apply to a run with"):
        geotile.detect("none.tif", "onnx:m.onnx", retrys=3)
    with pytest.raises(geotile.ArgumentError, match="did you mean 'bearer'"):
        geotile.endpoint("http://127.0.0.1:9/invocations", barer=3)
    with pytest.raises(geotile.ArgumentError, match=r"detect\(compute=False\)"):
        geotile.detect_to(write_example(), bright_objects, "found.geojson", compute=False)
    with pytest.raises(geotile.ArgumentError, match="bands, resolution apply only to a URI"):
        geotile.detect(xr.DataArray([[0.0]], dims=("y", "x")), bright_objects, bands=[1], resolution=2.0)
    with pytest.raises(TypeError, match="endpoint"):
        geotile.detect("none.tif")
    assert len(geotile.detect(image=write_example(), endpoint=bright_objects, tile_size=128, overlap=32)) == 3


def test_options_elsewhere_are_told_with_their_call():
    path = write_example()
    for call, given, said in (
        (lambda **more: geotile.detect(path, bright_objects, **more), {"overwrite": True}, "detect_to"),
        (lambda **more: geotile.plan(path, **more), {"merge": "nms"}, "to plan, but to detect and detect_to"),
        (lambda **more: geotile.plan(path, **more), {"retries": 3}, "to plan, but to endpoint"),
        (
            lambda **more: geotile.open_image(path, **more),
            {"tile_size": 3},
            "but to detect and detect_to and embed and embed_to and plan and predict",
        ),
        (lambda **more: geotile.serve(path, **more), {"tile_size": 3}, "to serve, but to detect"),
    ):
        with pytest.raises(geotile.ArgumentError, match=said):
            call(**given)
    with pytest.raises(TypeError, match=r"^detect\(\) needs the argument 'endpoint'$"):
        geotile.detect(path)
    with pytest.raises(TypeError, match=r"^plan\(\) takes its options by name; got too many"):
        geotile.plan(path, 64)


def test_values_of_the_image_are_told_by_their_names(shared):
    path = write_example()
    for band in (0, [0], [2, -1]):
        with pytest.raises(geotile.ArgumentError, match="bands must be numbers, from 1, or names; got"):
            geotile.plan(path, bands=band)
    with pytest.raises(geotile.ArgumentError, match="resolution applies only to a URI"):
        geotile.plan(geotile.open_image(path), resolution=2.0)
    with pytest.raises(geotile.ArgumentError, match=r"got 'none\.geojson'.*Read a file with geopandas"):
        geotile.plan(path, roi="none.geojson")
    assert (
        "--roi: must be WKT, GeoJSON or a file of areas; there is no file 'none.geojson'"
        in cli("plan", path, "--roi", "none.geojson", status=2).stderr
    )
    long = f"POLYGON (({', '.join(['3 45'] * 2000)}))"  # longer than the name of a file may be
    assert "--roi must" in cli("plan", path, "--roi", long, status=2).stderr
    with pytest.raises(
        geotile.ArgumentError, match=r"image must be an xarray\.DataArray, as geotile.open_image returns it; got str"
    ):
        geotile.plot_detections(path, geotile.detect(path, bright_objects, tile_size=128, overlap=32))
    with pytest.raises(geotile.ArgumentError, match="detections must have the columns"):
        geotile.plot_detections(geotile.open_image(path), "found.parquet")


def test_a_service_that_runs_once_ends_without_its_cluster(tmp_path, monkeypatch):
    monkeypatch.setattr("geotile.service.loop._LOST_TIMEOUT_S", 3.0)
    monkeypatch.setattr("geotile.service.cluster_connection._RECONNECT_INTERVAL_S", 0.3)
    said = cli("serve", "--queue", tmp_path, "--once", "--scheduler", "tcp://127.0.0.1:1", status=1).stderr
    assert "Error: no Dask cluster answered at --scheduler tcp://127.0.0.1:1 for 3 s (OSError: " in said
    assert "Traceback" not in said


def test_a_run_of_another_packages_endpoint_passes_its_options_on(monkeypatch):
    made = []

    class Kind(geotile.Endpoint):
        wants_bytes = remote = False

        def __init__(self, spec, **given):
            made.append(given)

        def invoke(self, tiles, content_type):
            return [([], []) for _ in tiles]

    class Entry:
        name = "mine"
        load = staticmethod(lambda: Kind)

    monkeypatch.setattr("geotile.endpoints.create.entry_points", lambda group: [Entry])
    geotile.detect(write_example(), "mine://model", tile_size=128, overlap=0, colour="red")
    assert made == [{"colour": "red"}]


@pytest.mark.slow
def test_the_score_threshold_of_a_run_reaches_the_decoder(shared):
    """A detector's own default of 0.3 does not hide what the user asked for."""
    picture, model = shared / "imagery" / "2_planes.tiff", f"onnx:{shared / 'models' / 'nanodet_m.onnx'}"
    job = {"tile_size": 224, "overlap": 96, "merge": None}
    usual, low, high = (
        geotile.detect(picture, model, **job, **more)
        for more in ({}, {"score_threshold": 0.05}, {"score_threshold": 0.38})
    )
    assert usual["score"].min() >= 0.3
    assert 0.05 <= low["score"].min() < 0.3
    assert high["score"].min() >= 0.38
    assert len(low) > len(usual) > len(high)
    named = geotile.detect(picture, geotile.endpoint(model, score_threshold=0.2), **job)
    assert 0.2 <= named["score"].min() < 0.3


def test_the_command_line_speaks_its_own_words(write_tiff, noise, tmp_path):
    path, out = write_tiff(noise), tmp_path / "found.parquet"
    job = ("detect", path, f"onnx:{tmp_path}/none.onnx", "-o", out)
    assert "tilesize" in cli(*job, "--tilesize", 3, status=2).stderr
    assert "--score-threshold" in cli(*job, "-O", "score_threshold=0.05", status=2).stderr
    assert "--overlap must be smaller than --tile-size; got --overlap 64 and --tile-size 64" in cli(
        "plan", path, "--tile-size", 64, "--overlap", 64, status=2
    ).stderr.replace("\n", " ")
    assert "geotile 0" in cli("--version").stdout
    assert in_flags("skip_nodata=False sends every tile") == "--skip-nodata false sends every tile"


@pytest.mark.parametrize(
    ("message", "given"),
    [
        ("no such image: /data/tile_size/bands=4/x.tif", ()), ("region_size/x.gpkg exists", ()),
        ("no such image: s3://b/roi=1/tile_size", ()), ("https://h/x?tile_size=5: no answer", ()),
        ("unknown option 'tile_size', not \"bands=3\"", ()), ("no such image: tile_size.tif", ()),
        ("onnx:tile_size.onnx is no model", ()), ("no such image: my tile_size x.tif", ("my tile_size x.tif",)),
        ("no such image: bands=4/x.tif", ("bands=4/x.tif",)), ("no such image: bands=4", ("bands=4",)),
    ],
)  # fmt: skip
def test_values_of_users_are_shown_as_they_were_given(message, given):
    assert in_flags(message, given) == message


def test_names_beside_values_become_flags():
    assert in_flags(
        "the file's tile_size must, with checkpoint='tile_size' or dem=/a/bands=4, be the model's bands=3"
    ) == ("the file's --tile-size must, with --checkpoint 'tile_size' or --dem /a/bands=4, be the model's --bands 3")
    for path in ("tile_size/bands=4/x.tif", "bands=4/x.tif", "tile_size"):
        assert f"no such image: {path}" in cli("plan", path, status=1).stderr
    out = "region_size/x.bmp"
    assert out in cli("detect", "a.tif", "http://127.0.0.1:9/x", "-o", out, status=2).stderr


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("dem applies only to images with RPCs, and this image has none; leave it out", "--dem applies only"),
        ("resolution is in metres, so it needs an image", "--resolution is in metres"),
        ("needs pixels stored as I and Q. Leave sar out", "Leave --sar out"),
        ("leave bands out", "leave --bands out"),
        ("verify must be True, False or the path of a file; got 5", "verify must be true, false or the path"),
        ("pad was False and is now True", "--pad was false and is now true"),
        ("height, dem cannot be applied to a Zarr store", "--height, --dem cannot be applied"),
        ("would have no effect with merge=None; leave", "with --merge none; leave"),
        (
            "blend='vote' needs output='classes'; got output='scores'",
            "--blend 'vote' needs --as 'classes'; got --as 'sc",
        ),
        (
            "polygon_classes would have no effect without polygons=; give",
            "--polygon-classes would have no effect without --polygons; give",
        ),
        ("tokens would have no effect with dtype='float32'", "--tokens would have no effect with --dtype 'float32'"),
        ("output must end in .tif; got 'output must'", "--output must end in .tif; got 'output must'"),
        ("the classes must be those of the first answer", "the classes must be"),
        ("merge 'soft-nms' takes 'class_agnostic', 'sigma'", "takes 'class_agnostic', 'sigma'"),
        ("the height of an image has no None in it", "the height of an image has no None in it"),
    ],
)
def test_messages_speak_flags(message, said):
    assert said in in_flags(message)


def test_the_command_line_has_no_words_of_python(write_tiff, noise, tmp_path):
    for command in ("detect", "plan", "resume", "check", "serve"):
        text = " ".join(cli(command, "--help").stdout.split())
        for word in ("geotile.", "None ", "True ", "False ", "callable", "GeoDataFrame", "shapely", "(y, x)"):
            assert word not in text, (command, word)
    job = (write_tiff(noise), "http://127.0.0.1:9/x", "-o", tmp_path / "a.fgb")
    for flags, said in (
        (["--merge", "foo"], "--merge must be one of 'seam', 'nms'"),
        (["--bands", "7"], "--bands must be numbers from 1 to 3 or the names"), (["--dem", "x"], "--dem applies only"),
        (["--bands", "0"], "--bands must be numbers, from 1, or names; got 0"),
        (["--storage-options", "foo=1"], "--storage-options foo do not apply to"),
        (["--merge", "none", "--class-agnostic"], "--class-agnostic would have no effect with --merge 'none'"),
    ):  # fmt: skip
        assert said in cli("detect", *job, *flags, status=2).stderr
    assert "one of http:, https:, oip+http:" in cli("check", "foo", status=2).stderr


def test_the_command_line_lists_a_failed_tile_once(write_tiff, noise, tmp_path):
    def model(tile):
        raise RuntimeError("no luck")

    with geotile.testing.ModelServer(model) as server:
        done = cli("detect", write_tiff(noise), server.url, "-o", tmp_path / "a.geojson", "-O", "retries=0", status=1)
    assert done.stderr.count("no luck") == done.stderr.count("tile 0 (rows 0:300, columns 0:420): ") == 1
    assert "Warning" not in done.stderr
    assert "no luck" not in done.stdout
    assert "not written, since every tile failed" in done.stdout


def test_a_tile_that_cannot_be_read_is_told_in_one_sentence(write_tiff, noise, tmp_path):
    path = write_tiff(noise, compress="deflate")
    os.truncate(path, os.path.getsize(path) * 2 // 3)
    with geotile.testing.ModelServer(crowd) as server:
        job = ("detect", path, server.url, "-o", tmp_path / "a.geojson", "--tile-size", 64, "--overlap", 0)
        lines = cli(*job, status=3).stderr.splitlines()
    for line in lines:
        assert line.count("rows ") == line.count("columns ") == 1
        for wrong in ("..", "previous exception", ".;", "[", "Read failed"):
            assert wrong not in line.replace("... and", "")


@pytest.mark.parametrize("name", ["a.geojson", "a.gpkg", "parts/"])
def test_a_run_without_any_answer_writes_nothing(write_tiff, noise, tmp_path, name):
    def model(tile):
        raise RuntimeError("no luck")

    path, out = write_tiff(noise), f"{tmp_path}/{name}"
    before = sorted(each.name for each in tmp_path.iterdir())
    for _ in range(2):  # the first leaves nothing that the second would be refused for
        with pytest.warns(geotile.FailedTilesWarning, match=r"no luck\. geotile"):
            assert geotile.detect_to(path, model, out, tile_size=64, overlap=0).status == "FAILED"
        assert sorted(each.name for each in tmp_path.iterdir()) == before
    geotile.detect_to(path, crowd, out, tile_size=64, overlap=0)
    kept = [each.read_bytes() for each in sorted(tmp_path.rglob("*")) if each.is_file()]
    with pytest.warns(geotile.FailedTilesWarning):
        geotile.detect_to(path, model, out, tile_size=64, overlap=0, overwrite=True)
    assert [each.read_bytes() for each in sorted(tmp_path.rglob("*")) if each.is_file()] == kept


@pytest.mark.parametrize(
    ("flags", "given"),
    [
        (["--pad"], {"pad": True}), (["--no-georeference"], {"georeference": False}),
        (["--outside-roi", "keep"], {"outside_roi": "keep"}), (["--skip-nodata", "false"], {"skip_nodata": False}),
        (["--tile-size", "64,32"], {"tile_size": (64, 32)}), (["--errors", "raise"], {"errors": "raise"}),
        (["--bands", "3,red"], {"bands": [3, "red"]}), (["--bands", "3", "--bands", "red"], {"bands": [3, "red"]}),
        (["--merge", "none"], {"merge": "none"}), (["--region-size", "auto"], {}), (["--sidecars"], {"sidecars": True}),
        (["--concurrency", "3"], {"concurrency": 3}), (["--storage-options", "anon=true"], {"storage_options": {"anon": True}}),
    ],
)  # fmt: skip
def test_flags_become_the_options_of_the_call(monkeypatch, flags, given, tmp_path):
    seen = {}

    def call(*args, **more):
        seen.update(more)
        raise geotile.ArgumentError("enough")

    monkeypatch.setattr(geotile, "detect_to", call)
    cli("detect", "a.tif", "http://127.0.0.1:9/x", "-o", tmp_path / "x.parquet", *flags, status=2)
    seen.pop("progress")
    assert seen == given


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("timeout_s=5,6.5", {"timeout_s": [5.0, 6.5]}), ("timeout_s=[5, 6]", {"timeout_s": [5, 6]}),
        ("labels=car, ship", {"labels": ["car", "ship"]}), ("labels=names.txt", {"labels": "names.txt"}),
        ("mean=0.5,0.25,0.5", {"mean": [0.5, 0.25, 0.5]}), ("params=TargetModel=a,X=b=c", {"params": {"TargetModel": "a", "X": "b=c"}}), ("family=a,b", {"family": "a,b"}),
        ('output_names={"boxes": "b"}', {"output_names": {"boxes": "b"}}), ("cert=a.pem,b.pem", {"cert": ["a.pem", "b.pem"]}),
        ("auth=me,a,b", {"auth": ["me", "a,b"]}), ("bearer=a,b", {"bearer": "a,b"}), ("timeout_s=a,6", {"timeout_s": ["a", 6.0]}),
    ],
)  # fmt: skip
def test_options_of_endpoints_have_commas(text, value):
    assert endpoint_options([text]) == value


def test_an_endpoint_option_of_the_wrong_type_is_refused():
    said = cli("check", "http://127.0.0.1:9/x", "-O", "timeout_s=5", status=2).stderr
    assert "timeout_s must be a pair of numbers" in said


def test_the_report_is_found_or_missed_in_words(write_tiff, noise, tmp_path):
    found = geotile.detect(write_tiff(noise), crowd, tile_size=64, overlap=16)
    assert geotile.report(found) == found.attrs["report"]
    assert "SUCCESS" in repr(geotile.report(found))
    assert ">SUCCESS</td>" in geotile.report(found)._repr_html_()
    with pytest.raises(geotile.ArgumentError, match="merge, dissolve, concat"):
        geotile.report(pd.concat([found, pd.DataFrame(found)[["label"]].drop_duplicates()]))
    geotile.write(found, tmp_path / "found.parquet")
    import geopandas as gpd

    again = geotile.report(gpd.read_parquet(tmp_path / "found.parquet"))
    assert (again.status, again.tiles) == ("SUCCESS", 54)
    assert "seconds" not in repr(again)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bands": [1.0, 2.9]}, "bands"), ({"bands": True}, "bands"), ({"height": float("nan")}, "height"),
        ({"height": "abc"}, "height"), ({"height": True}, "height"), ({"subdataset": False}, "subdataset"),
        ({"georeference": None}, "georeference"), ({"compute": None}, "compute"), ({"pad": None}, "pad"),
    ],
)  # fmt: skip
def test_values_are_not_reinterpreted(options, text, write_tiff, noise):
    with pytest.raises(geotile.ArgumentError, match=f"^{text} must be"):
        geotile.detect(write_tiff(noise), geotile.testing.bright_objects, **options)


def test_numpy_integers_are_band_numbers(write_tiff, noise):
    path = write_tiff(noise)
    assert geotile.open_image(path, bands=np.int64(2)).equals(geotile.open_image(path, bands=2))
    assert geotile.open_image(path, bands=np.array([3, 1])).equals(geotile.open_image(path, bands=[3, 1]))


@pytest.mark.parametrize("verify", ["", 0, [], None])
def test_certificates_are_verified_unless_told_by_false(verify):
    with pytest.raises(geotile.ArgumentError, match=r"^verify must be"):
        geotile.endpoint("https://127.0.0.1:9/x", verify=verify)


def test_a_checkpoint_distinguishes_the_default_threshold_from_zero(write_tiff, noise, tmp_path):
    path, model = write_tiff(noise), geotile.testing.bright_objects
    geotile.detect(path, model, checkpoint=tmp_path / "cp")
    with pytest.raises(geotile.ArgumentError, match="score_threshold was None and is now 0"):
        geotile.detect(path, model, checkpoint=tmp_path / "cp", score_threshold=0)


def test_a_refused_call_leaves_the_files_of_a_folder(write_tiff, noise, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("call.json", "notes.txt"):
        (mine / name).write_text("mine")
    job = ("detect", write_tiff(noise), "http://127.0.0.1:9/x", "-o", tmp_path / "a.geojson", "--checkpoint")
    assert "not a checkpoint" in cli(*job, mine, status=2).stderr
    assert (mine / "call.json").read_text() == "mine"
    assert "--checkpoint must be" in cli(*job, "", status=2).stderr
    secret = cli(*job, tmp_path / "cp", "--dem", "https://me:hush@host/d.tif", status=2).stderr
    assert "contains a secret" in secret.replace("\n", " ")
    assert "hush" not in secret


def test_a_refused_call_leaves_the_stored_one(write_tiff, noise, tmp_path):
    path, folder = write_tiff(noise), tmp_path / "cp"
    with geotile.testing.ModelServer(crowd) as server:
        job = ("detect", path, server.url, "-o", tmp_path / "a.geojson", "--checkpoint", folder)
        assert "no such image" in cli("detect", "none.tif", *job[2:], status=1).stderr
        assert not (folder / "call.json").exists()
        cli(*job)
        call = (folder / "call.json").read_bytes()
        refused = cli(*job[:4], tmp_path / "b.geojson", *job[5:], "--tile-size", 64, "--overlap", 8, status=2).stderr
        assert "checkpoint of another job" in refused.replace("\n", " ")
        assert (folder / "call.json").read_bytes() == call


@pytest.mark.parametrize(
    "options",
    [
        {"storage_options": "key=hush"}, {"output_options": "hush"}, {"checkpoint": 5}, {"checkpoint": b"cp"}, {"dem": 5},
        {"asset": 5}, {"headers": "hush"}, {"headers": ["hush"]}, {"params": "x"}, {"bearer": b"hush"}, {"profile": 5},
    ],
)  # fmt: skip
def test_types_are_checked_without_showing_secrets(options, write_tiff, noise):
    kind = "sagemaker://model" if "profile" in options else "http://127.0.0.1:9/x"
    with pytest.raises(geotile.ArgumentError, match=rf"^{next(iter(options))} must be a ") as caught:
        geotile.detect(write_tiff(noise), kind, **options)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tile_size": 512}, "option 'tile_size' is the field imageProcessorTileSize"),
        ({"retries": 2}, "option 'retries' does not apply to the field geotile"),
        ({"skip_nodta": True}, "did you mean 'skip_nodata'?"), ({"skip_nodata": "x"}, "skip_nodata must be"),
    ],
)  # fmt: skip
def test_options_of_requests_are_named_as_in_json(options, text, tmp_path):
    request = {
        "jobId": "a", "imageUrls": ["none.tif"], "outputs": [{"type": "S3", "bucket": "b", "prefix": "p"}],
        "imageProcessor": {"name": "http://127.0.0.1:9/x", "type": "HTTP_ENDPOINT"}, "geotile": options,
    }  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(request))
    (tmp_path / "queue").mkdir()
    assert text in cli("submit", tmp_path / "job.json", "--queue", tmp_path / "queue", status=2).stderr


REQUEST = {
    "jobId": "a", "imageUrls": ["a.tif"], "outputs": [{"type": "File", "path": "x"}],
    "imageProcessor": {"name": "http://127.0.0.1:9/x", "type": "HTTP_ENDPOINT"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"imageProcesorTileSize": 64}, "did you mean 'imageProcessorTileSize'?"), ({"jobid": "x"}, "did you mean 'jobId'?"),
        ({"skipNodata": True}, 'give "geotile": {"skip_nodata": ...}'), ({"tile_size": 64}, "the field imageProcessorTileSize"),
        ({"roi": "x"}, "the field regionOfInterest"), ({"skip_nodta": 1}, 'did you mean "geotile": {"skip_nodata": ...}?'),
        ({"outputs": [{"type": "File", "path": "x", "formt": "parquet"}]}, "outputs[0]: unknown field 'formt'; did you mean"),
        ({"imageProcessor": REQUEST["imageProcessor"] | {"retries": 3}}, "imageProcessor: unknown field 'retries'; it is an"),
        ({"geotile": {"concurrency": 3}}, "to the whole service; give `geotile serve` --concurrency"),
        ({"geotile": 5}, "geotile must be a JSON object; got 5"), ({"jobId": 5}, "jobId must be text; got 5"),
        ({"imageProcessorTileSize": 3}, "imageProcessorTileSize must be at least 16; got 3"),
        ({"imageProcessorTileSize": 1.5}, "imageProcessorTileSize must be a whole number; got 1.5"),
        ({"outputs": [{"type": "Pigeon"}]}, "outputs[0].type must be one of 'S3', 'Kinesis', 'File'; got \"Pigeon\""),
        ({"outputs": [{"type": "S3", "bucket": 5}]}, "outputs[0].bucket must be text; got 5"),
        ({"outputs": [{}]}, "outputs[0].type must be given"), ({"imageUrls": []}, "imageUrls must be a list with at least"),
        ({"imageProcessorTileFormat": "BMP"}, "imageProcessorTileFormat must be 'NITF', 'GTIFF', 'PNG' or 'JPEG'"),
        ({"postProcessing": [{"step": "FEATURE_DISTILLATION", "algorithm": {"iouThreshold": 2}}]}, "iouThreshold must be at most"),
    ],
)  # fmt: skip
def test_fields_of_requests_are_refused_in_words(fields, text):
    with pytest.raises(geotile.ArgumentError) as caught:
        geotile.JobRequest.parse(json.dumps(REQUEST | fields))
    assert text in str(caught.value)


def test_fields_that_only_oversightml_has_are_taken(tmp_path):
    extra = {"jobArn": "x", "colour": 1, "featureDistillationOption": {"algorithmType": "NMS"}}
    assert geotile.JobRequest.parse(json.dumps(REQUEST | extra)).unknown_fields() == list(extra)


def test_the_file_of_a_wrong_request_is_named_among_several(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(REQUEST))
    (tmp_path / "b.json").write_text(json.dumps(REQUEST | {"jobid": "b"}))
    said = cli("submit", tmp_path / "a.json", tmp_path / "b.json", "--queue", tmp_path / "jobs", status=2).stderr
    assert said.startswith(f"Error: {tmp_path / 'b.json'}: the request: unknown field 'jobid'")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"merge": geotile.Nms(0.1), "iou_threshold": 0.9}, "iou_threshold would have no effect"),
        ({"merge": geotile.SoftNms(), "class_agnostic": True}, "class_agnostic would have no effect"),
        ({"overlap_metric": "ios"}, "overlap_metric would have no effect with merge='seam'.*such as merge='nms'"),
        ({"merge": "union", "class_agnostic": True}, "class_agnostic would have no effect with merge='union'"),
        ({"merge": "seam:iou_threshold=0.2", "iou_threshold": 0.3}, "iou_threshold would have no effect"),
        ({"merge": "nms:0.3"}, "merge must be a name, .* got 'nms:0.3'"), ({"merge": "nms:"}, "got 'nms:'"),
        ({"merge": "nms:iou_threshold=0.3,iou_threshold=0.5"}, "each given once"),
        ({"merge": "seam:sigma=0.2"}, "unknown option 'sigma'"), ({"merge": "point-nms"}, "needs distance"),
        ({"merge": "nms:metric=giou"}, "metric must be 'iou' or 'ios'; got 'giou'"),
        ({"merge": geotile.Nms}, "merge must be an object such as geotile.Nms"),
    ],
)  # fmt: skip
def test_merging_options_without_effect_are_refused(given, text):
    with pytest.raises(geotile.ArgumentError, match=text):
        geotile.detect(write_example(), bright_objects, **given)


def test_class_names_and_not_their_file_identify_a_decoder(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("car\nship\n")
    before = decoder_identity(options.DecoderOptions(labels=names))
    assert before == decoder_identity(options.DecoderOptions(labels=str(names)))
    assert before == decoder_identity(options.DecoderOptions(labels=["car", "ship"]))
    names.write_text("car\nboat\n")
    assert before != decoder_identity(options.DecoderOptions(labels=names))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"max_jobs": "3"}, "max_jobs must be a whole number; got '3'"), ({"max_jobs": 0}, "max_jobs must be"),
        ({"max_jobs_per_endpoint": -1}, "max_jobs_per_endpoint must be"), ({"max_backlog": 1.5}, "max_backlog must be"),
        ({"max_attempts": True}, "max_attempts must be"), ({"retry_delay_s": -3}, "retry_delay_s must be"),
        ({"grace_s": float("nan")}, "grace_s must be"), ({"concurrency": 0}, "concurrency must be"),
        ({"limits": {"a": 0}}, r"limits\['a'\] must be"), ({"limits": 3}, "limits must be"),
        ({"region_size": 0}, "region_size must be"), ({"region_size": "x"}, "region_size must be"),
        ({"workers": 3}, "workers must be"), ({"workers": (2, 1)}, "workers must be"), ({"once": 1}, "once must be"),
        ({"endpoint_options": {"retrys": 2}}, "unknown option 'retrys'; did you mean 'retries'"),
        ({"endpoint_options": {"retries": "abc"}}, "retries must be"), ({"endpoint_options": 5}, "endpoint_options must be"),
        ({"status": "foo"}, "status must be sns:// and the ARN"), ({"status": "sns://arn:aws:sns::1:t"}, "status must be"),
        ({"address": 5}, "address must be"), ({"state": 5}, "state must be"), ({"max_job": 5}, "did you mean 'max_jobs'"),
    ],
)  # fmt: skip
def test_a_service_refuses_its_arguments_before_it_takes_a_job(given, text, tmp_path):
    (tmp_path / "job.json").write_text("{}")
    with pytest.raises(geotile.ArgumentError, match=text):
        geotile.serve(tmp_path, **({"once": True} | given))
    assert [each.name for each in tmp_path.iterdir()] == ["job.json"]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--region-size", "0"], "--region-size must be"), (["--retry-delay-s", "-3"], "--retry-delay-s must be"),
        (["--status", "foo"], "--status must be sns://"), (["-O", "retrys=2"], "did you mean 'retries'"),
        (["-O", "retries=abc"], "retries must be"), (["--max-jobs", "0"], "max-jobs"), (["--limit", "a=0"], "NAME=N"),
        (["--workers", "3-1"], "MAXIMUM"),
    ],
)  # fmt: skip
def test_a_service_on_the_command_line_refuses_its_arguments(flags, text, tmp_path):
    (tmp_path / "job.json").write_text("{}")
    said = cli("serve", "--queue", tmp_path, "--once", *flags, status=2).stderr
    assert text in said
    assert [each.name for each in tmp_path.iterdir()] == ["job.json"]


def test_each_endpoint_of_a_service_gets_the_options_that_apply_to_it():
    given = {"retries": 2, "bearer": "x", "batch_size": 4}
    assert applicable_options("sagemaker://m", given) == {"retries": 2}
    assert applicable_options("http://127.0.0.1/x", given) == {"retries": 2, "bearer": "x"}
    assert applicable_options("onnx:m.onnx", given) == {"batch_size": 4}
    assert applicable_options("mine://m", given) == given
