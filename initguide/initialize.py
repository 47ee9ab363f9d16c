"""How is a whole model initialized? By one call, which says what it did to every parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from initguide import initializers as init
from initguide._flow import Flow, follow
from initguide.gains import gain
from initguide.initialization import Initialization, Row, wanted_size, words
from initguide.layers import LAYERS, Fans, fans, is_adapter
from initguide.parameters import (
    Parameter,
    Splits,
    fill_forget_gate,
    identical,
    parameters,
    unknown,
    write,
)
from initguide.schemes import Scheme, get_scheme

__all__ = ["initialize_"]

Filler = float | Callable[..., Tensor] | None
Rule = str | Scheme | Filler

_EXPLODES = 4.0  # times, by which a layer may change the gradient's second moment
_BUILT = "PyTorch's default is what it was built with"


class _Plan(NamedTuple):
    """What fills a parameter, or nothing and why it is left alone."""

    rule: Any = None
    why: str = ""
    as_stored: bool = False


def initialize_(
    model: nn.Module,
    scheme: str | Scheme,
    *,
    activation: str | Callable[[Tensor], Tensor] | None = None,
    kind: str = "forward",
    batch: Any = None,
    rules: Mapping[str, Rule] | None = None,
    splits: Splits | None = None,
    frozen: bool = False,
    generator: torch.Generator | None = None,
) -> Initialization:
    r"""Fill the weights and biases of a model by a scheme: all of them, or on an error none.

    Parameters
    ----------
    model : nn.Module
        Changed in place.
    scheme : str or Scheme
        A key of `SCHEMES` or a scheme of your own.
    activation : str, Activation, nn.Module or callable, optional
        The network's activation, for a scheme with a gain: every layer gets its `gain` but the
        first one, which no activation precedes.
    kind : {"forward", "activation", "backward"}
        Which gain. Where the forward one would make gradients grow or shrink more than fourfold
        in every layer, as for sigmoid and :math:`\sin(30 x)`, the backward one is taken.
    batch : Tensor, tuple, list or mapping, optional
        Inputs of the model, which is run once to see which layers come first and last, and
        which transposed convolutions see a single position. Without it this is known of models
        made of ``nn.Sequential`` and of single layers only.
    rules : mapping of str to scheme, initializer, number or None, optional
        By glob over names of parameters and modules, ``{"head": "zeros", "*.bias": 0.1}``: what
        to do instead; None leaves alone. Of several that fit, the last counts. An initializer or
        number under a module's name is for weights; under a parameter's, for that.
    splits : mapping of str to int or sequence of int, optional
        By glob over names of parameters: into how many blocks the outputs of a packed weight
        fall, ``{"*.qkv.weight": 3}``, or how many experts a tensor ``(experts, out, in)`` holds.
    frozen : bool
        Whether to fill parameters with ``requires_grad=False``, too.
    generator : torch.Generator, optional
        Where all draws come from, layer by layer in the order of ``model.named_modules()``;
        torch's global one by default.

    Returns
    -------
    Initialization
        It prints as a table of what was done to each parameter, and why others were left alone.

    Raises
    ------
    ValueError
        If the scheme is unknown or no parameter can be filled; if ``activation`` is given and
        the scheme takes no gain or the activation has none; if a glob meets nothing; if the
        scheme treats the output layer apart and it is not known which that is; if a parameter has
        no memory, holds integers, or is computed in a way that fixes its scale. The model is then
        unchanged.

    Notes
    -----
    Every matrix is filled as if it stood alone: the groups of a convolution, the gates of a
    recurrent layer, query, key and value of ``nn.MultiheadAttention``. The forget gate of an LSTM
    gets a bias of 1. A weight that ``weight_norm`` computes follows the scheme itself. A weight
    shared by several layers is filled once; one that an embedding shares is drawn from
    :math:`N(0, 1/d)`, :math:`d` being its dimension. Embeddings of their own, normalization, and
    the low-rank adapters of a frozen model are left alone.

    Twice the memory of the parameters is needed while it runs.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    >>> done = initialize_(model, "he_normal", generator=torch.Generator().manual_seed(0))
    >>> done.initialized, done.left_alone
    (('0', '2'), ())
    >>> done = initialize_(model, "he_normal", activation=nn.GELU())
    >>> done.scheme.label.startswith("He normal (gain ")
    True
    """
    scheme = get_scheme(scheme)
    plain = scheme
    if activation is not None:
        scheme = scheme.with_gain(_gain(activation, kind))
        plain = plain.with_gain(1.0)
    elif kind != "forward":
        raise ValueError(f"kind={kind!r} is of no use without an activation: pass activation=.")
    known = parameters(model, splits=splits)
    told = _told(rules or {}, known, model)
    of = [p for p in known if p.kind in ("weight", "embedding")]
    owners = [name for p in of for name in (p.layer, *(n.rpartition(".")[0] for n in p.tied))]
    layers = {name: model.get_submodule(name) for name in owners}
    flow = _flow(model, layers, batch)
    readouts = _readouts(scheme, flow, layers, told, known)
    # A layer alone is meant for a place behind an activation.
    chain = flow.sources if flow and len(flow.sources) > 1 else {}
    first = {name for name, sources in chain.items() if not sources}
    plan = [
        _plan(
            *(p, told.get(p.name), p.name in told, plain if p.layer in first else scheme),
            *(readouts, known, frozen),
        )
        for p in known
    ]
    if all(each.rule is None for each in plan) and not (
        rules or any(each.why == "frozen" for each in plan)
    ):
        raise ValueError(
            f"{type(model).__name__} has no layer to initialize: expected at least one Linear, "
            "Conv, recurrent or attention layer. Name parameters in rules=, or fill them with "
            "the functions of initguide.initializers."
        )
    pointwise = flow.pointwise if flow else frozenset()
    rows: list[Row] = []
    values: list[tuple[Parameter, Tensor]] = []
    for p, each in zip(known, plan, strict=True):
        if each.rule is None:
            rows.append(Row(p.name, p.what, p.shape, 1, None, None, "", None, None, each.why))
            continue
        value = p.value()
        rows.append(_fill(p, each, value, generator, p.layer in pointwise))
        values.append((p, value))
    write(values)
    return Initialization(
        scheme,
        tuple(rows),
        tuple(dict.fromkeys(p.layer for p, _ in values)),
        tuple(n for p, row in zip(known, rows, strict=True) if not row.rule for n in p.stored),
        identical(known),
        tuple(sorted(readouts)),
    )


def _gain(activation: str | Callable[[Tensor], Tensor], kind: str) -> float:
    found = gain(activation, kind=kind)  # type: ignore[arg-type]
    if kind != "forward":
        return found
    try:
        back = gain(activation, kind="backward")
    except ValueError:  # no derivative anywhere
        return found
    return found if 1 / _EXPLODES < (found / back) ** 2 < _EXPLODES else back


def _told(rules: Mapping[str, Rule], known: list[Parameter], model: nn.Module) -> dict[str, Rule]:
    """Return the rule that names each parameter, where one does."""
    modules = [name for name, _ in model.named_modules() if name]
    told: dict[str, Any] = {}
    for glob, rule in rules.items():
        of_modules = [name for name in modules if fnmatchcase(name, glob)]
        met = False
        for p in known:
            names = (p.name, *p.tied, *p.stored)
            by_module = any(n.startswith(f"{m}.") for m in of_modules for n in names)
            by_name = any(fnmatchcase(n, glob) for n in names)
            if not (by_module or by_name):
                continue
            met = True
            simple = not isinstance(rule, str | Scheme) and rule is not None
            if simple and of_modules and p.kind not in ("weight", "embedding"):
                continue  # an initializer named with a module is for its weights
            told[p.name] = rule
        if not met:
            raise unknown("rules", glob, [*modules, *(p.name for p in known)])
    return {name: get_scheme(r) if isinstance(r, str) else r for name, r in told.items()}


def _flow(model: nn.Module, layers: Mapping[str, nn.Module], batch: Any) -> Flow | None:
    """Return which layer feeds which, if it is known."""
    if batch is not None:
        return follow(model, layers, batch)
    names = {id(module): name for name, module in layers.items()}
    chain: list[str] = []

    def walk(module: nn.Module) -> bool:
        if id(module) in names:
            chain.append(names[id(module)])
            return True
        if type(module).forward is nn.Sequential.forward:
            return all(walk(child) for child in module.children())
        return not any(id(m) in names for m in module.modules())

    if not (walk(model) and chain):
        return None
    sources: dict[str, frozenset[str]] = {}
    for before, name in zip([None, *chain], chain, strict=False):
        sources[name] = sources.get(name, frozenset()) | ({before} if before else frozenset())
    return Flow(tuple(sources), sources, frozenset({chain[-1]}), frozenset())


def _readouts(
    scheme: Scheme,
    flow: Flow | None,
    layers: Mapping[str, nn.Module],
    told: Mapping[str, Rule],
    known: list[Parameter],
) -> set[str]:
    """Return the output layers, if the scheme treats them apart."""
    if scheme.readout is None and scheme.readout_bias is None:
        return set()
    if flow is not None:
        return set(flow.readouts)
    named = {p.layer for p in known if p.kind == "weight" and p.name in told}
    if named:  # those that the scheme is for get none of it
        return set()
    few = [*layers][-6:]
    raise ValueError(
        f"scheme {scheme.name!r} treats the output layer apart, and which one that is does not "
        f"show without running the model (the last declared are {few}): pass batch=, or name it "
        "in rules=."
    )


def _plan(
    p: Parameter,
    told: Any,
    named: bool,
    scheme: Scheme,
    readouts: set[str],
    known: list[Parameter],
    frozen: bool,
) -> _Plan:
    """Decide what fills a parameter. ``told`` is what a rule of the caller's says, if ``named``."""
    if named and told is None:
        return _Plan(why="so told")
    if named and not isinstance(told, Scheme):
        return _Plan(told)
    if p.frozen and not (frozen or named):
        return _Plan(why="frozen")
    owners = {p.layer, *(name.rpartition(".")[0] for name in p.tied)}
    readout = not named and bool(owners & readouts)
    scheme = told if named else scheme
    if p.kind == "embedding" and not named:
        return _embedding(p, scheme, readout, owners - {p.layer})
    if p.kind in ("norm", "other") and not named:
        norm = p.kind == "norm"
        why = "normalization starts at 1 and 0" if norm else "no known layer: rules= or splits="
        return _Plan(why=why)
    partly = not p.frozen and any(q.frozen for q in known)
    if not named and p.kind == "weight" and is_adapter(p.name, p.current(), partly_frozen=partly):
        return _Plan(why="a low-rank adapter, whose zeros leave the model as it is")
    if scheme.as_stored and not isinstance(p.module, LAYERS):
        return _Plan(why=_BUILT)
    usual, special = (
        (scheme.bias, scheme.readout_bias) if p.kind == "bias" else (scheme.weight, scheme.readout)
    )
    return _Plan(special if readout and special is not None else usual, "", scheme.as_stored)


def _embedding(p: Parameter, scheme: Scheme, readout: bool, others: set[str]) -> _Plan:
    if not others:
        return _Plan(why="an embedding is looked up, not summed: rules= fills it")
    if readout and isinstance(scheme.readout, int | float):
        raise ValueError(
            f"{p.name!r} is the weight of {', '.join(sorted(others))} too: a constant output layer "
            "would make all embeddings alike. Untie them, or take a scheme without that."
        )
    return _Plan(partial(init.normal_, std=p.shape[-1] ** -0.5))


def _fill(
    p: Parameter,
    plan: _Plan,
    value: Tensor,
    generator: torch.Generator | None,
    pointwise: bool,
) -> Row:
    """Fill ``value``, a copy; say what was done."""
    rule = plan.rule
    if not (value.is_floating_point() or value.is_complex()):
        raise ValueError(
            f"{p.name!r} is of dtype {value.dtype}: expected floating point. Initialize before "
            f"quantizing, or leave it alone with rules={{{p.name!r}: None}}."
        )
    fan, blocks = None, [value]
    if p.kind == "bias":
        fan = _fans_of(p, plan.as_stored)
        _apply(rule, value, *([fan] if callable(rule) else []), generator=generator, name=p.name)
        fill_forget_gate(p, value, 1.0)
    else:
        if p.kind == "weight":
            blocks = p.matrices(value, pointwise=pointwise)
            fan = fans(blocks[0])
        alike = len(blocks) > 8 and len({block.shape for block in blocks}) == 1
        whole = alike and _fill_at_once(rule, fan, blocks[0].shape, value, generator)
        for block in [] if whole else [value] if plan.as_stored else blocks:
            dense = block.contiguous()  # torch's orthogonal_ cannot write into a transposed view
            _apply(rule, dense, generator=generator, name=p.name)
            if dense.data_ptr() != block.data_ptr():
                block.copy_(dense)
    found = torch.linalg.vector_norm(value.detach()).item() / value.numel() ** 0.5
    fan_in, fan_out = fan if fan and p.kind == "weight" else (None, None)
    wanted = None if p.kind == "bias" else wanted_size(rule, fan, blocks[0].shape)
    return Row(
        p.name, p.what, p.shape, len(blocks), fan_in, fan_out, words(rule), wanted, found, ""
    )


def _fill_at_once(
    rule: Any,
    fan: Fans | None,
    shape: torch.Size,
    value: Tensor,
    generator: torch.Generator | None,
) -> bool:
    """Fill many small matrices by one draw, if the rule's numbers are independent and alike."""
    function = rule.func if isinstance(rule, partial) else rule
    size = wanted_size(rule, fan, shape)
    if size is None or value.is_complex():
        return False
    if function in (init.lecun_normal_, init.glorot_normal_, init.he_normal_):
        init.normal_(value, std=size, generator=generator)
    elif function in (init.lecun_uniform_, init.glorot_uniform_, init.he_uniform_):
        bound = 3**0.5 * size
        init.uniform_(value, low=-bound, high=bound, generator=generator)
    else:
        return False
    return True


def _apply(
    rule: Any, tensor: Tensor, *fan: Fans, generator: torch.Generator | None, name: str
) -> None:
    if not callable(rule):
        init.constant_(tensor, rule)
        return
    filled = rule(tensor, *fan, generator=generator)
    if isinstance(filled, Tensor) and filled.data_ptr() != tensor.data_ptr():
        raise ValueError(
            f"the rule for {name!r}, {words(rule)}, returned another tensor: expected it to "
            "fill the one it is given, in place, as torch.nn.init does."
        )


def _fans_of(bias: Parameter, as_stored: bool) -> Fans:
    """Return the fans of the weight beside a bias."""
    if isinstance(bias.module, LAYERS) and "weight" in bias.module._parameters and not as_stored:
        return fans(bias.module)
    name = bias.attribute.replace("bias", "weight")
    if name == "in_proj_weight" and bias.module._parameters[name] is None:  # three separate ones
        name = "q_proj_weight"
    weight = replace(bias, name=f"{bias.layer}.{name}".lstrip("."), kind="weight")
    value = weight.value()
    return fans(value if as_stored else weight.matrices(value)[0])
