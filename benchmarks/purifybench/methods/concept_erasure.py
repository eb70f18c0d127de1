"""LEACE: the plain training, then the nuisance erased from the finished features; its head stays, or a new one is fitted."""

import warnings
from collections.abc import Callable, Hashable, Sequence

import torch
from purifybench.network import features_of
from torch import Tensor, nn

from ._types import Run
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
        run: as for every method.
        refit: put a logistic regression on the erased training rows in place of the head that was trained on whole features.

    Source: Belrose et al. 2023, arXiv:2306.03819.
    """

    def __init__(self, run: Run, *, refit: bool = True) -> None:
        super().__init__(run)
        self.refit = refit

    def finish(self) -> dict[str, float]:
        auxiliary = self.task.auxiliary
        eraser = fitted_eraser(features_of(self.network, auxiliary.images, self.run.device), auxiliary.groups)
        self.network.features = Erased(self.network.features, eraser)
        if self.refit:
            refit_head(self.network, self.task.train, self.run.device)
        return {}


def fitted_eraser(features: Tensor, groups: Sequence[Hashable]) -> Callable[[Tensor], Tensor]:
    """LEACE fitted in double precision, to apply in single precision as the features have it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the package still uses torch.jit.script
        from concept_erasure import LeaceEraser
    names = sorted(set(groups))
    numbers = torch.tensor([names.index(group) for group in groups], device=features.device)
    fitted = LeaceEraser.fit(features.double(), nn.functional.one_hot(numbers).double())
    eraser: Callable[[Tensor], Tensor] = LeaceEraser(fitted.proj_left.float(), fitted.proj_right.float(), fitted.bias.float())
    return eraser
