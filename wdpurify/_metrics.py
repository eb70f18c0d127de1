"""PurifyMetrics: the figures that a regularizer gives on request."""

import math
import warnings
from typing import NamedTuple

#: Separation from which groups count as apart.
APART = 0.5
#: The figures that are logged by default.
MAIN = ("separation", "separation_by_chance", "gradient_ratio", "spread_kept")


class PurifyMetrics(NamedTuple):
    """Detached figures of the last acting step; NaN where nothing was measured yet.

    Attributes:
        estimate: mean over the groups of the score gap between group and population, in score units.
        estimate_per_lipschitz: the same per unit of the certified Lipschitz bound: never above the true mean W1 of the
            batch; NaN for a critic that ``lipschitz_bound`` cannot bound.
        lipschitz_bound: certified constant of the critic.
        separation: how far apart the critic puts the groups of rows that it has not learned from yet: the gap in standard
            deviations of its scores, averaged over the last acting steps from 0 on; free of the features' scale.
        separation_by_chance: what ``separation`` stays below, 95 times of 100, where the labels say nothing. A critic that has
            seen a small auxiliary set many times knows its rows by heart and reads somewhat more.
        critic_gradient_norm: Euclidean norm of the gap's gradient at the auxiliary features; 0 means a dead critic.
        clip_share: share of the critic's weights at the clipping bound, in [0, 1]; 0 without weight clipping.
        feature_norm: mean Euclidean norm of the auxiliary features.
        spread_kept: the features' spread as a share of the largest that they had lately; near 0 they have collapsed.
        spread_beside_task: the same spread over that of the task's features; near 1 where images are prepared alike, NaN
            before the task's first pass. Of tokens and maps it is that of the pooled rows in the last pass, padding included.
        coherence_excess: by how much a balanced pull is weakened for being more coherent than the task gradient, whose rows
            cancel while they ask for opposite things; 1 where it is not, or where that is not known, as for features that come
            as tokens or maps.
        gain: how many times ``strength`` the pull is to have, from 1 to ``BalancedStrength(most=)``; it grows while groups stay
            apart and nothing tells that more would harm.
        dropped_rows: auxiliary rows left out for not being finite, or beyond 1e6 in magnitude.
        gradient_ratio: norm of the applied purify gradient over the norm of the task gradient.
        strength: the strength that was asked for.
    """

    estimate: float
    estimate_per_lipschitz: float
    lipschitz_bound: float
    separation: float
    separation_by_chance: float
    critic_gradient_norm: float
    clip_share: float
    feature_norm: float
    spread_kept: float
    spread_beside_task: float
    coherence_excess: float
    gain: float
    dropped_rows: float
    gradient_ratio: float
    strength: float

    @property
    def advice(self) -> str:
        """What to do at the end of training, where the critic still tells the groups apart; empty where it does not."""
        if not self.separation > max(APART, 2.0 * self.separation_by_chance):
            return ""
        return (
            f"The groups are still apart (separation {self.separation:.2f}, by chance {self.separation_by_chance:.2f}). If "
            "training is over, call `purify.erase(loader)` (with `head=` if you pass the features), which removes what a "
            "linear probe reads. If it is not, train on."
        )

    def __str__(self) -> str:
        figures = ", ".join(f"{name} {value:.3g}" for name, value in self._asdict().items())
        return f"{figures}. {self.advice}".rstrip()

    def as_dict(self, prefix: str = "purify/", *, everything: bool = False) -> dict[str, float]:
        """The figures that are not NaN, by name, as loggers want them.

        Args:
            prefix: put before each name.
            everything: all figures; otherwise the four that tell whether purifying works.
        """
        names = self._fields if everything else MAIN
        return {prefix + name: value for name in names if not math.isnan(value := getattr(self, name))}

    def measured(self, prefix: str = "purify/") -> dict[str, float]:
        """The former name of ``as_dict(everything=True)``."""
        warnings.warn("`measured()` is now `as_dict(everything=True)`. Write that.", DeprecationWarning, stacklevel=2)
        return self.as_dict(prefix, everything=True)
