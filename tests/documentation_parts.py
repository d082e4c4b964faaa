"""What stands for the servers, the bucket, the cluster and the files that a page names."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from aws import aws
from oip_server import oip_server, tensor
from onnx import TensorProto, helper, numpy_helper, save
from sagemaker_service import Service, serving

from geotile.encoding.nitf import rpc00b
from geotile.testing import ModelServer, make_scene, scene_classifier, scene_detector, scene_embedder

MODELS = {
    "https://models.example/invocations": lambda: ModelServer(scene_detector),
    "https://models.example/landcover": lambda: ModelServer(scene_classifier, arrays=True),
    "https://models.example/vectors": lambda: ModelServer(scene_embedder, arrays=True),
}
OIP, PRIVATE, SCHEDULER = (
    "oip+http://triton:8000/v2/models/vehicles",
    "https://bucket.vpce-0f1.s3.us-east-1.vpce.amazonaws.com",
    "tcp://scheduler:8786",
)
PROFILE = "[imagery]\naws_access_key_id = key\naws_secret_access_key = hush\nregion = us-east-1\n"


@contextmanager
def store(folder: Path):
    """Serve S3 with a bucket that holds a scene; yields its settings as variables of the environment."""
    image = make_scene(folder / "scene.tif", size=1024, objects=60).path
    profiles = folder / "profiles"
    profiles.write_text(PROFILE)
    with aws() as there:
        there.client("s3").create_bucket(Bucket="bucket")
        there.client("s3").upload_file(str(image), "bucket", "scene.tif")
        yield there.environment() | {"AWS_SHARED_CREDENTIALS_FILE": str(profiles)}


@contextmanager
def triton():
    """Serve the boxes of `cells` by the Open Inference Protocol; yields its address."""

    def model(pictures: Any) -> dict[str, Any]:
        boxes, scores = cells(pictures)
        return {"boxes": boxes, "scores": scores, "labels": np.ones(scores.shape, np.int64)}

    outputs = [tensor("boxes", "FP32", -1, -1, 4), tensor("scores", "FP32", -1, -1), tensor("labels", "INT64", -1, -1)]
    with oip_server(model, [tensor("images", "FP32", -1, 3, 256, 256)], outputs) as (address, _):
        yield address


@contextmanager
def sagemaker():
    """Serve SageMaker with an endpoint "planes" that holds a model; yields its settings as variables."""
    service = Service()
    service.body = lambda tile: ("application/json", json.dumps(scene_detector(tile)).encode())
    with serving(service) as url:
        named = {f"AWS_ENDPOINT_URL_{name}": url for name in ("SAGEMAKER_RUNTIME", "SAGEMAKER", "STS")}
        yield named | {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hush"}


def cells(pictures: Any) -> tuple[Any, Any]:
    """Score squares of 16 pixels, every 8 pixels, by their brightness; (n, cell, 4) and (n, cell), float32."""
    bright = pictures.max(axis=1)
    sums = np.pad(bright.astype(np.float64).cumsum(1).cumsum(2), [(0, 0), (1, 0), (1, 0)])
    mean = (sums[:, 16:, 16:] - sums[:, :-16, 16:] - sums[:, 16:, :-16] + sums[:, :-16, :-16])[:, ::8, ::8] / 256
    ys, xs = np.mgrid[: mean.shape[1], : mean.shape[2]] * 8.0
    boxes = np.stack([xs, ys, xs + 16, ys + 16], axis=-1).reshape(1, -1, 4)
    scores = 1 / (1 + np.exp(-20 * (mean.reshape(len(pictures), -1) - 0.7)))
    return np.repeat(boxes, len(pictures), 0).astype(np.float32), scores.astype(np.float32)


def write_network(path: Path) -> None:
    """Write a detector of bright squares of 16 pixels, with the outputs and the metadata of Ultralytics' YOLOv8.

    It scores the anchors of the finest level, which has a stride of 8; the scores of the two others are 0.
    """
    boxes = []
    for stride in (8, 16, 32):
        ys, xs = np.mgrid[: 256 // stride, : 256 // stride] * stride + stride / 2
        boxes.append(np.stack([xs.ravel(), ys.ravel(), *np.full((2, xs.size), stride * 2.0)]))
    constants = {
        "boxes": np.concatenate(boxes, axis=1)[None].astype(np.float32), "floor": np.float32(0.7),
        "slope": np.float32(20), "shape": np.array([1, 1, -1], np.int64), "axes": np.array([1], np.int64),
        "coarse": np.zeros((1, 1, 16**2 + 8**2), np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("ReduceMax", ["images", "axes"], ["bright"], keepdims=1),
        helper.make_node("AveragePool", ["bright"], ["mean"], kernel_shape=[16, 16], strides=[8, 8], pads=[4, 4, 4, 4]),
        helper.make_node("Sub", ["mean", "floor"], ["above"]),
        helper.make_node("Mul", ["above", "slope"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["grid"]),
        helper.make_node("Reshape", ["grid", "shape"], ["fine"]),
        helper.make_node("Concat", ["fine", "coarse"], ["scores"], axis=2),
        helper.make_node("Concat", ["boxes", "scores"], ["output0"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "squares",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, 3, 256, 256))],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, (1, 5, 1344))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    said = {"task": "detect", "names": "{0: 'vehicle'}", "imgsz": "[256, 256]", "stride": "32"}
    helper.set_model_props(made, said | {"description": "Ultralytics YOLOv8", "author": "Ultralytics"})
    save(made, path)


def write_satellite(folder: Path) -> None:
    """Write ``satellite.ntf``, a scene that RPCs of a camera 25 degrees off nadir place, and ``dem.tif``, a slope."""
    with rasterio.open(make_scene(folder / "flat.tif", size=1024, objects=60).path) as file:
        pixels = file.read()
    lon, lat, per_degree_m = 4.4, 51.9, 111_250.0
    half_m = 512 * 0.3
    across = half_m / (per_degree_m * np.cos(np.radians(lat)))

    def polynomial(**terms: float) -> str:
        order = {"one": 0, "lon": 1, "lat": 2, "height": 3}
        return " ".join(str(next((v for k, v in terms.items() if order[k] == n), 0.0)) for n in range(20))

    metadata = {
        "ERR_BIAS": "0", "ERR_RAND": "0", "LINE_OFF": "512", "SAMP_OFF": "512", "LAT_OFF": str(lat), "LONG_OFF": str(lon),
        "HEIGHT_OFF": "0", "LINE_SCALE": "512", "SAMP_SCALE": "512", "LAT_SCALE": str(half_m / per_degree_m),
        "LONG_SCALE": str(across), "HEIGHT_SCALE": "500", "LINE_DEN_COEFF": polynomial(one=1),
        "SAMP_DEN_COEFF": polynomial(one=1), "LINE_NUM_COEFF": polynomial(lat=-1),
        "SAMP_NUM_COEFF": polynomial(lon=1, height=float(500 * np.tan(np.radians(25)) / half_m)),
    }  # fmt: skip
    with rasterio.open(
        folder / "satellite.ntf", "w", driver="NITF", width=1024, height=1024, count=3, dtype="uint8",
        photometric="RGB", TRE=f"RPC00B={rpc00b(metadata)}",
    ) as file:  # fmt: skip
        file.write(pixels)
    n = 64
    with rasterio.open(
        folder / "dem.tif", "w", driver="GTiff", width=n, height=n, count=1, dtype="float32", crs="EPSG:4326",
        transform=Affine(0.01 / n, 0, lon - 0.005, 0, -0.01 / n, lat + 0.005),
    ) as file:  # fmt: skip
        file.write(np.linspace(0, 120, n, dtype=np.float32)[None, None].repeat(n, 1))


FILES = {
    "satellite.ntf": write_satellite,
    "vehicles.onnx": lambda folder: write_network(folder / "vehicles.onnx"),
}
