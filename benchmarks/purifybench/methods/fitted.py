"""Methods that are fitted in closed form: LEACE and new heads after a training, and predictors in a network's place."""

import contextlib
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from purifybench.network import Network, features_of
from purifybench.tasks import Split
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from wdpurify import balanced_weights

from .plain import Plain, Run
from .purified import Purified

#: Inverse strength of a new head's ridge, on standardised features.
HEAD_C = 0.01
#: From rows to class numbers, shape ``(rows,)``.
Predictor = Callable[[np.ndarray], np.ndarray]


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


class UnbiasedHead(Plain):
    """Plain training, then a head fitted anew on the oracle's rows, which have no bias and no user has.

    It measures how much of an error is the old head's alone.

    Args:
        run: as for every method.

    Raises:
        ValueError: for a task without an oracle's rows.
    """

    def __init__(self, run: Run, **options: Any) -> None:
        super().__init__(run, **options)
        if run.task.oracle is None:
            raise ValueError(f"the task {run.task.name} has no rows without the bias to fit a head on")
        self.unbiased = run.task.oracle

    def finish(self) -> dict[str, float]:
        measured = super().finish()
        refit_head(self.network, self.unbiased, self.run.device)
        return measured


class PurifiedUnbiasedHead(UnbiasedHead, Purified):
    """Purifying, then such a head."""


class Then(nn.Module):
    """What a function makes of what a module gives, such as features without what an eraser takes out."""

    def __init__(self, first: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = first
        self.function = function

    def forward(self, rows: Tensor) -> Tensor:
        return self.function(self.first(rows))


class ConceptErasure(Plain):
    """Plain training, then an eraser (LEACE) fitted on the auxiliary rows.

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
        self.network.features = Then(self.network.features, eraser)
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
    fitted = LeaceEraser.fit(features.double(), F.one_hot(numbers).double())
    eraser: Callable[[Tensor], Tensor] = LeaceEraser(fitted.proj_left.float(), fitted.proj_right.float(), fitted.bias.float())
    return eraser


class Fitted(Plain):
    """A predictor in the network's place; its steps do nothing, and `fit` is called after them."""

    def fit(self) -> Predictor:
        """The predictor of the task."""
        raise NotImplementedError

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return 0.0 * self.network.head.bias.sum()

    def finish(self) -> dict[str, float]:
        n_classes, predictor = self.task.n_classes, self.fit()

        def predicted(rows: Tensor) -> Tensor:
            classes = torch.from_numpy(np.asarray(predictor(rows.cpu().numpy()))).long()
            return F.one_hot(classes, n_classes).to(rows)

        self.network.features = Then(nn.Identity(), predicted)
        self.network.head = nn.Linear(n_classes, n_classes, bias=False, device=self.run.device)
        with torch.no_grad():
            self.network.head.weight.copy_(torch.eye(n_classes))
        return {}


class ErasedRegression(Fitted):
    """LEACE fitted on the auxiliary rows themselves, then a logistic regression on the erased training rows.

    Source: Belrose et al. 2023, arXiv:2306.03819.
    """

    def fit(self) -> Predictor:
        eraser = fitted_eraser(self.task.auxiliary.images, self.task.auxiliary.groups)

        def erased(rows: np.ndarray) -> np.ndarray:
            return eraser(torch.from_numpy(rows)).numpy()

        train = self.task.train
        fitted = LogisticRegression(max_iter=1000).fit(erased(train.images.numpy()), train.labels.numpy())
        return lambda rows: fitted.predict(erased(rows))


class WeightedRegression(Fitted):
    """What the owner of a table tries first, where the nuisance of the training rows is known.

    A logistic regression on the rows themselves, each weighed by how rare its pair of nuisance and class is.
    """

    def fit(self) -> Predictor:
        auxiliary = self.task.auxiliary
        assert auxiliary.classes is not None
        weights = balanced_weights(auxiliary.groups, auxiliary.classes) * len(auxiliary.groups)
        train = self.task.train
        fitted = LogisticRegression(max_iter=1000)
        fitted.fit(train.images.numpy(), train.labels.numpy(), sample_weight=weights.numpy())
        return fitted.predict


class ParityReductions(Fitted):
    """Fairlearn's exponentiated gradient: a mixture of logistic regressions that keeps a promise about nuisances.

    It is given the true nuisance of the training rows. Where class and nuisance go together there, demographic parity
    contradicts the labels, equalized odds does not.

    Args:
        run: as for every method.
        constraint: ``"DemographicParity"``, every nuisance is given each class equally often; or ``"EqualizedOdds"``, among the
            rows of a class it is.

    Source: Agarwal et al. 2018, arXiv:1803.02453; Fairlearn (Weerts et al. 2023).
    """

    def __init__(self, run: Run, *, constraint: Literal["DemographicParity", "EqualizedOdds"] = "DemographicParity") -> None:
        super().__init__(run)
        self.constraint = constraint

    def fit(self) -> Predictor:
        from fairlearn import reductions

        train = self.task.train
        constraint = getattr(reductions, self.constraint)()
        fitted = reductions.ExponentiatedGradient(LogisticRegression(max_iter=1000), constraints=constraint)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pandas, about how Fairlearn uses it
            fitted.fit(train.images.numpy(), train.labels.numpy(), sensitive_features=train.groups.numpy())
        return lambda rows: fitted.predict(rows, random_state=self.run.seed)


class AdversarialParity(Fitted):
    """Fairlearn's adversarial training of an MLP, whose predictions are not to give the nuisance away, at its own defaults.

    It is given the true nuisance of the training rows.

    Source: Zhang et al. 2018, arXiv:1801.07593; Fairlearn (Weerts et al. 2023).
    """

    def fit(self) -> Predictor:
        from fairlearn.adversarial import AdversarialFairnessClassifier

        train, batch_size = self.task.train, 64
        fitted = AdversarialFairnessClassifier(
            backend="torch",
            predictor_model=[128, "relu", 128, "relu"],
            adversary_model=[64, "relu"],
            batch_size=batch_size,
            epochs=max(1, round(self.run.steps * batch_size / len(train.labels))),
            shuffle=True,
            random_state=self.run.seed,
        )
        with contextlib.redirect_stdout(None):
            fitted.fit(train.images.numpy(), train.labels.numpy(), sensitive_features=train.groups.numpy())
        return fitted.predict
