"""Write the inventories of the names in other projects that the site links to.

Downloading the real ones would make each build depend on five servers. Only names whose
pages are known to exist are listed; run this again after adding one:
``python tools/make_inventories.py``.
"""

from __future__ import annotations

import zlib
from pathlib import Path

TARGET = Path(__file__).parents[1] / "docs" / "_inv"

# project: (role, page, what precedes each name, names); ``$`` in a page stands for the name
LINKS = {
    "python": [
        ("py:class", "library/functions.html", "", "bool float int property"),
        (
            *("py:function", "library/functions.html", ""),
            "abs callable len max min print sorted sum zip",
        ),
        ("std:term", "glossary.html", "", "generator iterable iterator mapping sequence"),
        (
            *("py:class", "library/stdtypes.html", ""),
            "bytes dict frozenset list range set str tuple",
        ),
        ("py:data", "library/constants.html", "", "None True False"),
        (
            *("py:exception", "library/exceptions.html", ""),
            "AssertionError AttributeError FileNotFoundError KeyError NotImplementedError OSError "
            "RuntimeError TypeError UserWarning ValueError",
        ),
        (
            *("py:class", "library/collections.abc.html", "collections.abc."),
            "Callable Iterable Iterator Mapping Sequence",
        ),
        (
            *("py:class", "library/concurrent.futures.html", "concurrent.futures."),
            "Executor ProcessPoolExecutor",
        ),
        ("py:function", "library/functools.html", "functools.", "partial"),
        ("py:class", "library/pathlib.html", "pathlib.", "Path"),
        ("py:data", "library/typing.html", "typing.", "Any Literal"),
    ],
    "torch": [
        (
            *("py:function", "nn.init.html", "torch.nn.init."),
            "calculate_gain constant_ dirac_ eye_ kaiming_normal_ kaiming_uniform_ normal_ ones_ "
            "orthogonal_ sparse_ trunc_normal_ uniform_ xavier_normal_ xavier_uniform_ zeros_",
        ),
        (
            *("py:class", "generated/$.html", "torch.nn."),
            "BCELoss BCEWithLogitsLoss BatchNorm1d BatchNorm2d Conv1d Conv2d Conv3d "
            "ConvTranspose1d ConvTranspose2d ConvTranspose3d CrossEntropyLoss Dropout ELU "
            "Embedding Flatten GELU GRU Identity LSTM LayerNorm LeakyReLU Linear MSELoss Module "
            "RNN ReLU SELU Sequential SiLU Sigmoid Softplus Tanh parameter.Parameter",
        ),
        ("py:class", "generated/$.html", "torch.", "Generator"),
        ("py:class", "generated/$.html", "torch.optim.", "Adam AdamW SGD"),
        ("py:function", "generated/$.html", "torch.", "manual_seed no_grad rand randn tensor vmap"),
        ("py:function", "generated/$.html", "torch.func.", "functional_call stack_module_state"),
        ("py:class", "tensors.html", "torch.", "Tensor"),
        ("py:class", "tensor_attributes.html", "torch.", "device dtype"),
        ("py:class", "optim.html", "torch.optim.", "Optimizer"),
        ("py:class", "data.html", "torch.utils.data.", "DataLoader Dataset"),
    ],
    "numpy": [
        ("py:class", "reference/generated/$.html", "numpy.", "ndarray"),
        ("std:term", "glossary.html", "", "array_like"),
    ],
    "pandas": [
        ("py:class", "reference/api/$.html", "pandas.", "DataFrame Series"),
        ("py:function", "reference/api/$.html", "pandas.", "concat"),
    ],
    "matplotlib": [
        ("py:class", "api/_as_gen/$.html", "matplotlib.axes.", "Axes"),
        ("py:function", "api/_as_gen/$.html", "matplotlib.pyplot.", "figure subplots"),
    ],
}


def inventory(project: str) -> bytes:
    """Return a project's inventory in Sphinx's format, version 2."""
    lines = []
    for role, page, prefix, names in LINKS[project]:
        for name in (prefix + name for name in names.split()):
            anchor = f"term-{name}" if role == "std:term" else name
            lines.append(f"{name} {role} 1 {page.replace('$', name)}#{anchor} -\n")
    head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    return head.encode() + zlib.compress("".join(sorted(lines)).encode(), 9)


if __name__ == "__main__":
    for project in LINKS:
        (TARGET / f"{project}.inv").write_bytes(inventory(project))
