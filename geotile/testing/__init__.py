"""Scenes, models and a model server for testing a pipeline offline.

`make_scene` paints a scene whose objects are known. `scene_detector` and `bright_objects` are models that need no
weights. `ModelServer` serves any Python model over HTTP on 127.0.0.1.
"""

from geotile.testing.matching import match
from geotile.testing.models import bright_objects, scene_detector
from geotile.testing.scene import Scene, make_scene, write_example
from geotile.testing.server import ModelServer

__all__ = ["ModelServer", "Scene", "bright_objects", "make_scene", "match", "scene_detector", "write_example"]
