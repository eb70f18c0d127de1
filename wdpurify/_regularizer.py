"""PurifyRegularizer: the public interface. It assembles the parts and contains no formula."""

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ._metrics import PurifyMetrics
from ._options import PUBLISHED, PurifyOptions
from ._parts import assemble
from ._registry import adds_already, register, regularizer_of, unregister
from ._sampler import Sampler
from ._torch import outside_graphs, owner_of, unwrap
from .critic import Constraint, Critic, GradientPenalty
from .erasure import BatchUnpacker, Eraser, ErasureReport
from .features import FeatureTap, Pool, PurifiedCriterion, term_sources, wrap_criterion
from .pull import Objective, Strength, TwoSided, as_strength

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PurifyRegularizer:
    """Trains the features of a model to ignore a label that only other data may have.

    Add :meth:`loss` to the task loss in every step. Every ``every`` iterations one auxiliary batch trains the critic, and the
    term pulls at the extractor. An iteration ends with a step of the optimiser that holds the model's parameters. Its passes
    (micro-batches, one loss per domain, the extra passes of SAM and LBFGS) count as one concatenated batch. In a distributed
    run all ranks train one critic on the rows of all ranks.

    Args:
        extract: maps inputs to features: a module, a bound method of one, or any callable together with ``model``.
        sampler: draws auxiliary batches, see :class:`GroupSampler`.
        feature_dim: width of the features after pooling, at least 1; None measures it with a forward of two auxiliary rows.
        objective: :class:`TwoSided` minimises the gap through the extractor on the auxiliary rows (Eq. 20-21);
            :class:`OneSided` moves the task features along the critic (Eq. 25), which has no lower bound.
        strength: ratio of the purify gradient to the task gradient at the features, at least 0 (:class:`BalancedStrength`), or
            a strength object. With 0 the regularizer only measures, and the run is bit-identical to one without it.
        constraint: constrains the critic's Lipschitz constant: a gradient penalty, weight or spectral clipping, or your own.
        critic: a module from ``(batch, feature_dim)`` to ``(batch, sampler.n_groups)``, or a factory
            ``(feature_dim, n_groups) -> nn.Module``.
        critic_lr: learning rate of the critic's Adam optimiser, above 0.
        critic_steps: updates of the critic per auxiliary batch, at least 1.
        scale_features: divide features by their spread before the critic, so that results do not depend on their scale.
        every: number of iterations from one auxiliary batch to the next (n2 in the paper), at least 1.
        pool: reduces features to one row per sample: ``"mean"``, ``"first"`` or ``"last"`` of tokens, the mean of other axes,
            or a function of features and mask. If auxiliary rows are dicts with an ``attention_mask``, padding is ignored.
        update_statistics: let auxiliary forwards update BatchNorm statistics like training forwards.
        model: the module with the extractor's parameters; needed only if ``extract`` is a plain function.
        seed: seed of the critic, the penalty's points, and random numbers in auxiliary draws and forwards (dropout).

    Raises:
        TypeError, ValueError: if an option has the wrong type or value, ``extract`` is a plain function without ``model``, or
            the model computes per-sample gradients (Opacus).

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
        self._forward, self._trainer, self._loop, self._checkpoint, self._erasing = assemble(
            extract, sampler, feature_dim=feature_dim, **options
        )
        self._arguments = {"extract": extract, "sampler": sampler, "feature_dim": self._trainer.feature_dim, **options}
        register(self._forward.model, self)

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
        """Make a regularizer with the paper's settings, for comparison; ``options`` override them.

        This loss has no lower bound. It lost accuracy in every setting measured here, in most of them down to chance. The paper
        gives two directions: ``OneSided()``, the default here, is Alg. 1, and ``OneSided("group")`` is Eq. 22.
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
        """Make a regularizer for a loop that does not expose the features: a hook captures the input of a layer.

        Use it with :meth:`criterion`. Auxiliary forwards do not call your hooks, and do not change attributes of the model.

        Args:
            model: your model, also behind wrappers such as DDP.
            sampler: draws auxiliary batches.
            layer: name of the layer whose input is the features; None finds the classifier.
            feature_dim: width of the features after pooling; None takes the layer's, or measures it with one forward.
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
        """Wrap your criterion so that its loss carries the gradient of the purify term; the loss value does not change.

        The wrapper trains the critic too. Wrapping is idempotent.

        Raises:
            ValueError: if this regularizer was not made by :meth:`for_model`, or the criterion already carries the term of
                another regularizer with the same layer and auxiliary rows.
        """
        self._need_tap("criterion()")
        if adds_already(self, [source.__self__ for source in term_sources(criterion)]):  # type: ignore[attr-defined]
            return cast(PurifiedCriterion, criterion)
        return wrap_criterion(criterion, self._captured_term)

    @staticmethod
    def of(model: nn.Module) -> "PurifyRegularizer":
        """Return the only regularizer of a model or of its submodules; LookupError if it has none or several."""
        return cast(PurifyRegularizer, regularizer_of(unwrap(model)))

    @property
    def critic(self) -> nn.Module:
        """The critic. Its input is the features divided by their spread, and your optimiser must not hold it."""
        return self._trainer.critic

    @outside_graphs
    def critic_step(self) -> None:
        """Train the critic on one auxiliary batch, if it is due in this iteration.

        :meth:`loss` does this by itself. A call before your forward pass saves memory, because no activations of the task
        exist yet.
        """
        self._loop.begin_pass(by_critic_step=True)

    def optimizer_stepped(self) -> None:
        """End the iteration, after a step of an optimiser that is not a ``torch.optim.Optimizer``; those need no call."""
        self._loop.optimizer_stepped()

    @outside_graphs
    def loss(self, features: Tensor | None = None) -> Tensor:
        """Return the purify term of this pass. Add it to the task loss.

        The value is the objective times the applied factor, so it is near 0 when the pull is weak. A constant
        number that multiplies the term cancels for a :class:`BalancedStrength`, which measures the task gradient in its units.
        To pull less, more or by a schedule, set ``purify.strength.value``. With several losses in one iteration, call this
        for each and add each result to its loss. The first call of an iteration trains the critic, unless
        :meth:`critic_step` has done so.

        Args:
            features: the input of the task's head, with its graph (no copy and no second forward). Shape ``(batch, dim)``,
                ``(batch, tokens, dim)``, ``(batch, dim, time)``, ``(batch, dim, height, width)`` or five axes. None takes the
                features that the hook of :meth:`for_model` has captured.

        Returns:
            A scalar tensor, float32 (float64 for float64 features). It is a constant 0 if grad mode is off, the strength is 0,
            or the features have no gradient. For given features it is also 0 in evaluation mode, unless :meth:`critic_step`
            was called. For captured ones it is 0 without a training forward since the last backward pass.

        Raises:
            TypeError, ValueError: if ``features`` is not a floating-point tensor of such a shape, or is None without a hook.
        """
        if features is not None:
            return self._loop.term_for_features(features)
        self._need_tap("loss()")
        term = self._captured_term() if torch.is_grad_enabled() else None
        return torch.zeros((), device=self._forward.place()[0]) if term is None else term

    def metrics(self) -> PurifyMetrics:
        """Return the figures of the last auxiliary batch on the host; only this call waits for the device."""
        return self._loop.metrics()

    def state_dict(self, *, all_ranks: bool = False) -> dict[str, Any]:
        """Return the state as tensors and plain values; a resumed run continues bit for bit.

        Save at any line of the loop (with SAM and LBFGS: between iterations). ``all_ranks`` gives the state of every rank, and
        every rank must call this. Without it, other ranks can load the state only with a warning.
        """
        return self._checkpoint.state_dict(all_ranks=all_ranks)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a saved state, and project the critic onto the constraint.

        Raises:
            ValueError: if options, critic, sampler or version of the state differ, or it is damaged; nothing changes then.
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
        """Erase the label from the features after training, inside the classifier: the last call.

        An affine map that hides the label from linear probes is fitted on the sampler's rows in evaluation mode. It is folded
        into weight and bias of the classifier, so there is no new module, no new key and no cost at inference. With ``batches``
        the classifier is then refitted on erased features, from its present weights, because it may have used the erased
        directions.

        Args:
            batches: pairs of inputs and class numbers, such as the training loader, or a few unbiased rows; None refits
                nothing.
            head: the classifier, a linear layer or a 1x1 convolution; None takes the layer of :meth:`for_model`.
            max_rows: largest number of rows to read, of the sampler's and of ``batches``.
            unpack: splits a batch into inputs and labels; None takes pairs, and mappings with an entry ``"labels"``.

        Returns:
            Accuracy of a linear probe of the label before and after, on rows held out from its eraser.

        Raises:
            ValueError: if the classifier is another kind of layer, or cannot be refitted on these batches; nothing changes
                then.

        Source: Belrose et al. 2023, arXiv:2306.03819.
        """
        if head is None and self.tap is None:
            raise ValueError("`erase()` needs your classifier: `erase(batches, head=model.head)`, or use `eraser()`")
        layer = self.tap.module if head is None and self.tap is not None else head
        assert layer is not None
        return self._erasing.fold(layer, batches, max_rows=max_rows, unpack=unpack)

    def eraser(self, *, max_rows: int = 4000, bias: bool = True) -> Eraser:
        """Return the map of :meth:`erase` as a module, for any classifier: ``head(eraser(features))``.

        Args:
            max_rows: largest number of the sampler's rows to read.
            bias: False gives a linear map, which can be folded into a layer without a bias.
        """
        return self._erasing.eraser(max_rows=max_rows, through_origin=not bias)

    def remove(self) -> None:
        """Remove the hook from the model, and release all data of the current iteration."""
        self._loop.release(for_good=True)
        unregister(self._forward.model, self)
        if self.tap is not None:
            self.tap.remove()

    def term(self) -> Tensor:
        """Former name of ``loss()`` without an argument."""
        warnings.warn("`term()` is now `loss()` without an argument. Write that.", DeprecationWarning, stacklevel=2)
        return self.loss()

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("extract", "model") and name in vars(self).get("_arguments", ()):
            raise AttributeError(
                f"`{name}` is fixed when the regularizer is made. Make another one with it. Of the options only the size of "
                "the strength can change during the training: `purify.strength.value = 0.1`"
            )
        super().__setattr__(name, value)

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
        own = {name: value for name, value in vars(self).items() if name not in vars(made)}
        vars(made).update(copy.deepcopy(own, memo))
        return made

    def __reduce__(self) -> Any:
        raise TypeError("a regularizer is tied to its model and cannot be pickled: save its `state_dict()` in a file")

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._arguments.items() if name not in ("extract", "model"))
        return f"{type(self).__name__}({self.tap or type(self._forward.model).__name__}, {options})"

    @outside_graphs
    def _captured_term(self, loss: Tensor | None = None) -> Tensor | None:
        return self._loop.term_for_loss(loss)

    def _need_tap(self, what: str) -> None:
        if self.tap is None:
            raise ValueError(f"`{what}` needs captured features: make the regularizer with `for_model(model, sampler)`")
