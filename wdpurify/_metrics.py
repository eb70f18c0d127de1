"""PurifyMetrics: the figures of a run."""

import math
import warnings
from typing import NamedTuple

#: Separation from which groups count as apart.
APART = 0.5
#: The figures that are logged by default.
MAIN = ("separation", "separation_by_chance", "gradient_ratio", "spread_kept")


class PurifyMetrics(NamedTuple):
    """Figures of the last auxiliary batch; NaN before the first measurement.

    Attributes:
        estimate: mean over the groups of the score gap between group and population, in score units.
        estimate_per_lipschitz: estimate over the certified Lipschitz bound, at most the true mean W1 of the batch; NaN for a
            critic that ``lipschitz_bound`` cannot bound.
        lipschitz_bound: certified Lipschitz constant of the critic.
        separation: gap between the groups in standard deviations of the critic's scores, on rows before the critic trains on
            them. It is a running mean that starts at 0, and does not depend on the features' scale.
        separation_by_chance: upper limit of 95 % of the values of ``separation`` if the labels are independent of the rows.
            With a small auxiliary set the critic overfits, and ``separation`` is somewhat larger.
        critic_gradient_norm: Euclidean norm of the gap's gradient at the auxiliary features; 0 means a dead critic.
        clip_share: share of the critic's weights at the clipping bound, in [0, 1]; 0 without weight clipping.
        feature_norm: mean Euclidean norm of the auxiliary features.
        spread_kept: spread of the features over their recent maximum, in [0, 1]; near 0 the features have collapsed.
        spread_beside_task: spread of the auxiliary features over that of the task's features; near 1 if inputs are prepared
            alike, NaN before the task's first pass. For tokens and maps it is that of the pooled rows, padding included.
        coherence_excess: divisor of a balanced pull that is more coherent than the task gradient, at least 1; 1 if the
            coherence is not measured, as for tokens, maps and a fixed strength.
        gain: multiple of ``strength``, from 1 to ``BalancedStrength(most=)``; it grows while the groups stay apart and no sign
            of harm appears.
        dropped_rows: number of auxiliary rows that are not finite, or beyond 1e6 in magnitude.
        gradient_ratio: norm of the applied purify gradient over the norm of the task gradient.
        strength: your ``strength``.
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
        """The remedy if the critic still separates the groups at the end of training; otherwise empty."""
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
        """Return the figures that are not NaN by name, for a logger.

        Args:
            prefix: prefix of each name.
            everything: return all figures instead of the four main ones.
        """
        names = self._fields if everything else MAIN
        return {prefix + name: value for name in names if not math.isnan(value := getattr(self, name))}

    def measured(self, prefix: str = "purify/") -> dict[str, float]:
        """Former name of ``as_dict(everything=True)``."""
        warnings.warn("`measured()` is now `as_dict(everything=True)`. Write that.", DeprecationWarning, stacklevel=2)
        return self.as_dict(prefix, everything=True)
