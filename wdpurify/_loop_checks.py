"""LoopChecks: detects loops in which the pull does not reach the trained parameters."""

from torch import Tensor, nn

from ._diagnostics import BARE_STEPS, PATIENCE, Diagnostics
from ._optimizers import OptimizerSteps
from ._registry import is_alone
from ._torch import in_functional_transform, is_sharded
from .features import AuxiliaryForward, FeatureTap
from .pull import Pass
from .pull.graphs import nodes_behind


class LoopChecks:
    """Detects loops whose optimiser does not train the parameters that receive the term.

    Args:
        diagnostics: gives the warnings.
        steps: the observed optimiser steps.
        acts_on_task_rows: whether the pull goes through the task's features instead of directly to the model's parameters.

    Attributes:
        trains_others: whether optimisers step, but none of them holds parameters of the model.
        removed: whether the regularizer was removed, so losses without a term are right.
    """

    def __init__(self, diagnostics: Diagnostics, steps: OptimizerSteps, *, acts_on_task_rows: bool) -> None:
        self.trains_others = False
        self.removed = False
        self._diagnostics = diagnostics
        self._steps = steps
        self._acts_on_task_rows = acts_on_task_rows
        self._terms_without_features = 0
        self._steps_without_term = 0
        self._passes_of_others = 0
        self._was_evaluated = False
        self._steps_in_evaluation = 0
        self._terms = False
        self._are_own = False

    def can_apply(self, current: Pass, features: Tensor, forward: AuxiliaryForward) -> bool:
        """Whether a term of this pass at these features would reach the trained parameters; warns if not."""
        if in_functional_transform():
            self._diagnostics.warn("functional transform")
            return False
        if not self._acts_on_task_rows and self._swapped(current, features, forward):
            self._diagnostics.warn("other weights")
            return False
        self._terms = True
        return True

    def _swapped(self, current: Pass, features: Tensor, forward: AuxiliaryForward) -> bool:
        """Whether the features come from another model's parameters; checked until they once come from this model's."""
        if forward.tap is not None and (current.weight is not None or current.probe is not None):
            return forward.tap.was_swapped(current)
        if not self._are_own:
            self._are_own = is_sharded(forward.model) or not _only_of_others(features, forward.model)
        return not self._are_own

    def check_optimizers(self, *, counts_passes: bool) -> None:
        """Warn if passes have terms and no step of the model's optimiser was observed."""
        self._passes_of_others += self._steps.foreign and self._terms and not self._steps.seen
        self._steps.foreign = False
        if not self._terms:
            return
        self.trains_others = not self._steps.seen and self._passes_of_others >= PATIENCE
        if self.trains_others:
            self._diagnostics.log(applied_norm=None, prepared_norm=None)
            self._diagnostics.warn("foreign optimiser")
        elif counts_passes:
            self._diagnostics.warn("no step seen")

    def record_term(self) -> None:
        """Record that a term was asked for, with features."""
        self._terms_without_features = 0
        self._steps_without_term = 0
        self._was_evaluated = False

    def record_evaluation(self) -> None:
        """Record that a term was asked for with features of a model in evaluation mode."""
        self._steps_without_term = 0
        self._was_evaluated = True

    def record_no_features(self, tap: FeatureTap) -> None:
        """Record that a term was asked for and the tap has no features; evaluation with the same criterion is right."""
        self._terms_without_features = 0 if tap.was_evaluated() else self._terms_without_features + 1
        if self._terms_without_features >= PATIENCE:
            self._diagnostics.warn("silent tap")

    def optimizer_stepped(self, forward: AuxiliaryForward, *, measures_only: bool) -> None:
        """Record a step of the model's optimiser; warn if many steps in a row had no term."""
        self._steps_in_evaluation = self._steps_in_evaluation + 1 if self._was_evaluated else 0
        self._was_evaluated = False
        if self._steps_in_evaluation >= PATIENCE:
            self._diagnostics.warn("evaluation mode")
        tap = forward.tap
        may_miss = not (measures_only or self.removed) and is_alone(forward.model)
        self._steps_without_term += may_miss and (tap is None or tap.was_passed_by())
        if self._steps_without_term >= BARE_STEPS:
            self._diagnostics.warn("loss not called" if tap is None else "term not added", value=self._steps_without_term)


def _only_of_others(features: Tensor, model: nn.Module) -> bool:
    """Whether features depend on parameters and on none of the model's; False for graphs that hide their parameters."""
    parameters = {id(parameter) for parameter in model.parameters()}
    others = False
    for node in nodes_behind([features]):
        variable = getattr(node, "variable", None)
        if id(variable) in parameters:
            return False
        others |= isinstance(variable, nn.Parameter)
    return others
