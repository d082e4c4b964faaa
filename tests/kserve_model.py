"""A KServe server in a process of its own: an ONNX-like detector of bright things, boxes by name, and an encoder.

``python kserve_model.py PORT``: model "bright", input (-1, 3, 64, 64) FP32, outputs boxes, scores, labels; model
"encoder", input (-1, 3, -1, -1) UINT8, outputs scores (-1, 2, -1, -1) and vectors (-1, 3).
"""

import sys

import numpy as np
from kserve import InferOutput, InferResponse, Model, ModelServer
from rasters import bordered, means


class Bright(Model):
    def __init__(self):
        super().__init__("bright")
        self.ready = True
        self.largest = 0

    async def get_input_types(self):
        return [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 64, 64]}]

    async def get_output_types(self):
        return [
            {"name": "boxes", "datatype": "FP32", "shape": [-1, 1, 4]},
            {"name": "scores", "datatype": "FP32", "shape": [-1, 1]},
            {"name": "labels", "datatype": "INT64", "shape": [-1, 1]},
        ]

    async def predict(self, payload, headers=None, response_headers=None):
        pictures = payload.inputs[0].as_numpy()
        boxes, scores = [], []
        for picture in pictures:
            rows, columns = np.nonzero(picture.max(axis=0) > 0.9)
            some = len(rows) > 0
            boxes.append([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if some else [0, 0, 1, 1]])
            scores.append([0.75 if some else 0.0])
        given = {
            "boxes": np.array(boxes, np.float32), "scores": np.array(scores, np.float32),
            "labels": np.full((len(pictures), 1), len(pictures), np.int64),
        }  # fmt: skip
        return answer(self.name, given, payload)


class Encoder(Model):
    def __init__(self):
        super().__init__("encoder")
        self.ready = True

    async def get_input_types(self):
        return [{"name": "pixels", "datatype": "UINT8", "shape": [-1, 3, -1, -1]}]

    async def get_output_types(self):
        return [
            {"name": "scores", "datatype": "FP32", "shape": [-1, 2, -1, -1]},
            {"name": "vectors", "datatype": "FP32", "shape": [-1, 3]},
        ]

    async def predict(self, payload, headers=None, response_headers=None):
        tiles = payload.inputs[0].as_numpy()
        given = {"scores": np.stack(list(map(bordered, tiles))), "vectors": np.stack(list(map(means, tiles)))}
        return answer(self.name, given, payload)


def answer(model, tensors, payload):
    outputs = []
    for name, value in tensors.items():
        kind = "INT64" if value.dtype == np.int64 else "FP32"
        output = InferOutput(name=name, shape=list(value.shape), datatype=kind)
        output.set_data_from_numpy(value, binary_data=bool(payload.use_binary_outputs))
        outputs.append(output)
    return InferResponse(response_id="1", model_name=model, infer_outputs=outputs)


if __name__ == "__main__":
    ModelServer(http_port=int(sys.argv[1]), enable_grpc=False, workers=1).start([Bright(), Encoder()])
