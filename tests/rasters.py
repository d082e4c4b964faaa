"""Models, scenes and servers of the tests of rasters and embeddings, in a module that Dask workers import."""

import contextlib
import http.server
import io
import threading

import numpy as np
import rasterio


def noise(seed, shape):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def bordered(tile):
    """Scores of two classes that are wrong at the borders of a tile, so that blending matters."""
    first = tile[0].astype(np.float32) / 255
    ramp = np.minimum.outer(*(np.minimum(np.arange(n) + 1, np.arange(n)[::-1] + 1) for n in first.shape)) / 40
    wrong = np.clip(first * 0.5 + 0.5 * np.minimum(ramp, 1), 0, 1)
    return np.stack([wrong, 1 - wrong]).astype(np.float32)


def means(tile):
    """A vector of three values for a tile."""
    return np.array([tile.mean(), tile.std(), tile.max()], np.float32)


def scene(tmp_path, size=(300, 420), bands=1, **profile):
    path = str(tmp_path / "scene.tif")
    pixels = noise(1, (bands, *size))
    profile = {
        "driver": "GTiff", "crs": "EPSG:32631", "transform": rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5e6), "tiled": True,
        "blockxsize": 64, "blockysize": 64, "dtype": "uint8",
    } | profile  # fmt: skip
    with rasterio.open(path, "w", count=bands, height=size[0], width=size[1], **profile) as file:
        file.write(pixels)
    return path, pixels


def encoded(kind, values):
    if kind == "application/x-npy":
        out = io.BytesIO()
        np.save(out, values)
        return out.getvalue()
    with rasterio.MemoryFile() as memory:
        driver = {"image/tiff": "GTiff", "image/png": "PNG"}[kind]
        with memory.open(
            driver=driver, count=len(values), height=values.shape[1], width=values.shape[2], dtype=values.dtype
        ) as file:
            file.write(values)
            if kind == "image/tiff" and len(values) == 1:
                file.update_tags(1, CLASS_0="dark", CLASS_1="bright")
        return memory.read()


@contextlib.contextmanager
def raster_server(answer):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self):
            status, headers, body = answer(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/invocations"
    finally:
        server.shutdown()
        server.server_close()


class small_chunks:
    """Chunks of the output of this many pixels, so that small images have several regions."""

    def __init__(self, pixels):
        self.pixels = pixels

    def __enter__(self):
        import geotile.planning.raster_plan as module

        self.before, module._CHUNK = module._CHUNK, self.pixels

    def __exit__(self, *_):
        import geotile.planning.raster_plan as module

        module._CHUNK = self.before
