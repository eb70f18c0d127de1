"""What a regularizer says of itself: a record of figures on request, and warnings that name their remedy, once each."""

import inspect
import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .exceptions import (
    CollapsedFeaturesWarning,
    DeadCriticWarning,
    GroupsApartWarning,
    NegativeFactorWarning,
    NoTaskGradientWarning,
    PurifyWarning,
    SaturatedCriticWarning,
    UnlikeImagesWarning,
)

#: Readings in a row that must agree before a warning: one empty batch or one stalled step is no illness.
PATIENCE = 5
#: Separation from which groups count as apart.
APART = 0.5
#: What a figure must not stay at or below, and not above.
LIMITS = {
    "critic_gradient_norm": (0.0, math.inf),
    "task_norm": (0.0, math.inf),
    "spread_kept": (0.02, math.inf),
    "spread_beside_task": (1 / 30, 30.0),
    "term_factor": (-math.inf, math.inf),
    "apart": (-math.inf, APART),
}
#: Readings in a row after which groups that stay apart under the largest pull are named: a healthy run brings them together.
LONG_PATIENCE = 200
#: Share of weights at the clipping bound from which a critic counts as saturated.
SATURATED = 0.9


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
        spread_beside_task: the same spread over that of the task's features; near 1 where images are prepared alike, NaN for
            features that come as tokens or maps.
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
            "training is over, call `purify.erase(loader)` (with `head=` where you hand features over), which removes what a "
            "linear probe reads. If it is not, train on."
        )

    def __str__(self) -> str:
        figures = ", ".join(f"{name} {value:.3g}" for name, value in self._asdict().items())
        return f"{figures}. {self.advice}".rstrip()

    def measured(self, prefix: str = "purify/") -> dict[str, float]:
        """The figures that are not NaN, by name, as loggers want them.

        Args:
            prefix: put before each name.
        """
        return {prefix + name: value for name, value in self._asdict().items() if not math.isnan(value)}


class Monitor:
    """Keeps the last figures as tensors and raises each warning once, without making the host wait for the device.

    Attributes:
        alike: whether task and auxiliary images have looked alike once: features that drift apart later have other reasons.
    """

    def __init__(self, *, needs_task_gradient: bool) -> None:
        self.figures: dict[str, Tensor] = {}
        self.alike = False
        self._needs_task_gradient = needs_task_gradient
        self._said: set[type[PurifyWarning]] = set()
        self._checks = 0
        self._readings_beyond = dict.fromkeys(LIMITS, 0)
        self._landing: tuple[Tensor, torch.cuda.Event] | None = None

    def record(self, **figures: Tensor) -> None:
        """Keep scalars for later; nothing is read."""
        self.figures |= {name: figure.detach() if figure.requires_grad else figure for name, figure in figures.items()}

    def forget(self, name: str) -> None:
        """Drop a figure that says nothing any more."""
        self.figures.pop(name, None)

    def metrics(self, *, lipschitz_bound: float, clip_share: float, strength: float) -> PurifyMetrics:
        """All figures on the host; waits for the device."""
        if clip_share > SATURATED:
            self.warn(
                SaturatedCriticWarning,
                f"{clip_share:.0%} of the critic's weights sit at the clipping bound: use `constraint=GradientPenalty()` or "
                "a larger bound",
            )
        estimate = self.read("estimate")
        task_norm = self.read("task_norm")
        return PurifyMetrics(
            estimate=estimate,
            estimate_per_lipschitz=estimate / lipschitz_bound if lipschitz_bound > 0 else float("nan"),
            lipschitz_bound=lipschitz_bound,
            separation=self.read("separation"),
            separation_by_chance=self.read("separation_by_chance"),
            critic_gradient_norm=self.read("critic_gradient_norm"),
            clip_share=clip_share,
            feature_norm=self.read("feature_norm"),
            spread_kept=self.read("spread_kept"),
            spread_beside_task=self.read("spread_beside_task"),
            coherence_excess=self.read("coherence_excess"),
            gain=self.read("gain"),
            dropped_rows=self.read("dropped_rows"),
            gradient_ratio=self.read("applied_norm") / task_norm if task_norm > 0 else float("nan"),
            strength=strength,
        )

    def read(self, name: str) -> float:
        """One figure on the host; NaN if it was never recorded."""
        return float(self.figures[name]) if name in self.figures else float("nan")

    def warn(self, category: type[PurifyWarning], message: str) -> None:
        """Warn once per kind, as seen from the user's own line."""
        if category not in self._said:
            self._said.add(category)
            level = 2
            frame = inspect.currentframe()
            # Under torch.compile a frame of the compiler's lies between two of ours.
            while frame is not None and frame.f_globals.get("__name__", "").startswith(("wdpurify.", "torch._dynamo.")):
                level = level + 1
                frame = frame.f_back
            warnings.warn(message, category, stacklevel=level - 1)

    def check(self) -> None:
        """Check the figures that have reached the host; on a GPU those of an earlier step, so that nobody waits."""
        self._checks += 1
        names = [name for name in self._readings_beyond if name in self.figures]
        if self._checks > PATIENCE and "prepared_norm" in self.figures and "task_norm" not in self.figures:
            self._warn_of_no_task_gradient()
        if not names:
            return
        device = self.figures[names[0]].device
        if device.type == "cpu":
            self._check_values({name: self.read(name) for name in names})
        elif device.type == "cuda":
            if self._landing is not None and self._landing[1].query():
                self._check_values(dict(zip(self._readings_beyond, self._landing[0].tolist(), strict=False)))
                self._landing = None
            if self._landing is None and len(names) == len(self._readings_beyond):
                figures = torch.stack([self.figures[name].to(device) for name in names])
                landed = torch.empty(len(names), pin_memory=True).copy_(figures, non_blocking=True)
                event = torch.cuda.Event()
                event.record()
                self._landing = landed, event

    def _check_values(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            lowest, highest = LIMITS[name]
            self._readings_beyond[name] = self._readings_beyond[name] + 1 if value <= lowest or value > highest else 0
            self.alike |= name == "spread_beside_task" and lowest < value <= highest
        if self._readings_beyond["critic_gradient_norm"] >= PATIENCE:
            self.warn(
                DeadCriticWarning,
                "the critic's gradient is zero, so purifying pulls nothing: use `constraint=GradientPenalty()`, or a `critic` "
                "with `activation=nn.LeakyReLU`; if `metrics().dropped_rows` is high, mend the auxiliary rows, which are not "
                "finite; if most auxiliary batches hold rows of one group, raise the sampler's `batch_size`, or give it the "
                "rare value as `fixed`; if the features themselves are constant, lower `strength`",
            )
        if self._readings_beyond["spread_kept"] >= PATIENCE:
            self.warn(
                CollapsedFeaturesWarning,
                "the features have shrunk to a point, so that little can be learned from them: let the pull stop earlier, "
                "`strength=BalancedStrength(keep=1)`, or lower `strength` to 0.1",
            )
        if self._readings_beyond["spread_beside_task"] >= PATIENCE and not self.alike:
            self.warn(
                UnlikeImagesWarning,
                f"the auxiliary features are spread {values['spread_beside_task']:.3g} times as widely as the task's, so the "
                "pull is far stronger or weaker than asked for: give auxiliary images the task's range (0 to 1 or 0 to 255) "
                "and normalisation",
            )
        if values.get("term_factor", 1.0) < 0:
            self.warn(
                NegativeFactorWarning,
                "`loss(features)` is multiplied by a number below 0, which is taken for its magnitude: the pull brings groups "
                "together. Add the term to the loss after the minus sign",
            )
        if self._readings_beyond["apart"] >= LONG_PATIENCE:
            self.warn(
                GroupsApartWarning,
                f"the pull is as strong as it may become, and the groups are as far apart as before (separation "
                f"{values['apart']:.2f}): the pull does not move this extractor. Call `purify.erase(loader)` when "
                "training is over, which removes what is left; and look whether the label is what your task needs",
            )
        if self._readings_beyond["task_norm"] >= PATIENCE:
            self._warn_of_no_task_gradient()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_landing": None}  # a device's event is not copied

    def _warn_of_no_task_gradient(self) -> None:
        if self._needs_task_gradient:
            self.warn(
                NoTaskGradientWarning,
                "no task gradient reaches the features, so a balanced strength stays 0: give `loss(features)` the very tensor "
                "that the task's head reads, not a copy, a view or a second forward; let the term be part of a loss that is "
                "back-propagated; for a compiled model call `backward()` without `inputs`; and in a compiled step call "
                "`loss(features)` before the head reads them",
            )
