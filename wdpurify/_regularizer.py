"""PurifyRegularizer: owns critic and sampler, and hands one term to the user's loss. It holds no formula of its own."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ._auxiliary import AuxiliaryForward, owner_of, unwrap
from ._checks import check_choice, check_positive_integer
from ._compiled import outside_graphs
from ._constraints import Constraint, GradientPenalty, WeightClipping
from ._criterion import PurifiedCriterion, purified_module
from ._critic import Critic, made_critic
from ._monitor import PATIENCE, Monitor, PurifyMetrics
from ._options import Objective, PurifyOptions
from ._registry import forget, made_for, regularizer_of
from ._sampler import Sampler
from ._step import feature_width
from ._strength import FixedStrength, Strength, as_strength
from ._tap import FeatureTap
from ._trainer import CriticTrainer
from ._turns import Turns
from ._warnings import SilentTapWarning
from .functional import Toward

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PurifyRegularizer:
    """Makes the features of a model forget a label that some other data carries.

    Call :meth:`critic_step` before each backward pass and add :meth:`loss` to the task loss; the loop, the optimiser and
    ``backward()`` stay the user's. Every ``every``-th iteration runs the extractor on one auxiliary batch, trains the critic on
    the detached features, and (two-sided) lets the gap between groups and population pull at the extractor in the same
    iteration. Model, optimiser, checkpoints and global random state are left alone.

    An iteration ends with a step of the optimiser that holds the model's parameters. Micro-batches of one accumulated step and
    repeated passes (SAM, LBFGS) belong to one iteration: the critic is trained in the first pass, the term is present in each,
    at the weights of that pass. In a distributed run all ranks train one critic on the rows of all.

    Args:
        extract: maps images to features: a module, a bound method of one, or any callable together with ``model``.
        sampler: draws auxiliary batches, see :class:`GroupSampler`.
        feature_dim: width of the features after pooling; None finds it with one forward of two auxiliary rows.
        objective: ``"two-sided"`` minimises the gap through the extractor on the auxiliary rows (Eq. 20-21);
            ``"one-sided"`` moves the task features along the critic (Eq. 25), which has no lower bound.
        toward: direction of the one-sided term: ``"population"`` (Alg. 1) or ``"group"`` (Eq. 22 and 24, destroys accuracy).
        strength: a number for :class:`BalancedStrength`, the share of the task gradient at the features that the purify
            gradient gets in the steps in which it acts, at least 0; or a strength object. 0 only watches: the run is
            bit-identical to one without the regularizer.
        constraint: holds the critic's Lipschitz constant: :class:`GradientPenalty`, :class:`WeightClipping`,
            :class:`SpectralClipping` or any object with the same two methods.
        critic: a module that maps ``(batch, feature_dim)`` to ``(batch, sampler.n_groups)``, or what makes one when called
            with these two widths.
        critic_lr: learning rate of the critic's Adam, above 0.
        critic_steps: critic updates per acting step, at least 1.
        every: act in every how-manieth iteration (n2 in the paper), at least 1. What counts is strength per
            step: with 1 give a strength of about 1, for 3 on every step can ruin the model.
        update_statistics: let auxiliary forwards update BatchNorm statistics like training forwards do.
        across_ranks: let all ranks of ``torch.distributed``, if it is initialised, train one critic; False where each rank
            trains a model of its own.
        model: module whose buffers, device, dtype and optimiser count; needed only where ``extract`` is a plain function.
        seed: seed of critic, penalty points and dropout in auxiliary forwards.

    Raises:
        ValueError: for a value out of range, a two-sided objective with a direction, or a plain function without ``model``.

    Source: Li et al. 2021, arXiv:2102.10955. Ours: all groups at once, the two-sided form on every third step with one
    auxiliary forward for both players, and the strength balanced at the features.
    """

    def __init__(
        self,
        extract: Callable[..., Any],
        sampler: Sampler,
        *,
        feature_dim: int | None = None,
        objective: Objective = "two-sided",
        toward: Toward = "population",
        strength: float | Strength = 3.0,
        constraint: Constraint = GradientPenalty(10.0),  # noqa: B008 - frozen
        critic: nn.Module | Callable[[int, int], nn.Module] = Critic,
        critic_lr: float = 3e-3,
        critic_steps: int = 3,
        every: int = 3,
        update_statistics: bool = False,
        across_ranks: bool = True,
        model: nn.Module | None = None,
        seed: int = 0,
    ) -> None:
        self.objective = check_choice("objective", objective, ("two-sided", "one-sided"))
        self.toward = check_choice("toward", toward, ("population", "group"))
        if objective == "two-sided" and toward != "population":
            raise ValueError('`toward` needs `objective="one-sided"`: the two-sided gap has no direction')
        if not critic_lr > 0:
            raise ValueError(f"`critic_lr` must be positive, got {critic_lr}")
        self.every = every
        self.strength = as_strength(strength)
        owner = model if model is not None else owner_of(extract)
        if isinstance(extract, FeatureTap):
            owner = extract.model
        if owner is None:
            raise ValueError("`extract` is a plain function: say with `model=...` whose BatchNorm statistics it runs through")
        self.sampler, self.tap = sampler, extract if isinstance(extract, FeatureTap) else None
        self._forward = AuxiliaryForward(extract, owner, update_statistics=update_statistics, seed=seed)
        if feature_dim is None:
            feature_dim = feature_width(self._forward, sampler)
        feature_dim = check_positive_integer("feature_dim", feature_dim)
        self._trainer = CriticTrainer(
            made_critic(critic, feature_dim, sampler.n_groups, seed=seed),
            feature_dim,
            constraint=constraint,
            lr=critic_lr,
            steps=check_positive_integer("critic_steps", critic_steps),
            seed=seed,
        )
        self._monitor, self._blind_calls = Monitor(), 0
        self._turns = Turns(
            self._forward,
            sampler,
            self._trainer,
            self.strength,
            self._monitor,
            objective=objective,
            toward=toward,
            every=check_positive_integer("every", every),
            across_ranks=across_ranks,
        )
        made_for(self._forward.model, self)

    @classmethod
    def as_published(
        cls,
        extract: Callable[..., Any],
        sampler: Sampler,
        *,
        feature_dim: int | None = None,
        toward: Toward = "population",
        across_ranks: bool = True,
        model: nn.Module | None = None,
        seed: int = 0,
    ) -> "PurifyRegularizer":
        """The paper to the letter: one-sided, lambda_2 = 1, weights clipped to 0.1, one critic step per three.

        For comparison: its loss has no lower bound, and it lost accuracy in every setting measured here, to chance in most.
        The paper contradicts itself on the direction: ``"population"`` is Alg. 1, ``"group"`` is Eq. 22 with Eq. 24.

        Source: Li et al. 2021, arXiv:2102.10955, Alg. 1, Eq. 26 and Sec. IV-A.
        """
        return cls(
            extract,
            sampler,
            feature_dim=feature_dim,
            objective="one-sided",
            toward=toward,
            strength=FixedStrength(1.0),
            constraint=WeightClipping(0.1),
            critic=partial(Critic, hidden=(512, 256, 10), activation=nn.ReLU, seed=seed),
            critic_lr=1e-3,
            critic_steps=1,
            across_ranks=across_ranks,
            model=model,
            seed=seed,
        )

    @classmethod
    def for_model(
        cls,
        model: nn.Module,
        sampler: Sampler,
        *,
        layer: str | None = None,
        feature_dim: int | None = None,
        **options: "Unpack[PurifyOptions]",
    ) -> "PurifyRegularizer":
        """A regularizer for loops that never see features: it taps the input of a layer. Use with :meth:`criterion`.

        Args:
            model: the user's model, wrapped or not.
            sampler: draws auxiliary batches.
            layer: name of the layer whose input is the features; None takes the classifier, see :class:`FeatureTap`.
            feature_dim: width of the features after pooling; None reads it off the layer, or finds it with one forward.
            **options: the constructor's options.

        Raises:
            ValueError: if no layer is found.
        """
        tap = FeatureTap(model, layer)
        try:
            return cls(tap, sampler, feature_dim=feature_dim or tap.feature_dim, **options)
        except Exception:
            tap.remove()
            raise

    def criterion(self, criterion: Callable[..., Any]) -> PurifiedCriterion:
        """The user's criterion with the purify term added; it also calls :meth:`critic_step`.

        Raises:
            ValueError: if this regularizer was not made by :meth:`for_model`.
        """
        if self.tap is None:
            raise ValueError("`criterion()` needs captured features: make the regularizer with `for_model(model, sampler)`")
        return purified_module(criterion, self) if isinstance(criterion, nn.Module) else PurifiedCriterion(criterion, self)

    @staticmethod
    def of(model: nn.Module) -> "PurifyRegularizer":
        """The regularizer made for a model, where a function receives the model alone.

        Args:
            model: the model, or the module whose method extracts the features; wrapped or not.

        Raises:
            LookupError: if there is none, or more than one.
        """
        return regularizer_of(unwrap(model))

    @property
    def critic(self) -> nn.Module:
        """The critic, for inspection; it must not be given to the user's optimiser."""
        return self._trainer.critic

    @outside_graphs
    def critic_step(self) -> None:
        """Announce a backward pass; in the first one of every ``every``-th iteration train the critic on one auxiliary batch.

        Changes critic parameters only. Call it before the forward pass or after it, but before :meth:`loss`.
        """
        self._turns.begin_pass()

    def optimizer_stepped(self) -> None:
        """Say that the model's optimiser has stepped, where it is no ``torch.optim.Optimizer``, which says so by itself."""
        self._turns.optimizer_stepped()

    @outside_graphs
    def loss(self, features: Tensor) -> Tensor:
        """The purify term of this iteration, to be added to the task loss.

        Its value is the strength times the critic's estimate (0 in the iterations in which a two-sided term rests); its
        gradient at the features has the size that the strength asks for. Rows that are not finite, or
        beyond 1e6 in magnitude, get no one-sided gradient.

        Args:
            features: what the task's head reads: shape ``(batch, dim)``, ``(batch, tokens, dim)`` or
                ``(batch, dim, height, width)``; the very tensor, with its graph.

        Returns:
            A scalar tensor, float32 (float64 for float64 features); a constant 0 of the dtype of ``features`` where grad mode
            is off, the strength is 0 or the features carry no gradient. A second call in one iteration finds a two-sided
            term already handed out and gives 0.

        Raises:
            TypeError, ValueError: if ``features`` is no floating point tensor of such a shape.
        """
        return self._turns.term(features, tap=None)

    def metrics(self) -> PurifyMetrics:
        """Figures of the last acting step, on the host; this is the one call that waits for the device."""
        return self._monitor.metrics(
            lipschitz_bound=self._trainer.lipschitz_bound(),
            clip_share=float(self._trainer.clip_share()),
            strength=self.strength.value,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit, as tensors and primitives (``torch.load(weights_only=True)`` reads it)."""
        return {
            **self._trainer.state_dict(),
            **self._turns.state_dict(),
            "strength": self.strength.state_dict(),
            "sampler": self.sampler.state_dict(),
            "forward": self._forward.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; the constraint holds afterwards."""
        self._trainer.load_state_dict(state)
        self._turns.load_state_dict(state)
        self.strength.load_state_dict(state["strength"])
        self.sampler.load_state_dict(state["sampler"])
        self._forward.load_state_dict(state["forward"])

    def remove(self) -> None:
        """Take the tap off the model, if there is one, and drop what is held for the next ``loss()``."""
        self._turns.drop()
        forget(self._forward.model, self)
        if self.tap is not None:
            self.tap.remove()

    @outside_graphs
    def term(self) -> Tensor:
        """:meth:`critic_step` and :meth:`loss` in one, for the features that the tap has caught.

        For loops whose loss comes from elsewhere: the model, a function of the script, a framework.

        Returns:
            What :meth:`loss` returns; a constant 0 where grad mode is off or no training forward has come since the last call.

        Raises:
            ValueError: if this regularizer was not made by :meth:`for_model`.
        """
        if self.tap is None:
            raise ValueError("`term()` needs captured features: make the regularizer with `for_model(model, sampler)`")
        term = self._captured_loss() if torch.is_grad_enabled() else None
        return torch.zeros((), device=self._forward.place()[0]) if term is None else term

    @outside_graphs
    def _captured_loss(self) -> Tensor | None:
        features = self.tap.take() if self.tap is not None else None
        if features is None:
            self._blind_calls += 1
            if self._turns.acted == 0 and self._blind_calls >= PATIENCE:
                self._monitor.warn(
                    SilentTapWarning,
                    "the tapped layer has seen no training forward: make the regularizer before the first call of a compiled "
                    "model (and call `torch._dynamo.reset()` if one like it was compiled before), train the very model it was "
                    "made for, with the tapped layer in train mode, or name another layer with `layer=...`",
                )
            return None
        self.critic_step()
        return self._turns.term(features, tap=self.tap)
