"""All options, each declared once.

`geotile.detect`, `geotile.detect_to`, `geotile.plan`, `geotile.serve`, the command line and job requests take their
options from these classes: a new field is a new keyword argument, a new flag and a new name in requests.
"""

from geotile.options.calls import (
    DetectKeywords,
    DetectOptions,
    DetectToKeywords,
    DetectToOptions,
    JobOptions,
    OpenOptions,
    PlanOptions,
)
from geotile.options.endpoint import (
    ClientOptions,
    ContractOptions,
    DecoderOptions,
    EndpointKeywords,
    FunctionOptions,
    HttpOptions,
    OipOptions,
    OnnxOptions,
    RetryPolicy,
    SageMakerOptions,
)
from geotile.options.image import (
    ImageOptions,
    ScalingOptions,
)
from geotile.options.run import (
    AreaOptions,
    MergingOptions,
    RunOptions,
    ScoreOptions,
    SelectionOptions,
    TilingOptions,
)
from geotile.options.service import ServiceOptions

__all__ = [
    "AreaOptions",
    "ClientOptions",
    "ContractOptions",
    "DecoderOptions",
    "DetectKeywords",
    "DetectOptions",
    "DetectToKeywords",
    "DetectToOptions",
    "EndpointKeywords",
    "FunctionOptions",
    "HttpOptions",
    "ImageOptions",
    "JobOptions",
    "MergingOptions",
    "OipOptions",
    "OnnxOptions",
    "OpenOptions",
    "PlanOptions",
    "RetryPolicy",
    "RunOptions",
    "SageMakerOptions",
    "ScalingOptions",
    "ScoreOptions",
    "SelectionOptions",
    "ServiceOptions",
    "TilingOptions",
]
