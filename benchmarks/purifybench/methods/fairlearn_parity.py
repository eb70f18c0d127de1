"""Fairlearn's reductions and its adversary, for those who know the nuisance of their own training rows."""

import contextlib
import warnings
from typing import Literal

from sklearn.linear_model import LogisticRegression

from ._types import Run
from .fitted import Fitted, Predictor

Constraint = Literal["DemographicParity", "EqualizedOdds"]


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

    def __init__(self, run: Run, *, constraint: Constraint = "DemographicParity") -> None:
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

    HIDDEN = (128, "relu", 128, "relu")
    BATCH_SIZE = 64

    def fit(self) -> Predictor:
        from fairlearn.adversarial import AdversarialFairnessClassifier

        train = self.task.train
        epochs = max(1, round(self.run.steps * self.BATCH_SIZE / len(train.labels)))
        fitted = AdversarialFairnessClassifier(
            backend="torch",
            predictor_model=list(self.HIDDEN),
            adversary_model=[64, "relu"],
            batch_size=self.BATCH_SIZE,
            epochs=epochs,
            shuffle=True,
            random_state=self.run.seed,
        )
        with contextlib.redirect_stdout(None):
            fitted.fit(train.images.numpy(), train.labels.numpy(), sensitive_features=train.groups.numpy())
        return fitted.predict
