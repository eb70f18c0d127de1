"""LEACE without a network: the nuisance erased from the rows themselves, and a logistic regression on what is left."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from .concept_erasure import _eraser
from .fitted import Fitted, Predictor


class ErasedRegression(Fitted):
    """LEACE fitted on the auxiliary rows themselves, then a logistic regression on the erased training rows.

    Source: Belrose et al. 2023, arXiv:2306.03819.
    """

    def fit(self) -> Predictor:
        names = sorted(set(self.task.auxiliary.groups))
        groups = torch.tensor([names.index(group) for group in self.task.auxiliary.groups])
        eraser = _eraser(self.task.auxiliary.images, groups)

        def erased(rows: np.ndarray) -> np.ndarray:
            return eraser(torch.from_numpy(rows)).numpy()

        train = self.task.train
        fitted = LogisticRegression(max_iter=1000).fit(erased(train.images.numpy()), train.labels.numpy())
        return lambda rows: fitted.predict(erased(rows))
