"""How should I initialize the weights of my PyTorch network, and did it work?

Pick a scheme, initialize a model, train it under many seeds at once and compare:
`initialize_`, `Ensemble`, `train`, `summarize`, `compare`. Figures are in `initguide.plotting`
and predictions in `initguide.theory`; neither is imported before it is asked for.
"""

from importlib import import_module
from importlib.metadata import version

from initguide import datasets
from initguide.activations import ACTIVATIONS, Activation, get_activation
from initguide.claims import claim, show
from initguide.datasets import Dataset
from initguide.ensemble import Ensemble
from initguide.gains import gain
from initguide.history import History, TrainingError
from initguide.initialization import Initialization
from initguide.initialize import initialize_
from initguide.initializers import (
    constant_,
    glorot_normal_,
    glorot_uniform_,
    he_normal_,
    he_uniform_,
    kaiming_normal_,
    kaiming_uniform_,
    lecun_normal_,
    lecun_uniform_,
    normal_,
    uniform_,
    variance_scaling_,
    xavier_normal_,
    xavier_uniform_,
)
from initguide.layers import fans
from initguide.lsuv import LSUVLayer, LSUVReport, lsuv_
from initguide.models import logistic_regression, mlp
from initguide.orthogonal import delta_orthogonal_, identity_, orthogonal_
from initguide.propagation import probe
from initguide.recurrent import recurrent_
from initguide.schemes import SCHEMES, Scheme, get_scheme
from initguide.statistics import compare, describe, summarize
from initguide.training import evaluate, train

__version__ = version("initguide")

__all__ = [
    "ACTIVATIONS",
    "SCHEMES",
    "Activation",
    "Dataset",
    "Ensemble",
    "History",
    "Initialization",
    "LSUVLayer",
    "LSUVReport",
    "Scheme",
    "TrainingError",
    "claim",
    "compare",
    "constant_",
    "datasets",
    "delta_orthogonal_",
    "describe",
    "evaluate",
    "fans",
    "gain",
    "get_activation",
    "get_scheme",
    "glorot_normal_",
    "glorot_uniform_",
    "he_normal_",
    "he_uniform_",
    "identity_",
    "initialize_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "lecun_normal_",
    "lecun_uniform_",
    "logistic_regression",
    "lsuv_",
    "mlp",
    "normal_",
    "orthogonal_",
    "plotting",
    "probe",
    "recurrent_",
    "show",
    "summarize",
    "theory",
    "train",
    "uniform_",
    "variance_scaling_",
    "xavier_normal_",
    "xavier_uniform_",
]


def __getattr__(name: str) -> object:
    """Import a part that takes its time when it is first asked for."""
    if name in ("plotting", "theory"):
        return import_module(f"initguide.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names only."""
    return [*__all__, "__version__"]
