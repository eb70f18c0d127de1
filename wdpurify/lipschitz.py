"""Lipschitz constants of small fully connected critics.

``lipschitz_bound`` certifies a constant; ``clip_weights_`` and ``clip_spectral_norm_`` constrain it. All of them use only the
weights, so their results hold for every input.
"""

import math

import torch
from torch import Tensor, nn

from ._torch import full_precision

#: Activations with slopes of at most 1, which a product of spectral norms may include.
ONE_LIPSCHITZ = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Identity, nn.Hardtanh)


def clip_weights_(module: nn.Module, bound: float) -> None:
    """Clamp every parameter of ``module`` to ``[-bound, bound]``, in place.

    Args:
        module: any module; its biases are clipped too, as in the WGAN paper.
        bound: largest magnitude, above 0.

    Raises:
        ValueError: if ``bound`` is not a positive finite number.

    Source: Arjovsky et al. 2017, arXiv:1701.07875, Alg. 1 line 7. This is no 1-Lipschitz constraint:
    :func:`lipschitz_bound` computes the resulting constant.

    >>> layer = nn.Linear(1, 1)
    >>> _ = nn.init.constant_(layer.weight, 3.0)
    >>> clip_weights_(layer, 0.125)
    >>> layer.weight.item()
    0.125
    """
    _check_bound(bound)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.clamp_(-bound, bound)


def spectral_norm_bound(weight: Tensor, *, iterations: int = 6) -> Tensor:
    """Bound the spectral norm of a matrix from above, by matrix products alone.

    Gram iteration squares the singular values' ratios at every step, so the Frobenius norm converges to the spectral
    norm from above: the excess is at most a factor ``rank ** (2 ** -(iterations + 1))``, 1.045 for rank 256 and 6 steps.
    Power iteration converges from below and certifies nothing.

    Args:
        weight: matrix of shape ``(out, in)``.
        iterations: number of squarings, at least 1.

    Returns:
        A scalar tensor on the device of ``weight``; no host synchronisation.

    Raises:
        ValueError: if ``weight`` is no matrix or ``iterations`` is below 1.

    Source: Delattre et al. 2023, arXiv:2305.16173, Alg. 1 (the rescaled form).

    >>> round(spectral_norm_bound(torch.diag(torch.tensor([3.0, 1.0]))).item(), 3)
    3.0
    """
    if weight.ndim != 2:
        raise ValueError(f"`weight` must have shape (out, in), got {tuple(weight.shape)}")
    if not iterations >= 1:
        raise ValueError(f"`iterations` must be at least 1, got {iterations}")
    with full_precision(weight.device.type):
        return _gram_bound(weight.detach().float(), iterations)


def _gram_bound(weight: Tensor, iterations: int) -> Tensor:
    log_scale = torch.zeros((), device=weight.device)
    if not weight.numel():
        return log_scale
    gram = weight if weight.shape[0] <= weight.shape[1] else weight.T
    tiny = torch.finfo(torch.float32).tiny
    for _ in range(iterations):
        scale = gram.abs().max().clamp(min=tiny)  # not a norm: squares of entries below 1e-22 are 0, above 1e19 infinite
        gram = gram / scale
        gram = gram @ gram.T
        log_scale = 2.0 * (log_scale + scale.log())
    # sigma ** (2 ** iterations) <= exp(log_scale) * ||gram||_F; the margin covers the rounding of the products above.
    return torch.exp((log_scale + gram.norm().clamp(min=tiny).log()) / 2.0**iterations) * (1.0 + 1e-5)


def clip_spectral_norm_(module: nn.Module, bound: float = 1.0) -> None:
    """Scale down every linear layer whose spectral norm may exceed ``bound``, in place.

    With ``bound`` 1 and 1-Lipschitz activations the whole network is 1-Lipschitz. A layer within the bound does not change,
    nor do biases, which have no effect on the constant.

    Args:
        module: a module whose matrices are ``nn.Linear`` weights.
        bound: largest spectral norm per layer, above 0.

    Raises:
        ValueError: if ``bound`` is not a positive finite number.

    Source: Yoshida and Miyato 2017, arXiv:1705.10941, as a projection, with :func:`spectral_norm_bound` for the norm.
    """
    _check_bound(bound)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                excess = spectral_norm_bound(layer.weight) / bound
                layer.weight.div_(excess.clamp(min=1.0))


def lipschitz_bound(module: nn.Module) -> float:
    """Certify a Lipschitz constant of a fully connected network, in the Euclidean norm.

    The product of the layers' spectral norms (singular values in float64); it is an upper bound and often far from
    tight. The host reads the weights: use it for reports, not in every step.

    Args:
        module: ``nn.Linear``, an activation with slope at most 1, or an ``nn.Sequential`` of such.

    Returns:
        K with ``||f(x) - f(y)|| <= K * ||x - y||`` for all x and y.

    Raises:
        TypeError: for a layer that this function cannot bound; the message contains its class.

    >>> lipschitz_bound(nn.Sequential(nn.Identity(), nn.ReLU()))
    1.0
    """
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        return math.prod(lipschitz_bound(layer) for layer in module)
    if isinstance(module, nn.Linear):
        return float(torch.linalg.matrix_norm(module.weight.detach().double().cpu(), ord=2))
    if isinstance(module, nn.LeakyReLU):
        return max(1.0, abs(module.negative_slope))
    if isinstance(module, ONE_LIPSCHITZ):
        return 1.0
    raise TypeError(
        "`module` must be made of nn.Sequential, nn.Linear and activations with slope at most 1 "
        f"({', '.join(kind.__name__ for kind in ONE_LIPSCHITZ)}, LeakyReLU), got {type(module).__name__}"
    )


def _check_bound(bound: float) -> None:
    if not 0 < bound < math.inf:
        raise ValueError(f"`bound` must be a positive finite number, got {bound}")
