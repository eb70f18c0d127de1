"""LEACE: the plain training, then the nuisance erased from the finished features, and a new head on what is left."""

import warnings
from collections.abc import Callable

import torch
from purifybench.network import Network, features_of
from purifybench.tasks import Task
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from .plain import Plain

#: Inverse strength of the new head's ridge, on standardised features.
HEAD_C = 0.01


class Erased(nn.Module):
    """Features from which a linear probe can no longer read the nuisance of the rows that the eraser was fitted on."""

    def __init__(self, features: nn.Module, eraser: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.features = features
        self.eraser = eraser

    def forward(self, images: Tensor) -> Tensor:
        return self.eraser(self.features(images))


class ConceptErasure(Plain):
    """Goal 1, then an eraser fitted on the auxiliary rows and a logistic regression on the erased training rows.

    Args:
        network, task, seed, device, steps: as for every method.

    Source: Belrose et al. 2023, arXiv:2306.03819.
    """

    def __init__(self, network: Network, task: Task, *, seed: int, device: torch.device, steps: int) -> None:
        super().__init__(network, task, seed=seed, device=device, steps=steps)
        self.task = task
        self.device = device

    def finish(self) -> dict[str, float]:
        names = sorted(set(self.task.auxiliary.groups))
        groups = torch.tensor([names.index(group) for group in self.task.auxiliary.groups])
        eraser = _eraser(features_of(self.network, self.task.auxiliary.images, self.device), groups.to(self.device))
        self.network.features = Erased(self.network.features, eraser)
        self._fit_head()
        return {}

    def _fit_head(self) -> None:
        rows = features_of(self.network, self.task.train.images, self.device).double().cpu()
        centre, scale = rows.mean(0), rows.std(0).clamp(min=1e-6)
        labels = self.task.train.labels.numpy()
        fitted = LogisticRegression(C=HEAD_C, max_iter=1000).fit(((rows - centre) / scale).numpy(), labels)
        weight = torch.from_numpy(fitted.coef_) / scale
        bias = torch.from_numpy(fitted.intercept_) - weight @ centre
        if len(weight) == 1:  # two classes: one row of scores, of the second class
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        with torch.no_grad():
            self.network.head.weight[fitted.classes_] = weight.to(self.network.head.weight)
            self.network.head.bias[fitted.classes_] = bias.to(self.network.head.bias)


def _eraser(features: Tensor, groups: Tensor) -> Callable[[Tensor], Tensor]:
    """LEACE fitted in double precision, to apply in single precision as the features have it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the package still uses torch.jit.script
        from concept_erasure import LeaceEraser
    fitted = LeaceEraser.fit(features.double(), nn.functional.one_hot(groups).double())
    eraser: Callable[[Tensor], Tensor] = LeaceEraser(fitted.proj_left.float(), fitted.proj_right.float(), fitted.bias.float())
    return eraser
