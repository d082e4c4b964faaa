from .detector import Detector as Detector
from .families import FAMILIES as FAMILIES
from .layouts import Tensor as Tensor
from .onnx import OnnxDetector as OnnxDetector

__all__: list[str]
