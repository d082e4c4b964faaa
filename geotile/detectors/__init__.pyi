from .detector import Detector as Detector
from .detector import Tensor as Tensor
from .families import FAMILIES as FAMILIES
from .onnx import OnnxDetector as OnnxDetector

__all__: list[str]
