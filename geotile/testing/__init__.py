"""Scenes, models and a model server for testing a pipeline offline.

`make_scene` paints a scene whose objects are known. `scene_detector`, `scene_classifier`, `scene_embedder` and
`bright_objects` are models that need no weights. `ModelServer` serves any Python model over HTTP on 127.0.0.1.
"""

from geotile.testing.matching import match
from geotile.testing.models import SCENE_CLASSES, bright_objects, scene_classifier, scene_detector, scene_embedder
from geotile.testing.scene import Scene, make_scene, write_example
from geotile.testing.server import ModelServer

__all__ = [
    "SCENE_CLASSES", "ModelServer", "Scene", "bright_objects", "make_scene", "match", "scene_classifier",
    "scene_detector", "scene_embedder", "write_example",
]  # fmt: skip
