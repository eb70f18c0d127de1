"""LEACE: the plain training, then the nuisance erased from the finished features; its head stays, or a new one is fitted."""

import warnings
from collections.abc import Callable

import torch
from purifybench.network import Network, features_of
from purifybench.tasks import Task
from torch import Tensor, nn

from .plain import Plain
from .refitted_head import refit_head


class Erased(nn.Module):
    """Features from which a linear probe can no longer read the nuisance of the rows that the eraser was fitted on."""

    def __init__(self, features: nn.Module, eraser: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.features = features
        self.eraser = eraser

    def forward(self, images: Tensor) -> Tensor:
        return self.eraser(self.features(images))


class ConceptErasure(Plain):
    """plain training, then an eraser fitted on the auxiliary rows.

    Args:
        network, task, seed, device, steps: as for every method.
        refit: put a logistic regression on the erased training rows in place of the head that was trained on whole features.

    Source: Belrose et al. 2023, arXiv:2306.03819.
    """

    def __init__(
        self, network: Network, task: Task, *, seed: int, device: torch.device, steps: int, refit: bool = True
    ) -> None:
        super().__init__(network, task, seed=seed, device=device, steps=steps)
        self.refit = refit
        self.task = task
        self.device = device

    def finish(self) -> dict[str, float]:
        names = sorted(set(self.task.auxiliary.groups))
        groups = torch.tensor([names.index(group) for group in self.task.auxiliary.groups])
        eraser = _eraser(features_of(self.network, self.task.auxiliary.images, self.device), groups.to(self.device))
        self.network.features = Erased(self.network.features, eraser)
        if self.refit:
            refit_head(self.network, self.task.train, self.device)
        return {}


def _eraser(features: Tensor, groups: Tensor) -> Callable[[Tensor], Tensor]:
    """LEACE fitted in double precision, to apply in single precision as the features have it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the package still uses torch.jit.script
        from concept_erasure import LeaceEraser
    fitted = LeaceEraser.fit(features.double(), nn.functional.one_hot(groups).double())
    eraser: Callable[[Tensor], Tensor] = LeaceEraser(fitted.proj_left.float(), fitted.proj_right.float(), fitted.bias.float())
    return eraser
