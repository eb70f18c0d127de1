"""Purified Learning in all its forms: the two lines of the README around the plain loss."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from purifybench.tasks import to_float
from torch import Tensor

from wdpurify import BalancedStrength, PurifyRegularizer

from .auxiliary import auxiliary_sampler
from .plain import Plain, Run

#: Rows read at a time when erasing.
ERASED_AT_ONCE = 500
#: Auxiliary rows per acting step, half of the task rows of most benchmarks.
BATCH_SIZE = 32


class Purified(Plain):
    """The task loss and the purify term.

    Args:
        run: as for every method.
        fixed: one group, the task's `fixed` value, in place of all groups at once.
        shuffled: permute the group labels among the auxiliary rows, so that they say nothing: the control.
        published: the paper's own settings; `objective` is then the only option.
        batch_size: auxiliary rows per acting step, of all groups together.
        labels: names of the task's label columns, where it has some; all by default.
        balance: draw evenly over the cells of group and class, for a task whose auxiliary rows have classes.
        **options: ``strength``, ``fade``, ``keep`` and ``most`` of a `BalancedStrength` of the run's own, by default the
            library's; and options of `PurifyRegularizer`.
    """

    KEPT = ("purify",)

    def __init__(
        self,
        run: Run,
        *,
        fixed: bool = False,
        shuffled: bool = False,
        published: bool = False,
        batch_size: int = BATCH_SIZE,
        labels: Sequence[str] | None = None,
        balance: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(run)
        auxiliary = run.task.auxiliary
        single = fixed or published
        order = torch.arange(len(auxiliary.groups))
        if shuffled:
            order = torch.randperm(len(order), generator=torch.Generator().manual_seed(run.seed))
        groups: Any = [auxiliary.groups[row] for row in order.tolist()]
        self.groups = groups
        if auxiliary.columns is not None and not single:
            named = auxiliary.columns if labels is None else {name: auxiliary.columns[name] for name in labels}
            groups = {name: [column[row] for row in order.tolist()] for name, column in named.items()}
        warnings.filterwarnings("ignore", ".* different numbers, which are cut into ranges")
        rows, fixing = (batch_size // 2, {"fixed": auxiliary.fixed}) if single else (batch_size, {})
        sampler = auxiliary_sampler(run.task, rows, run.seed, groups=groups, balance=balance, **fixing)
        balanced = {name: options.pop(name) for name in ("fade", "keep", "most") if name in options}
        balanced |= {"value": options.pop("strength")} if "strength" in options else {}
        if balanced:
            options["strength"] = BalancedStrength(**balanced)
        make = PurifyRegularizer.as_published if published else PurifyRegularizer
        self.purify = make(self.network.features, sampler, feature_dim=self.network.feature_dim, seed=run.seed, **options)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        self.purify.critic_step()
        features = self.network.features(images)
        return F.cross_entropy(self.network.head(features), labels) + self.purify.loss(features)

    def figures(self) -> dict[str, float]:
        metrics = self.purify.metrics()
        return {
            "estimate": metrics.estimate,
            "gradient ratio": metrics.gradient_ratio,
            "separation": metrics.separation,
            "separation by chance": metrics.separation_by_chance,
            "spread kept": metrics.spread_kept,
            "coherence excess": metrics.coherence_excess,
        }


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
        for rows in torch.arange(len(train.labels)).split(ERASED_AT_ONCE):
            yield to_float(train.images[rows]), train.labels[rows]


class PurifiedPerLabel(Plain):
    """The task loss and one purify term per label column: what one regularizer of all labels is compared with.

    Args:
        run: as for every method.
        **options: of each `Purified`.
    """

    def __init__(self, run: Run, **options: Any) -> None:
        super().__init__(run)
        names = list(run.task.auxiliary.columns or ())
        self.parts = [Purified(run, labels=[name], **options) for name in names] or [Purified(run, **options)]

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        for part in self.parts:
            part.purify.critic_step()
        features = self.network.features(images)
        loss = F.cross_entropy(self.network.head(features), labels)
        for part in self.parts:
            loss = loss + part.purify.loss(features)
        return loss

    def figures(self) -> dict[str, float]:
        return self.parts[0].figures()

    def state_dict(self) -> dict[str, Any]:
        return {str(number): part.state_dict() for number, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for number, part in enumerate(self.parts):
            part.load_state_dict(state[str(number)])
