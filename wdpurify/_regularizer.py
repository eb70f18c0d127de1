"""PurifyRegularizer: what the user holds. It puts the parts together and holds no formula of its own."""

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ._metrics import PurifyMetrics
from ._options import PUBLISHED, PurifyOptions
from ._parts import assembled
from ._registry import adds_already, forget, made_for, regularizer_of
from ._sampler import Sampler
from ._torch import outside_graphs, owner_of, unwrap
from .critic import Constraint, Critic, GradientPenalty
from .erasure import BatchUnpacker, Eraser, ErasureReport
from .features import FeatureTap, Pool, PurifiedCriterion, purified, sources_of
from .pull import Objective, Strength, TwoSided, as_strength

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PurifyRegularizer:
    """Makes the features of a model forget a label that some other data carries.

    Call :meth:`critic_step` before each backward pass and add :meth:`loss` to the task loss; all else stays the user's. Once
    every ``every`` iterations one auxiliary batch trains the critic and pulls at the extractor. An iteration ends with a step
    of the optimiser that holds the model's parameters; its passes (micro-batches, one loss per domain, the climbs of SAM and
    LBFGS) count as one concatenated batch. In a distributed run all ranks train one critic on the rows of all.

    Args:
        extract: maps images to features: a module, a bound method of one, or any callable together with ``model``.
        sampler: draws auxiliary batches, see :class:`GroupSampler`.
        feature_dim: width of the features after pooling, at least 1; None finds it with one forward of two auxiliary rows.
        objective: :class:`TwoSided` minimises the gap through the extractor on the auxiliary rows (Eq. 20-21);
            :class:`OneSided` moves the task features along the critic (Eq. 25), which has no lower bound.
        strength: ratio of purify to task gradient at the features, at least 0 (:class:`BalancedStrength`), or a strength
            object; 0 only measures: the run is bit-identical to one without.
        constraint: holds the critic's Lipschitz constant: a gradient penalty, weight or spectral clipping, or your own.
        critic: a module from ``(batch, feature_dim)`` to ``(batch, sampler.n_groups)``, or what makes one of these two widths.
        critic_lr, critic_steps: learning rate of its Adam, above 0, and its updates per acting iteration, at least 1.
        scale_features: let the critic read features in units of their spread, so that their scale plays no part.
        every: act once every this many iterations (n2 in the paper), at least 1.
        pool: makes one row per sample: of tokens the ``"mean"``, ``"first"`` or ``"last"``, of other axes the mean; or a
            function of features, of any shape, and mask, which may also fold several rows of a sample. Padding is left out
            where auxiliary rows are dicts with an ``attention_mask``.
        update_statistics: let auxiliary forwards update BatchNorm statistics like training forwards do.
        model: module whose buffers, device, dtype and optimiser count; needed only where ``extract`` is a plain function.
        seed: seed of critic, penalty points and dropout in auxiliary forwards.

    Raises:
        TypeError, ValueError: for what is none or out of range, a plain function alone, a gradient per sample (Opacus).

    Source: Li et al. 2021, arXiv:2102.10955. Ours: all groups at once, two-sided, in every iteration, balanced at the features.
    """

    def __init__(
        self,
        extract: Callable[..., Any],
        sampler: Sampler,
        *,
        feature_dim: int | None = None,
        objective: Objective = TwoSided(),  # noqa: B008 - frozen
        strength: float | Strength = 0.5,
        constraint: Constraint = GradientPenalty(10.0),  # noqa: B008 - frozen
        critic: nn.Module | Callable[[int, int], nn.Module] = Critic,
        critic_lr: float = 3e-3,
        critic_steps: int = 2,
        scale_features: bool = True,
        every: int = 1,
        pool: Pool = "mean",
        update_statistics: bool = False,
        model: nn.Module | None = None,
        seed: int = 0,
    ) -> None:
        strength = as_strength(strength)
        options: dict[str, Any] = {
            "objective": objective,
            "strength": strength,
            "constraint": constraint,
            "critic": critic,
            "critic_lr": critic_lr,
            "critic_steps": critic_steps,
            "scale_features": scale_features,
            "every": every,
            "pool": pool,
            "update_statistics": update_statistics,
            "model": model,
            "seed": seed,
        }
        self.tap = extract if isinstance(extract, FeatureTap) else None
        self.sampler = sampler
        self.objective = objective
        self.strength = strength
        self._forward, self._trainer, self._loop, self._checkpoint, self._erasing = assembled(
            extract, sampler, feature_dim=feature_dim, **options
        )
        self._arguments = {"extract": extract, "sampler": sampler, "feature_dim": self._trainer.feature_dim, **options}
        made_for(self._forward.model, self)

    @classmethod
    def as_published(
        cls,
        extract: Callable[..., Any],
        sampler: Sampler,
        *,
        feature_dim: int | None = None,
        model: nn.Module | None = None,
        **options: "Unpack[PurifyOptions]",
    ) -> "PurifyRegularizer":
        """The paper to the letter, for comparison; ``options`` change what is named.

        Its loss has no lower bound, and it lost accuracy in every setting measured here, to chance in most. The paper
        contradicts itself on the direction: ``OneSided()``, the default here, is Alg. 1, ``OneSided("group")`` is Eq. 22.
        """
        published: PurifyOptions = {**PUBLISHED, **options}
        return cls(extract, sampler, feature_dim=feature_dim, model=model, **published)

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

        Auxiliary rows pass the model without the user's own hooks; attributes that it writes are as they were afterwards.

        Args:
            model, sampler: the user's model, wrapped or not, and what draws auxiliary batches.
            layer: name of the layer whose input is the features; None takes the classifier.
            feature_dim: width of the features after pooling; None reads it off the layer, or finds it with one forward.
            **options: the constructor's options.

        Raises:
            ValueError: if no layer is found.
        """
        tap = FeatureTap(model, layer)
        try:
            return cls(tap, sampler, feature_dim=tap.feature_dim if feature_dim is None else feature_dim, **options)
        except Exception:
            tap.remove()
            raise

    def criterion(self, criterion: Callable[..., Any]) -> PurifiedCriterion:
        """The user's criterion with the purify term's gradient added; it also calls :meth:`critic_step`.

        Its value is the very value of the criterion given. To wrap it twice changes nothing.

        Raises:
            ValueError: if this regularizer was not made by :meth:`for_model`, or the criterion carries the term of its like.
        """
        self._need_tap("criterion()")
        if adds_already(self, [source.__self__ for source in sources_of(criterion)]):  # type: ignore[attr-defined]
            return cast(PurifiedCriterion, criterion)
        return purified(criterion, self._captured_term)

    @staticmethod
    def of(model: nn.Module) -> "PurifyRegularizer":
        """The regularizer made for a model, wrapped or not, or for a part of it; LookupError without one, or with several."""
        return cast(PurifyRegularizer, regularizer_of(unwrap(model)))

    @property
    def critic(self) -> nn.Module:
        """The critic for inspection; it reads features over their spread, and must not be given to the user's optimiser."""
        return self._trainer.critic

    @outside_graphs
    def critic_step(self) -> None:
        """Train the critic on one auxiliary batch, if this iteration is one to act in.

        :meth:`loss` does so by itself. Called before your forward pass, this does it while no activations of the task are held.
        """
        self._loop.begin_pass(announced=True)

    def optimizer_stepped(self) -> None:
        """Say that the model's optimiser has stepped, where it is no ``torch.optim.Optimizer``, which says so by itself."""
        self._loop.optimizer_stepped()

    @outside_graphs
    def loss(self, features: Tensor | None = None) -> Tensor:
        """The purify term of this pass, to be added to the task loss.

        Its value is the objective times the factor that is applied, so its gradient is the pull: it is small where the pull is
        small, and 0 where there is none. Whatever the sign of the factor by which you multiply it, the pull brings groups
        together. Several calls in one iteration each carry the term, for the loss that each is added to. The first call of an
        iteration trains the critic, unless :meth:`critic_step` has done so.

        Args:
            features: what the task's head reads: shape ``(batch, dim)``, ``(batch, tokens, dim)``, ``(batch, dim, time)``,
                ``(batch, dim, height, width)`` or of five axes; the very tensor, with its graph. None takes those that the tap
                of :meth:`for_model` has caught, for loops whose loss comes from elsewhere.

        Returns:
            A scalar tensor, float32 (float64 for float64 features); a constant 0 where grad mode is off, the strength is 0, the
            features carry no gradient, or no training forward has come since the backward pass of the last one.

        Raises:
            TypeError, ValueError: if ``features`` is no floating point tensor of such a shape, or None without a tap.
        """
        if features is not None:
            return self._loop.term_at(features)
        self._need_tap("loss()")
        term = self._captured_term() if torch.is_grad_enabled() else None
        return torch.zeros((), device=self._forward.place()[0]) if term is None else term

    def metrics(self) -> PurifyMetrics:
        """Figures of the last acting iteration, on the host; this is the one call that waits for the device."""
        return self._loop.metrics()

    def state_dict(self, *, all_ranks: bool = False) -> dict[str, Any]:
        """All that is needed to go on bit for bit, from any line of the loop (SAM, LBFGS: between iterations), as plain values.

        ``all_ranks`` gives the state of every rank, each of which must call this; otherwise other ranks go on with a warning.
        """
        return self._checkpoint.state_dict(all_ranks=all_ranks)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; the constraint holds afterwards.

        Raises:
            ValueError: if the state is of other options, critic, sampler or version, or damaged; nothing has changed then.
        """
        self._checkpoint.load_state_dict(state)

    def erase(
        self,
        batches: Iterable[Any] | None = None,
        *,
        head: nn.Module | None = None,
        max_rows: int = 4000,
        unpack: BatchUnpacker | None = None,
    ) -> ErasureReport:
        """The last call, after training: remove from the features what a linear probe still reads, inside the classifier.

        The affine map that does so is fitted on the sampler's own rows in evaluation mode and folded into the classifier's
        weight and bias: no new module, no new key, no cost at inference. With ``batches`` the classifier is then fitted anew on
        erased features, from where it is, which makes up for what it read from the directions that are gone.

        Args:
            batches: pairs of inputs and class numbers, such as the training loader, or a few rows without the bias; None keeps
                the classifier's weights.
            head: the classifier, a linear layer or a 1x1 convolution; None takes the tapped layer.
            max_rows: rows read at most, of the sampler's and of ``batches``.
            unpack: makes inputs and labels of a batch; None takes pairs, and mappings with an entry ``"labels"``.

        Returns:
            What a linear probe reads of the label before and after, on rows that the eraser was not fitted on.

        Raises:
            ValueError: if the classifier is no such layer, or cannot be fitted on these batches; nothing has changed then.

        Source: Belrose et al. 2023, arXiv:2306.03819.
        """
        if head is None and self.tap is None:
            raise ValueError("`erase()` needs your classifier: `erase(batches, head=model.head)`, or use `eraser()`")
        layer = self.tap.module if head is None and self.tap is not None else head
        assert layer is not None
        return self._erasing.fold(layer, batches, max_rows=max_rows, unpack=unpack)

    def eraser(self, *, max_rows: int = 4000, bias: bool = True) -> Eraser:
        """The map of :meth:`erase` as a module, for any classifier: ``head(eraser(features))``.

        Args:
            max_rows: rows of the sampler read at most.
            bias: False makes the map linear, so that it can be folded into a layer without a bias.
        """
        return self._erasing.eraser(max_rows=max_rows, through_origin=not bias)

    def remove(self) -> None:
        """Take the tap off the model, if there is one, and drop what is held for the next ``loss()``."""
        self._loop.release(for_good=True)
        forget(self._forward.model, self)
        if self.tap is not None:
            self.tap.remove()

    def term(self) -> Tensor:
        """The former name of ``loss()`` without an argument."""
        warnings.warn("`term()` is now `loss()` without an argument. Write that.", DeprecationWarning, stacklevel=2)
        return self.loss()

    def __deepcopy__(self, memo: dict[int, Any]) -> "PurifyRegularizer":
        extract = self._arguments["extract"]
        if owner_of(extract) is None and self.tap is None:
            raise TypeError(
                "`extract` is a plain function, which a copy would call with the former model. Make a new regularizer"
            )
        made = object.__new__(type(self))
        memo[id(self)] = made
        PurifyRegularizer.__init__(made, **{name: copy.deepcopy(value, memo) for name, value in self._arguments.items()})
        made.load_state_dict(self.state_dict())
        return made

    def __reduce__(self) -> Any:
        raise TypeError("a regularizer is tied to its model and cannot be pickled: save its `state_dict()` in a file")

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._arguments.items() if name not in ("extract", "model"))
        return f"{type(self).__name__}({self.tap or type(self._forward.model).__name__}, {options})"

    @outside_graphs
    def _captured_term(self, loss: Tensor | None = None) -> Tensor | None:
        return self._loop.term_behind(loss)

    def _need_tap(self, what: str) -> None:
        if self.tap is None:
            raise ValueError(f"`{what}` needs captured features: make the regularizer with `for_model(model, sampler)`")
