"""How should I initialize the weights of my PyTorch network, and did it work?

Pick a scheme, initialize a model, train it under many seeds at once and compare:
`initialize_`, `Ensemble`, `train`, `summarize`, `compare`. Figures are in
`initguide.plotting`, which is not imported until you ask for it.
"""

from importlib.metadata import version

from initguide import datasets
from initguide.activations import ACTIVATIONS, Activation, get_activation
from initguide.claims import claim, show
from initguide.datasets import Dataset
from initguide.ensemble import Ensemble
from initguide.gains import gain
from initguide.history import History
from initguide.initializers import (
    constant_,
    fans,
    glorot_normal_,
    glorot_uniform_,
    he_normal_,
    he_uniform_,
    kaiming_normal_,
    kaiming_uniform_,
    lecun_normal_,
    lecun_uniform_,
    variance_scaling_,
    xavier_normal_,
    xavier_uniform_,
)
from initguide.lsuv import LSUVLayer, LSUVReport, lsuv_
from initguide.models import logistic_regression, mlp
from initguide.orthogonal import delta_orthogonal_, identity_, orthogonal_, recurrent_
from initguide.propagation import probe
from initguide.schemes import SCHEMES, Initialization, Scheme, get_scheme, initialize_
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
    "orthogonal_",
    "probe",
    "recurrent_",
    "show",
    "summarize",
    "train",
    "variance_scaling_",
    "xavier_normal_",
    "xavier_uniform_",
]
