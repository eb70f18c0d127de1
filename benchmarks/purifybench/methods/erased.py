"""Purifying, and as the last call erasing what is left: `purify.erase(loader)`."""

from collections.abc import Iterator

import torch
from purifybench.tasks._types import to_float
from torch import Tensor

from .balanced import BalancedPurified
from .purified import Purified

#: Rows read at a time.
BATCH = 500


class PurifiedErased(Purified):
    """The two lines of the README and the last call; the classifier is fitted anew on the biased training rows.

    With ``strength=0`` it is a plain training and the last call.
    """

    def finish(self) -> dict[str, float]:
        measured = super().finish()
        report = self.purify.erase(self.batches(), head=self.network.head)
        return measured | {"probe before erasing": 100.0 * report.before, "probe after erasing": 100.0 * report.after}

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The training rows, as a loader gives them."""
        train = self.task.train
        for rows in torch.arange(len(train.labels)).split(BATCH):
            yield to_float(train.images[rows]), train.labels[rows]


class BalancedPurifiedErased(PurifiedErased, BalancedPurified):
    """The same where the nuisance of the task's own rows is known: all batches are drawn evenly over the cells."""

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        train = self.task.train
        everything = self.rows(-1, torch.arange(len(train.labels)))
        for rows in everything.split(BATCH):
            yield to_float(train.images[rows]), train.labels[rows]
