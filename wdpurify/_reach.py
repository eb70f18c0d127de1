"""Whether the pull reaches what is trained: said by name, once, wherever it does not."""

from ._iterations import Iterations
from ._monitor import PATIENCE, Monitor
from ._registry import is_alone
from ._torch import in_functional_transform
from .exceptions import (
    CriticNotSteppedWarning,
    ForeignOptimizerWarning,
    OptimizerNotSeenWarning,
    SilentTapWarning,
    TermNotAddedWarning,
    UnreachedParametersWarning,
)
from .features import CapturedPass, FeatureTap

#: Steps of the optimiser without a term, though the model was trained, from which one is taken to be forgotten.
BARE_STEPS = 64


class Reach:
    """Recognises loops in which a term comes to other parameters than those that are trained.

    Args:
        monitor: says the warnings.
        iterations: knows of the optimisers' steps.
        through_model: whether the pull goes to the model's own parameters, not to whatever made the task's features.

    Attributes:
        lost: whether what is trained is not what is pulled, as far as the optimisers tell.
    """

    def __init__(self, monitor: Monitor, iterations: Iterations, *, through_model: bool) -> None:
        self._monitor = monitor
        self._iterations = iterations
        self._through_model = through_model
        self._blind_calls = 0
        self._bare_steps = 0
        self.lost = False

    def allows(self, current: CapturedPass) -> bool:
        """Whether a term of this pass would come to what is trained."""
        if in_functional_transform():
            self._monitor.warn(
                UnreachedParametersWarning,
                "the loss is differentiated by torch.func, which the purify term cannot enter: use `loss.backward()` or "
                "`torch.autograd.grad` for this loss, or train without the term",
            )
            return False
        if current.swapped and self._through_model:
            self._monitor.warn(
                UnreachedParametersWarning,
                "the model ran with other parameters than its own (functional_call, clones, meta-learning), and a pull on the "
                "model's own would train nothing: copy the trained values into the model, or use `objective=OneSided()`, which "
                "acts on the features themselves",
            )
            return False
        return True

    def warn_of_no_critic_step(self) -> None:
        """A term was asked for in an iteration that nobody has announced."""
        self._monitor.warn(
            CriticNotSteppedWarning,
            "`loss()` without a `critic_step()` in the same iteration, so no pull is prepared and the critic learns nothing: "
            "call it once per iteration, before `loss()` and `backward()`",
        )

    def warn_of_changed_critic(self) -> None:
        """Somebody else has written to the critic's weights."""
        self._monitor.warn(
            ForeignOptimizerWarning,
            "the critic's weights were changed from outside: take its parameters out of your optimiser, it has its own",
        )

    def check_optimizers(self) -> None:
        """Warn where no step of the model's optimiser is seen although terms are handed over."""
        self.lost = not self._iterations.announced and self._iterations.foreign_passes >= PATIENCE
        if self.lost:
            self._monitor.forget("applied_norm")
            self._monitor.forget("prepared_norm")
            self._monitor.warn(
                UnreachedParametersWarning,
                "optimisers step, but none of them holds a parameter of the model that the regularizer was made for: make it "
                "for the model that is trained (a copy has other parameters), or, where that model is updated by hand, call "
                "`purify.optimizer_stepped()` after each update",
            )
        elif self._iterations.counts_passes():
            self._monitor.warn(
                OptimizerNotSeenWarning,
                "no step of an optimiser that holds the model's parameters was seen, so passes are counted as iterations: if "
                "yours is no torch.optim.Optimizer, call `purify.optimizer_stepped()` after each of its steps",
            )

    def caught(self) -> None:
        """A term was asked for, and the features that it is for are at hand."""
        self._blind_calls = 0
        self._bare_steps = 0

    def stepped(self, tap: FeatureTap | None) -> None:
        """The model's optimiser has stepped; warn where losses without the term train it step by step."""
        if tap is None:
            return
        self._bare_steps += tap.was_passed_by() and not self._iterations.watches and is_alone(tap.model)
        if self._bare_steps >= BARE_STEPS:
            self._monitor.warn(
                TermNotAddedWarning,
                f"the model was trained for {self._bare_steps} steps by losses without the purify term: call the wrapped "
                "criterion itself, not a method of it, and wrap the innermost one where there are several; or add "
                "`purify.term()` to the loss. A layer in eval mode is passed by: name one in train mode with `layer=...`",
            )

    def missed(self, tap: FeatureTap) -> None:
        """A term was asked for and the tap has caught nothing; evaluation by the same criterion is no fault."""
        self._blind_calls = 0 if tap.was_evaluated() else self._blind_calls + 1
        if self._blind_calls >= PATIENCE:
            self._monitor.warn(
                SilentTapWarning,
                "the tapped layer sees no training forwards: train the very model that the regularizer was made for (copies "
                "and fresh models need one of their own), with the tapped layer in train mode, or name another layer with "
                "`layer=...`; make it before the first call of a compiled model (and call `torch._dynamo.reset()` if one "
                "like it was compiled before)",
            )
