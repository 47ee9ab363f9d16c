"""Write the inventories of the names in other projects that the site links to.

Downloading the real ones would make each build depend on five servers. Only names whose
pages are known to exist are listed; run this again after adding one:
``python docs/_inv/make_inventories.py``.
"""

from __future__ import annotations

import zlib
from pathlib import Path

# project, page, role, names; ``$`` in a page stands for the name
PAGES = {
    "python": {
        "library/functions.html": {
            "class": "bool float int property",
            "function": "abs len max min print sorted sum zip",
        },
        "library/stdtypes.html": {"class": "bytes dict frozenset list range set str tuple"},
        "library/constants.html": {"data": "None True False"},
        "library/exceptions.html": {
            "exception": "AssertionError AttributeError FileNotFoundError KeyError "
            "NotImplementedError OSError RuntimeError TypeError UserWarning ValueError"
        },
        "library/collections.abc.html": {
            "class": "collections.abc.Callable collections.abc.Iterable collections.abc.Iterator "
            "collections.abc.Mapping collections.abc.Sequence"
        },
        "library/concurrent.futures.html": {
            "class": "concurrent.futures.Executor concurrent.futures.ProcessPoolExecutor"
        },
        "library/functools.html": {"function": "functools.partial"},
        "library/pathlib.html": {"class": "pathlib.Path"},
        "library/typing.html": {"data": "typing.Any typing.Literal"},
    },
    "torch": {
        "nn.init.html": {
            "function": " ".join(
                f"torch.nn.init.{name}"
                for name in "calculate_gain constant_ dirac_ eye_ kaiming_normal_ kaiming_uniform_ "
                "normal_ ones_ orthogonal_ sparse_ trunc_normal_ uniform_ xavier_normal_ "
                "xavier_uniform_ zeros_".split()
            )
        },
        "generated/$.html": {
            "class": " ".join(
                f"torch.nn.{name}"
                for name in "BCELoss BCEWithLogitsLoss BatchNorm1d BatchNorm2d Conv1d Conv2d Conv3d "
                "ConvTranspose1d ConvTranspose2d ConvTranspose3d CrossEntropyLoss Dropout ELU "
                "Embedding Flatten GELU GRU Identity LSTM LayerNorm LeakyReLU Linear MSELoss "
                "Module Parameter RNN ReLU SELU Sequential SiLU Sigmoid Softplus Tanh".split()
            )
            + " torch.Generator torch.optim.Adam torch.optim.AdamW torch.optim.SGD",
            "function": "torch.compile torch.manual_seed torch.no_grad torch.rand torch.randn "
            "torch.tensor torch.func.functional_call torch.func.stack_module_state torch.vmap",
        },
        "generated/torch.nn.parameter.Parameter.html": {"class": "torch.nn.parameter.Parameter"},
        "tensors.html": {"class": "torch.Tensor"},
        "tensor_attributes.html": {"class": "torch.device torch.dtype"},
        "optim.html": {"class": "torch.optim.Optimizer"},
        "data.html": {"class": "torch.utils.data.DataLoader torch.utils.data.Dataset"},
    },
    "numpy": {
        "reference/generated/$.html": {"class": "numpy.ndarray"},
    },
    "pandas": {
        "reference/api/$.html": {
            "class": "pandas.DataFrame pandas.Series",
            "function": "pandas.concat",
        },
    },
    "matplotlib": {
        "api/_as_gen/$.html": {
            "class": "matplotlib.axes.Axes",
            "function": "matplotlib.pyplot.subplots matplotlib.pyplot.figure",
        },
    },
}
# Documented under another name than the one in use.
MOVED = {"torch.nn.Parameter": "generated/torch.nn.parameter.Parameter.html#torch.nn.parameter.Parameter"}


def inventory(project: str) -> bytes:
    """Return a project's inventory in Sphinx's format, version 2."""
    lines = []
    for page, roles in PAGES[project].items():
        for role, names in roles.items():
            for name in names.split():
                uri = MOVED.get(name, f"{page.replace('$', name)}#{name}")
                lines.append(f"{name} py:{role} 1 {uri} -\n")
    head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    return head.encode() + zlib.compress("".join(sorted(lines)).encode(), 9)


if __name__ == "__main__":
    for project in PAGES:
        Path(__file__).with_name(f"{project}.inv").write_bytes(inventory(project))
