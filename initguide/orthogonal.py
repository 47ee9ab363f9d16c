r"""Which weights keep the length of every signal? Those with orthonormal columns.

:math:`\lVert W x \rVert = \lVert x \rVert` for every :math:`x` if and only if
:math:`W^\top W = I`. `orthogonal_` draws such a matrix, `delta_orthogonal_` such a convolution, and
`identity_` is the simplest of them. All work in place, and draw from ``generator`` alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["delta_orthogonal_", "identity_", "orthogonal_"]


def orthogonal_(
    w: Tensor, gain: float = 1.0, *, generator: torch.Generator | None = None
) -> Tensor:
    r"""Fill a weight with a random matrix whose rows or columns are orthonormal [saxe2014]_.

    Parameters
    ----------
    w : Tensor
        Weight of shape ``(out, in, *kernel)``, changed in place; seen as a matrix of ``out`` rows
        and ``in * prod(kernel)`` columns.
    gain : float
        All singular values of that matrix; not negative.
    generator : torch.Generator, optional
        Where the draws come from; torch's global one by default.

    Returns
    -------
    Tensor
        ``w``.

    Raises
    ------
    ValueError
        If the weight has fewer than two dimensions or no element, or if ``gain`` is negative or
        not finite. The weight is then unchanged.
    TypeError
        If the weight does not hold floating-point numbers.

    Notes
    -----
    With at least as many rows as columns, :math:`W^\top W = \text{gain}^2 I`: every signal keeps
    its length on the way forward, and its mean square falls by :math:`n_\text{in} /
    n_\text{out}`. With fewer rows, :math:`W W^\top = \text{gain}^2 I`: every gradient keeps its
    length on the way back, and a signal keeps its mean square, on average over draws. The
    distribution is uniform over all such matrices.

    The guarantee is that of a linear layer. An activation behind it changes lengths: see the
    gain for ReLU in [he2015]_. And it is that of one matrix: a convolution uses it on overlapping
    patches, which keeps no length (see `delta_orthogonal_`), and a recurrent layer packs several
    into one tensor (see `recurrent_`).

    The draws are those of :func:`torch.nn.init.orthogonal_`. Half precision is computed in
    single, and a weight may be a transposed view, as from `weight_views`.

    Examples
    --------
    >>> import torch
    >>> w = orthogonal_(torch.empty(5, 3), generator=torch.Generator().manual_seed(0))
    >>> torch.allclose(w.T @ w, torch.eye(3), atol=1e-6)
    True
    """
    _check(w, gain)
    dense = _blank(w, w.shape)
    nn.init.orthogonal_(dense, gain, generator=generator)
    w.detach().copy_(dense)
    return w


def delta_orthogonal_(
    w: Tensor, gain: float = 1.0, *, generator: torch.Generator | None = None
) -> Tensor:
    r"""Fill a convolution so that it keeps the length of every signal [xiao2018]_.

    The middle of the kernel is an orthogonal matrix, all the rest is zero.

    Parameters
    ----------
    w : Tensor
        Weight of shape ``(out, in, *kernel)`` with ``out >= in`` and one to three kernel
        dimensions, changed in place.
    gain : float
        All singular values of the convolution; not negative.
    generator : torch.Generator, optional
        Where the draws come from; torch's global one by default.

    Returns
    -------
    Tensor
        ``w``.

    Raises
    ------
    ValueError
        If the weight is not that of a convolution, has no element or fewer outputs than inputs,
        or if ``gain`` is negative or not finite. The weight is then unchanged.
    TypeError
        If the weight does not hold floating-point numbers.

    Notes
    -----
    At every frequency :math:`f` the convolution multiplies the channels by
    :math:`\sum_k W_k e^{-i f k} = e^{-i f c}\, W_c`, whose singular values are all ``gain``.

    The middle of a kernel of size :math:`k` is :math:`c = \lfloor (k - 1) / 2 \rfloor`: for an
    odd size the centre, for an even one the left of the two, which ``padding="same"`` takes for
    it if the kernel is not dilated. With that padding only the signal is read, so the length is
    kept with zeros around it as well as with a circular one; stride 1 is assumed. Training moves
    the weight away from this. Each group of a grouped convolution is a weight of its own, see
    `weight_views`.

    Examples
    --------
    >>> import torch
    >>> w = delta_orthogonal_(torch.empty(8, 4, 3, 3))
    >>> x = torch.randn(1, 4, 16, 16)
    >>> y = torch.nn.functional.conv2d(x, w, padding=1)
    >>> torch.allclose(y.norm(), x.norm())
    True
    """
    _check(w, gain)
    if not 3 <= w.ndim <= 5:
        raise ValueError(
            f"a weight of shape {tuple(w.shape)} is not a convolution's: expected (out, in, "
            "*kernel) with one to three kernel dimensions. For a linear layer use orthogonal_."
        )
    n_out, n_in, *kernel = w.shape
    if n_out < n_in:
        raise ValueError(
            f"a convolution of {n_in} channels to {n_out} cannot keep the length of every signal: "
            "expected at least as many outputs as inputs. Widen the layer, or use orthogonal_."
        )
    matrix = nn.init.orthogonal_(_blank(w, (n_out, n_in)), gain, generator=generator)
    centre = w.detach().zero_()
    for size in kernel:
        centre = centre.select(2, (size - 1) // 2)
    centre.copy_(matrix)
    return w


def identity_(w: Tensor, gain: float = 1.0, *, generator: torch.Generator | None = None) -> Tensor:
    r"""Fill a matrix with ``gain`` on the diagonal and zeros elsewhere.

    For the hidden weights of a recurrent network of ReLUs [le2015]_, whose biases start at zero:
    until it learns otherwise, it adds what it is given to what it has seen.

    Parameters
    ----------
    w : Tensor
        Weight of shape ``(out, in)``, changed in place.
    gain : float
        What the signal is multiplied by; not negative. A small one forgets sooner.
    generator : torch.Generator, optional
        Accepted and not used: nothing is drawn.

    Returns
    -------
    Tensor
        ``w``.

    Raises
    ------
    ValueError
        If the weight is not a matrix or has no element, or if ``gain`` is negative or not finite.
        The weight is then unchanged.
    TypeError
        If the weight does not hold floating-point numbers.

    Notes
    -----
    The matrix may be rectangular, as in :func:`torch.nn.init.eye_`: further outputs are zero,
    and inputs without an output are lost. So lengths are kept if ``out >= in``.

    Examples
    --------
    >>> import torch
    >>> from initguide import recurrent_
    >>> rnn = recurrent_(torch.nn.RNN(3, 4, nonlinearity="relu"), identity_)
    >>> torch.equal(rnn.weight_hh_l0, torch.eye(4))
    True
    """
    _check(w, gain)
    if w.ndim != 2:
        raise ValueError(
            f"a weight of shape {tuple(w.shape)} is not a matrix: expected (out, in). For the "
            "identity as a convolution use torch.nn.init.dirac_."
        )
    nn.init.eye_(w.detach()).mul_(gain)
    return w


def _check(w: Tensor, gain: float) -> None:
    if w.ndim < 2 or w.numel() == 0:
        raise ValueError(
            f"a weight of shape {tuple(w.shape)} is no matrix: expected (out, in, *kernel) with at "
            "least one input and one output. For a bias or a scale use constant_."
        )
    if not w.is_floating_point():
        raise TypeError(
            f"cannot initialize a weight of dtype {w.dtype}: expected floating point. "
            "Initialize before quantizing or casting the model."
        )
    if not (math.isfinite(gain) and gain >= 0):
        raise ValueError(
            f"gain={gain!r} is no length: expected a finite number that is not negative. "
            "Pass 1 to keep lengths, sqrt(2) before a ReLU."
        )


def _blank(w: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return unset memory, contiguous and in a precision that QR can be computed in."""
    dtype = torch.float64 if w.dtype == torch.float64 else torch.float32
    return torch.empty(shape, dtype=dtype, device=w.device)
