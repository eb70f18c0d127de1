"""Purifying, with task batches drawn evenly over class and a prediction of the nuisance, which the auxiliary rows teach."""

from typing import Any

from purifybench.tasks._types import to_float
from sklearn.linear_model import LogisticRegression

from wdpurify import balanced_weights

from ._types import Run
from .balanced import DrawnByWeight
from .purified import Purified, PurifiedErased


class PredictedNuisance(DrawnByWeight, Purified):
    """A logistic regression, fitted on the auxiliary rows as they are, predicts the nuisance of the task's own.

    Args:
        run: as for every method.
        **options: of `Purified`.
    """

    def __init__(self, run: Run, **options: Any) -> None:
        super().__init__(run, **options)
        auxiliary, train = (to_float(part.images).flatten(1).numpy() for part in (run.task.auxiliary, run.task.train))
        fitted = LogisticRegression(max_iter=1000).fit(auxiliary, run.task.auxiliary.groups)
        self.weights = balanced_weights(fitted.predict(train).tolist(), run.task.train.labels.tolist())


class PredictedNuisanceErased(PredictedNuisance, PurifiedErased):
    """The same, erased at the end on the training rows as they are."""
