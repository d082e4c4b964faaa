"""A server of the Open Inference Protocol whose model is a function of tensors; whole answers can be replaced."""

from __future__ import annotations

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from web_servers import running

HEADER_LENGTH = "Inference-Header-Content-Length"
NAMES = {
    "b1": "BOOL", "u1": "UINT8", "u2": "UINT16", "u4": "UINT32", "u8": "UINT64", "i1": "INT8", "i2": "INT16",
    "i4": "INT32", "i8": "INT64", "f2": "FP16", "f4": "FP32", "f8": "FP64",
}  # fmt: skip


def tensor(name, datatype, *shape):
    """Return a tensor's metadata; -1 is a length that may vary."""
    return {"name": name, "datatype": datatype, "shape": list(shape)}


def response(outputs, binary=True):
    """Return headers and body of a response."""
    heads, parts = [], []
    for name, values in outputs.items():
        head = tensor(name, NAMES[values.dtype.str[1:]], *values.shape)
        if binary:
            parts.append(values.tobytes())
            head["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            head["data"] = values.ravel().tolist()
        heads.append(head)
    head = json.dumps({"model_name": "m", "outputs": heads}).encode()
    return {HEADER_LENGTH: str(len(head))} if binary else {}, head + b"".join(parts)


def given(head, raw):
    """Return the input tensor of a request."""
    dtype = next(f"<{code}" for code, name in NAMES.items() if name == head["datatype"])
    values = np.array(head["data"], dtype) if raw is None else np.frombuffer(raw, dtype)
    return values.reshape(head["shape"])


@contextmanager
def oip_server(model, inputs, outputs, *, binary=True, answer=None):
    """Serve a model; yields its spec and a list of the shapes of the input tensors.

    ``model(array)`` returns the outputs by name. ``answer(number)`` may return headers and body in place of the answer to
    a request, by its number from 0. Without `binary`, the server answers 400 to the binary extension, as MLServer.
    """
    shapes = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.reply(
                200, {}, json.dumps({"name": "m", "versions": ["1"], "inputs": inputs, "outputs": outputs}).encode()
            )

        def do_POST(self):
            body, length = self.rfile.read(int(self.headers["Content-Length"])), self.headers.get(HEADER_LENGTH)
            if length is not None and not binary:
                self.reply(400, {}, b"no binary data")
                return
            head = json.loads(body[: int(length or len(body))])
            values = given(head["inputs"][0], None if length is None else body[int(length) :])
            number = len(shapes)
            shapes.append(values.shape)
            replaced = answer(number) if answer else None
            if replaced is None:
                found = model(values)
                replaced = response({each["name"]: found[each["name"]] for each in head["outputs"]}, binary)
            self.reply(200, *replaced)

        def reply(self, status, headers, body):
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with running(server):
        yield f"oip+http://127.0.0.1:{server.server_port}/v2/models/m", shapes
