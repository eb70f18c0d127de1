"""A new head on finished features: part of LEACE, and by itself a measure of how much of an error is the old head's alone."""

from collections.abc import Callable

import torch
from purifybench.network import Network, features_of
from purifybench.tasks import Split, Task
from sklearn.linear_model import LogisticRegression

from ._types import Method

#: Inverse strength of the new head's ridge, on standardised features.
HEAD_C = 0.01


def refit_head(network: Network, rows: Split, device: torch.device) -> None:
    """Put a logistic regression in place of the network's head.

    Args:
        network: its features stay as they are.
        rows: what to fit on.
        device: where the network is.
    """
    features = features_of(network, rows.images, device).double().cpu()
    centre, scale = features.mean(0), features.std(0).clamp(min=1e-6)
    fitted = LogisticRegression(C=HEAD_C, max_iter=1000).fit(((features - centre) / scale).numpy(), rows.labels.numpy())
    weight = torch.from_numpy(fitted.coef_) / scale
    bias = torch.from_numpy(fitted.intercept_) - weight @ centre
    if len(weight) == 1:  # two classes: one row of scores, of the second class
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    with torch.no_grad():
        network.head.weight[fitted.classes_] = weight.to(network.head.weight)
        network.head.bias[fitted.classes_] = bias.to(network.head.bias)


def with_unbiased_head(
    make: Callable[..., Method], network: Network, task: Task, *, device: torch.device, **options: object
) -> Method:
    """A method after whose training the head is fitted anew on the oracle's rows, which have no bias and no user has.

    Args:
        make: makes the method.
        network, task, device, **options: as for every method.

    Raises:
        ValueError: for a task without an oracle's rows.
    """
    if task.oracle is None:
        raise ValueError(f"the task {task.name} has no rows without the bias to fit a head on")
    method, rows = make(network, task, device=device, **options), task.oracle
    finish = method.finish

    def finish_and_refit() -> dict[str, float]:
        measured = finish()
        refit_head(network, rows, device)
        return measured

    method.finish = finish_and_refit  # type: ignore[method-assign]
    return method
