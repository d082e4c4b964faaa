"""The model server of compose.yaml, which detects the cars, trucks, ships and buildings of `make_scene`."""

import threading

from geotile.testing import ModelServer, scene_detector

with ModelServer(scene_detector, address=("0.0.0.0", 8080)):
    threading.Event().wait()
