"""The public face: its names, where they say that they live, and what importing it costs."""

import doctest
import importlib
import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

import geotile

NAMES = [
    "ArgumentError", "Check", "ClusterError", "Endpoint", "EndpointError", "EndpointUnreachable", "FailedTilesWarning", "GeoreferenceError",
    "GeotileError", "GreedyNmm", "HttpEndpoint", "ImageError", "ImageOpenError", "ImageReadError", "JobRequest", "KeepAll", "Merge",
    "Nmm", "Nms", "OutputError", "Plan", "PointNms", "Progress", "Report", "ResponseError", "RetryPolicy", "SeamNms",
    "ServiceError", "SigV4",
    "SoftNms", "TileError", "TileFailure", "TileGrid", "Union", "Window", "cancel", "cast", "detect", "detect_to", "embed", "embed_to", "endpoint", "explore",
    "image_geometry", "jobs",
    "nms", "open_image", "plan", "plot_classes", "plot_detections", "polygonize", "predict", "predict_to", "report", "rescale", "retry", "serve", "stretch", "submit", "write",
]  # fmt: skip


def test_the_public_names_are_pinned():
    assert geotile.__all__ == NAMES
    assert set(dir(geotile)) <= set(NAMES)
    for name in ("errors", "testing", "detectors"):
        assert inspect.ismodule(getattr(geotile, name))
    with pytest.raises(AttributeError):
        geotile.raster  # noqa: B018 - that is the question


@pytest.mark.parametrize("name", NAMES)
def test_exported_objects_say_that_they_live_in_geotile(name):
    exported = getattr(geotile, name)
    assert inspect.isclass(exported) or inspect.isfunction(exported)
    assert exported.__module__ == "geotile"
    assert pickle.loads(pickle.dumps(exported)) is exported


def test_errors_say_so_before_anybody_has_looked():
    """A class that is raised before it was fetched from `geotile` says the same."""
    code = "import geotile.errors as e; print(e.ImageOpenError.__module__, e.ArgumentError.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["geotile", "geotile"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_examples_of_the_public_names_run(name):
    """pytest looks for the examples of a module in what says that it lives there; these say that they live here."""
    exported = getattr(geotile, name)
    tests = doctest.DocTestFinder().find(exported, name, module=False)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in tests:
        # the module where the object is defined, as pytest has it
        where = importlib.import_module(_home(exported))
        test.globs = {**vars(where), **test.globs}
        assert runner.run(test).failed == 0


def _home(exported) -> str:
    return next(
        module for module, found in sorted(sys.modules.items())
        if module.startswith("geotile.") and vars(found).get(exported.__name__) is exported
    )  # fmt: skip


@pytest.mark.slow
def test_importing_is_cheap():
    program = Path(geotile.__file__).parents[1] / "benchmarks" / "startup.py"
    done = subprocess.run([sys.executable, program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    imported, shown = map(float, re.findall(r"([\d.]+)%", done.stdout))
    assert imported <= 10
    assert shown <= 25


def test_importing_the_detectors_imports_no_dependency():
    code = """
import sys, geotile.detectors
print(*geotile.detectors.__all__)
assert not {"numpy", "PIL", "onnxruntime", "shapely"} & set(sys.modules)
geotile.detectors.OnnxDetector, geotile.detectors.FAMILIES
assert not {"PIL", "onnxruntime"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["Detector", "FAMILIES", "OnnxDetector", "Tensor"]


@pytest.mark.slow
def test_a_run_on_threads_does_not_import_distributed():
    code = """
import sys, geotile
from geotile.testing import bright_objects, write_example
assert len(geotile.detect(write_example(), bright_objects, tile_size=128, overlap=32)) == 3
assert not {name for name in sys.modules if name.split(".")[0] in ("distributed", "tornado")}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
