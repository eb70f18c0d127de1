"""Purified Learning in all its forms: the two lines of the README around the plain loss."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from purifybench.network import Network
from purifybench.tasks import Task
from purifybench.tasks._types import to_float
from torch import Tensor

from wdpurify import BalancedStrength, GroupSampler, PurifyRegularizer

from .plain import Plain

#: Auxiliary rows per acting step, half of the task rows of most benchmarks.
BATCH_SIZE = 32


class Purified(Plain):
    """The task loss and the purify term.

    Args:
        network, task, seed, device, steps: as for every method.
        fixed: one group, the task's `fixed` value, in place of all groups at once.
        shuffled: permute the group labels among the auxiliary rows, so that they say nothing: the control.
        strength, fade, keep, most: of a `BalancedStrength` of the run's own; by default the library's.
        published: the paper's own settings; `objective` is then the only option.
        batch_size: auxiliary rows per acting step, of all groups together.
        labels: names of the task's label columns, where it has some; all by default.
        balance: draw evenly over the cells of group and class, for a task whose auxiliary rows have classes.
        **options: of `PurifyRegularizer`.
    """

    def __init__(
        self,
        network: Network,
        task: Task,
        *,
        seed: int,
        device: torch.device,
        steps: int,
        fixed: bool = False,
        shuffled: bool = False,
        published: bool = False,
        batch_size: int = BATCH_SIZE,
        labels: Sequence[str] | None = None,
        balance: bool = False,
        strength: float | None = None,
        fade: float | None = None,
        keep: float | None = None,
        most: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(network, task, seed=seed, device=device, steps=steps)
        self.task = task
        single = fixed or published
        groups: Any = list(task.auxiliary.groups)
        order = torch.arange(len(groups))
        if shuffled:
            order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))
        self.groups = groups = [groups[row] for row in order.tolist()]
        if task.auxiliary.columns is not None and not single:
            columns = task.auxiliary.columns if labels is None else {name: task.auxiliary.columns[name] for name in labels}
            groups = {name: [column[row] for row in order.tolist()] for name, column in columns.items()}
        warnings.filterwarnings("ignore", ".* different numbers, which are cut into ranges")
        sampler = GroupSampler(
            task.auxiliary.images,
            groups,
            fixed=task.auxiliary.fixed if single else "all",
            balance=task.auxiliary.classes if balance else None,
            batch_size=batch_size // 2 if single else batch_size,
            seed=seed,
            transform=to_float,
            rank=0,  # each process trains a run of its own
            world_size=1,
        )
        asked = {"value": strength, "fade": fade, "keep": keep, "most": most}
        given = {name: value for name, value in asked.items() if value is not None}
        if given:
            options["strength"] = BalancedStrength(**given)
        make = PurifyRegularizer.as_published if published else PurifyRegularizer
        self.purify = make(network.features, sampler, feature_dim=network.feature_dim, seed=seed, **options)

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

    def state_dict(self) -> dict[str, Any]:
        return self.purify.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.purify.load_state_dict(state)
