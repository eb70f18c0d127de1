"""Diagnostics: keeps the last figures of a run, and warns once of each finding."""

import inspect
import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from ._findings import FINDINGS
from ._metrics import APART, PurifyMetrics

#: Consecutive values out of range before a warning; a single empty batch or stalled step gives none.
PATIENCE = 5
#: Consecutive values before a warning that groups stay apart under the largest pull; a healthy run needs fewer.
LONG_PATIENCE = 200
#: Training steps without a term before a warning that the term is missing.
BARE_STEPS = 64
#: Largest usual share of unusable auxiliary rows in several consecutive steps.
MANY_DROPPED = 0.1
#: Share of weights at the clipping bound above which the critic counts as saturated.
SATURATED = 0.9


class Range(NamedTuple):
    """Healthy range ``(lowest, highest]`` of a figure, and the number of consecutive values outside before a warning."""

    figure: str
    lowest: float
    highest: float
    patience: int
    finding: str


RANGES = (
    Range("critic_gradient_norm", 0.0, math.inf, PATIENCE, "dead critic"),
    Range("task_norm", 0.0, math.inf, PATIENCE, "no task gradient"),
    Range("spread_kept", 0.02, math.inf, PATIENCE, "collapsed features"),
    Range("spread_beside_task", 1 / 30, 30.0, PATIENCE, "unlike rows"),
    Range("dropped_share", -math.inf, MANY_DROPPED, PATIENCE, "dropped rows"),
    Range("tokens_read", 1.0, math.inf, 1, "one token read"),
    Range("term_factor", -1e-30, math.inf, 1, "negative factor"),
    Range("apart", -math.inf, APART, LONG_PATIENCE, "groups apart"),
)


class Diagnostics:
    """Keeps the last figures as tensors and warns once of each finding; the host does not wait for the device.

    Args:
        needs_task_gradient: whether the strength is 0 without a task gradient.
        layer: name of the tapped layer; None if the caller passes the features.

    Attributes:
        inputs_matched: whether task and auxiliary features once had similar spreads; a later difference has other reasons.
    """

    def __init__(self, *, needs_task_gradient: bool, layer: str | None) -> None:
        self.inputs_matched = False
        self._needs_task_gradient = needs_task_gradient
        self._layer = layer
        self._figures: dict[str, Tensor] = {}
        self._said: set[str] = set()
        self._checks = 0
        self._beyond = {each.figure: 0 for each in RANGES}
        self._landing: tuple[list[str], Tensor, torch.cuda.Event] | None = None

    def log(self, **figures: Tensor | None) -> None:
        """Store scalar tensors without a read by the host; None removes a figure that is no longer valid."""
        for name, figure in figures.items():
            if figure is None:
                self._figures.pop(name, None)
            else:
                self._figures[name] = figure.detach() if figure.requires_grad else figure

    def metrics(self, *, lipschitz_bound: float, clip_share: float, strength: float) -> PurifyMetrics:
        """Return all figures on the host; waits for the device."""
        if clip_share > SATURATED:
            self.warn("saturated critic", value=clip_share)
        read = self.read
        estimate = read("estimate")
        task_norm = read("task_norm")
        figures = {name: read(name) for name in PurifyMetrics._fields}
        return PurifyMetrics(
            **figures
            | {
                "estimate_per_lipschitz": estimate / lipschitz_bound if lipschitz_bound > 0 else math.nan,
                "lipschitz_bound": lipschitz_bound,
                "clip_share": clip_share,
                "gradient_ratio": read("applied_norm") / task_norm if task_norm > 0 else math.nan,
                "strength": strength,
            }
        )

    def read(self, name: str) -> float:
        """Return one figure on the host; NaN if it was never logged."""
        return float(self._figures[name]) if name in self._figures else math.nan

    def warn(self, finding: str, *, value: float = math.nan, names: str = "") -> None:
        """Warn of a finding once, with the user's line as its place."""
        if finding == "no task gradient" and self._layer is not None:
            finding = "no task gradient at layer"
        if finding in self._said:
            return
        self._said.add(finding)
        category, what, remedy = FINDINGS[finding]
        warn_at_caller(f"{what} {remedy}".format(value=value, layer=self._layer, names=names), category)

    def check(self) -> None:
        """Check the figures that have reached the host; on a GPU these are of an earlier step, so the host never waits."""
        self._checks += 1
        if self._checks > PATIENCE and "prepared_norm" in self._figures and "task_norm" not in self._figures:
            self._judge("no task gradient", math.nan)
        names = [each.figure for each in RANGES if each.figure in self._figures]
        if not names:
            return
        device = self._figures[names[0]].device
        if device.type == "cpu":
            self._check_values({name: self.read(name) for name in names})
        elif device.type == "cuda":
            if self._landing is not None and self._landing[2].query():
                self._check_values(dict(zip(self._landing[0], self._landing[1].tolist(), strict=True)))
                self._landing = None
            if self._landing is None:
                figures = torch.stack([self._figures[name].to(device, torch.float32) for name in names])
                landed = torch.empty(len(names), pin_memory=True).copy_(figures, non_blocking=True)
                event = torch.cuda.Event()
                event.record()
                self._landing = names, landed, event

    def _check_values(self, values: dict[str, float]) -> None:
        for figure, lowest, highest, patience, finding in RANGES:
            value = values.get(figure, math.nan)
            beyond = value <= lowest or value > highest
            self._beyond[figure] = self._beyond[figure] + 1 if beyond else 0
            self.inputs_matched |= figure == "spread_beside_task" and lowest < value <= highest
            if self._beyond[figure] >= patience:
                self._judge(finding, value)

    def _judge(self, finding: str, value: float) -> None:
        drifted_apart = finding == "unlike rows" and self.inputs_matched
        is_fixed = finding == "no task gradient" and not self._needs_task_gradient
        if not (drifted_apart or is_fixed):
            self.warn(finding, value=value)


def warn_at_caller(message: str, category: type[Warning]) -> None:
    """Warn with the first line outside this library as the place of the warning."""
    level = 2
    frame = inspect.currentframe()
    # Under torch.compile a frame of the compiler's lies between two of ours.
    while frame is not None and frame.f_globals.get("__name__", "").startswith(("wdpurify.", "torch._dynamo.")):
        level = level + 1
        frame = frame.f_back
    warnings.warn(message, category, stacklevel=level - 1)
