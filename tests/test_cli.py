"""The command line, as a user runs it."""

import contextlib
import io
import os
import pty
import subprocess
import sys
import threading

import geopandas as gpd
import pytest
from helpers import cli, crowd
from rasterio.shutil import copy as copy_file
from shapely.geometry import box

import geotile
from geotile.cli.main import main
from geotile.testing import ModelServer


def said(*words) -> str:
    return " ".join(cli(*words, status=2).stderr.split())


@pytest.mark.slow
def test_detect_writes_what_the_library_finds(write_tiff, noise, tmp_path):
    path, out = write_tiff(noise), tmp_path / "out.parquet"
    with ModelServer(crowd) as server:
        done = cli("detect", path, server.url, "-o", out, "--tile-size", 64, "--overlap", 16, "--score-threshold", 0.3)
        want = geotile.detect(path, server.url, tile_size=64, overlap=16, score_threshold=0.3)
        again = cli("detect", path, server.url, "-o", out, status=1)
    found = gpd.read_parquet(out)
    assert found["xmin"].tolist() == want["xmin"].tolist()
    assert "SUCCESS" in done.stdout
    assert done.stderr == ""  # no bar where there is no terminal
    assert "exists" in again.stderr
    assert "Traceback" not in again.stderr


@pytest.mark.slow
def test_a_terminal_gets_a_bar_with_the_time_left(write_tiff, noise, tmp_path):
    controller, terminal = pty.openpty()
    shown = bytearray()

    def watch():
        with contextlib.suppress(OSError):  # how Linux says that the terminal is closed
            while part := os.read(controller, 4096):
                shown.extend(part)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ModelServer(crowd, latency_s=0.05) as server:
        args = [write_tiff(noise), server.url, "-o", tmp_path / "out.geojson", "--tile-size", "64", "--overlap", "16"]
        command = [sys.executable, "-m", "geotile", "detect", *map(str, args)]
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
        done = subprocess.run(command, stderr=terminal, stdout=subprocess.PIPE, env=environment)
    os.close(terminal)
    watcher.join()
    os.close(controller)
    assert done.returncode == 0
    assert b"54/54" in shown
    assert b"0:00:00" in shown


@pytest.mark.slow
def test_failed_tiles_are_listed_and_told_by_the_exit_status(write_tiff, noise, tmp_path):
    broken = noise[:, :64, :64].tobytes()

    def model(tile):
        if tile.tobytes() == broken:
            raise RuntimeError("no luck")
        return crowd(tile)

    with ModelServer(model) as server:
        args = ("detect", write_tiff(noise), server.url, "--tile-size", 64, "--overlap", 16, "-O", "retries=1", "-o")
        done = cli(*args, tmp_path / "out.geojson", status=3)
        stopped = cli(*args, tmp_path / "stopped.geojson", "--errors", "raise", status=1)
    assert "tile 0 (rows 0:64, columns 0:64): " in done.stderr
    assert "no luck" in stopped.stderr
    assert not (tmp_path / "stopped.geojson").exists()


def test_a_pipe_gets_whole_values(write_tiff, noise, tmp_path):
    folder = tmp_path / ("long [name] " * 9)
    folder.mkdir()
    path = write_tiff(noise, str(folder / "a.tif"))
    assert f"  {path}\n" in cli("plan", path).stdout
    with ModelServer(crowd) as server:
        done = cli("detect", path, server.url, "-o", folder / "a.geojson", "--checkpoint", folder / "cp")
    assert f"  {folder / 'a.geojson'}\n" in done.stdout
    assert f"  {path}\n" in cli("status", folder / "cp").stdout
    assert not any(line.endswith(" ") for line in done.stdout.splitlines())


@pytest.mark.slow
def test_plan_prints_and_draws(write_tiff, noise, tmp_path):
    done = cli("plan", write_tiff(noise), "--tile-size", 64, "--overlap", 16, "-o", tmp_path / "plan.png")
    assert "54 (9 x 6)" in done.stdout
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_names_that_the_encoding_lacks_are_escaped(write_tiff, noise, tmp_path, monkeypatch):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict") for _ in range(2)]
    (tmp_path / "ü").mkdir()
    monkeypatch.chdir(tmp_path)
    write_tiff(noise, "ü/bild-ä.tif")
    monkeypatch.setattr(sys, "argv", ["geotile", "plan", "ü/bild-ä.tif"])
    for name, stream in zip(("stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(sys, name, stream)
    with contextlib.suppress(SystemExit):
        main()
    monkeypatch.undo()
    for stream in streams:
        stream.flush()
    assert rb"\xfc/bild-\xe4.tif" in streams[0].buffer.getvalue()
    assert streams[1].buffer.getvalue() == b""


@pytest.mark.slow
def test_a_run_does_not_fail_for_the_encoding_of_its_output(write_tiff, noise, tmp_path):
    (tmp_path / "ü").mkdir()
    write_tiff(noise, "ü/bild-ä.tif")
    environment = os.environ | {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"}
    with ModelServer(crowd) as server:
        words = ["detect", "ü/bild-ä.tif", server.url, "-o", "ü/gefunden.geojson"]
        command = [sys.executable, "-m", "geotile", *words]
        done = subprocess.run(command, capture_output=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert b"gefunden.geojson" in done.stdout
    missing = subprocess.run([*command[:4], "fehlt-ä.tif"], capture_output=True, env=environment, cwd=tmp_path)
    assert b"UnicodeEncodeError" not in missing.stderr


@pytest.mark.parametrize("command", ["resume", "status"])
def test_a_folder_that_is_no_checkpoint_is_named(command, tmp_path):
    assert "checkpoint must be a path" in said(command, "")
    assert "is not a checkpoint" in said(command, tmp_path / "nothing")
    (tmp_path / "notes.txt").touch()
    refused = said(command, tmp_path)
    assert "is not a checkpoint" in refused
    assert "Check the path" in refused
    assert "new folder" not in refused
    for job in (
        "[]",
        "{}",
        "{",
        '{"identity": {}, "format": 1}',
        '{"identity": {"image": 5}, "format": 1, "regions": [1, 1]}',
    ):
        (tmp_path / "job.json").write_text(job)
        (tmp_path / "call.json").write_text(job)
        assert "Check the path" in said(command, tmp_path)


def test_help_explains():
    assert "sagemaker://" in cli("detect", "--help").stdout
    assert {"detect", "plan", "demo"} <= set(cli("--help").stdout.split())


@pytest.mark.parametrize(
    ("args", "said", "status"),
    [
        (("plan", "none.tif"), "no such image: none.tif", 1),
        (("detect", "none.tif", "http://127.0.0.1:9/x", "-o", "out.bmp"), "must end in one of", 2),
        (("plan", "none.tif", "-o", "x.foo"), "--output must end in one of .png, .svg, .pdf, .jpg; got 'x.foo'", 2),
        (("plan", "none.tif", "-o", "nodir/x.png"), "--output must be in a folder that exists; there is no", 2),
        (("plan", "none.tif", "--height", "abc"), "'--height'", 2),
        (("plan", "none.tif", "--tile-format", "png"), "'png' is not one of 'GTIFF'", 2),
        (("plan", "none.tif", "--merge", "nms"), "No such option: --merge", 2),
        (("nonsense",), "No such command", 2),
        (("plan", "none.tif", "--tile-size"), "requires an argument", 2),
        (
            ("detect", "none.tif", "http://127.0.0.1:9/x", "-o", "x.fgb", "--headers", "x"),
            "--headers: must be written",
            2,
        ),
        (("serve", "--queue", "q", "--status", "foo"), "--status must be sns:// and the ARN of a topic", 2),
        (("demo", "--folder", __file__, "--size", "600"), "--folder must be a folder", 2),
        (("demo", "--tile-size", "0"), "--tile-size", 2),
        (("submit", "none.json", "--queue", "q"), "cannot be read", 2),
        (("plan", "none.tif", "--roi", __file__), "must be WKT, GeoJSON or a file of areas", 2),
        (("detect", "none.tif"), "Missing argument", 2),
    ],
)
def test_errors_are_one_line(args, said, status):
    done = cli(*args, status=status)
    assert said in done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_demo_that_fails_leaves_no_empty_folder(write_tiff, noise, tmp_path):
    (tmp_path / "model.onnx").write_text("no network")
    folder = tmp_path / "mine"
    cli("demo", write_tiff(noise), "--model", tmp_path / "model.onnx", "--folder", folder, status=2)
    assert not folder.exists()


def test_the_demo_replaces_no_results(tmp_path):
    for name in ("detections.parquet", "scene.tif"):
        (tmp_path / name).write_text("mine")
        done = cli("demo", "--folder", tmp_path, "--size", 600, status=1)
        assert f"'{tmp_path}' holds {name}; give --overwrite or another --folder" in done.stderr
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_without_arguments_the_command_line_shows_its_help():
    assert {"detect", "plan", "demo"} <= set(cli(status=2).stdout.split())


def test_a_failure_of_the_system_is_one_line(write_tiff, noise, tmp_path):
    (tmp_path / "plan.png").mkdir()
    done = cli("plan", write_tiff(noise), "-o", tmp_path / "plan.png", status=1)
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def test_images_are_opened_as_the_options_say(write_tiff, noise, tmp_path):
    path, out = write_tiff(noise), tmp_path / "out.parquet"
    area = gpd.GeoDataFrame(geometry=[box(500_010, 4_999_950, 500_040, 4_999_990)], crs="EPSG:32631")
    area.to_file(tmp_path / "area.geojson")
    lonlat = area.to_crs("OGC:CRS84").geometry[0].wkt
    options = ["--tile-size", 64, "--overlap", 16, "--bands", 3, "--bands", "red", "--roi"]
    planned = cli("plan", path, *options, tmp_path / "area.geojson").stdout
    assert planned == cli("plan", path, *options, lonlat).stdout
    want = geotile.plan(path, tile_size=64, overlap=16, bands=[3, 1], roi=area)
    assert f"{want.requests} of them" in planned
    with ModelServer(crowd) as server:
        cli("detect", path, server.url, "-o", out, *options, lonlat)
        assert server.requests == want.requests
    copy_file(path, tmp_path / "a.vrt", driver="VRT")
    assert "--allow-vrt" in cli("plan", tmp_path / "a.vrt", status=1).stderr
    cli("plan", tmp_path / "a.vrt", "--allow-vrt")
    assert "name=value" in cli("plan", path, "--storage-options", "nonsense", status=2).stderr
    assert "do not apply" in cli("plan", path, "--storage-options", "anon=true", status=2).stderr
    assert "--resolution must be" in cli("plan", path, "--resolution", -1, status=2).stderr


def test_check_says_what_is_wrong_and_takes_the_endpoints_options(shared):
    with ModelServer(crowd) as server:
        assert "detections for a tile of 3 x 512 x 512" in cli("check", server.url).stdout.replace("\n", " ")
        missing = cli("check", server.url.replace("invocations", "predict"), status=1)
    assert "check the URL" in missing.stderr.replace("\n", " ")
    model = f"onnx:{shared / 'models' / 'nanodet_m.onnx'}"
    assert "returned 0 detections" in cli("check", model, "-O", "score_threshold=0.9").stdout.replace("\n", " ")
    assert "unknown option 'colour'" in cli("check", model, "-O", "colour=red", status=2).stderr.replace("\n", " ")
    assert "name=value" in cli("check", model, "-O", "colour", status=2).stderr
