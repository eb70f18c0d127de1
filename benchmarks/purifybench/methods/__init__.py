"""Methods: how the loss of a batch is made. One small file each; a new one needs a file and a line in `METHODS`.

A method is a class with the constructor and members of `_types.Method`. `METHODS` names what the tables show, in their order.
A class with an attribute `GRID`, candidate values by option, is tuned on validation data first; `gradient_reversal.py` has one.
"""

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from wdpurify import Critic, OneSided, WeightClipping

from ._types import Method as Method
from ._types import Options as Options
from ._types import Run as Run
from ._types import candidates as candidates
from .auxiliary_head import MultiTask, Transfer
from .balanced import BalancedBatches, BalancedPurified, BalancedPurifiedErased, BalancedReversal, GroupRobust
from .concept_erasure import ConceptErasure
from .distances import Coral, MaximumMeanDiscrepancy, SlicedWasserstein
from .fairlearn_parity import AdversarialParity, ParityReductions
from .fitted import ErasedRegression, WeightedRegression
from .gradient_reversal import GradientReversal
from .plain import Plain
from .predicted_nuisance import PredictedNuisance, PredictedNuisanceErased
from .purified import Purified, PurifiedErased, PurifiedPerLabel
from .refitted_head import PurifiedUnbiasedHead, UnbiasedHead
from .told_classes import WeightedGap, WithinClass

#: The critic of the paper; what it does not state, the activation, is ReLU.
PUBLISHED_CRITIC = partial(Critic, hidden=(512, 256, 10), activation=nn.ReLU)

#: Auxiliary rows per acting step of the paper's forms, half of them of the fixed group.
PUBLISHED_ROWS = 64

#: Training without and with what the nuisance hides, by which all others are judged.
REFERENCES: Mapping[str, Callable[..., Method]] = {"plain": Plain, "upper bound": Plain}
LEACE: Mapping[str, Callable[..., Method]] = {
    "LEACE, head kept": partial(ConceptErasure, refit=False),
    "LEACE, head refitted": ConceptErasure,
}

#: Method name -> constructor, called as ``METHODS[name](Run(network, task, ...))``.
METHODS: Mapping[str, Callable[..., Method]] = {
    **REFERENCES,
    "control: statistics only": partial(Purified, strength=0.0, update_statistics=True),
    "control: shuffled groups": partial(Purified, shuffled=True),
    "gradient reversal": GradientReversal,
    **LEACE,
    "as published, to population": partial(Purified, published=True, batch_size=PUBLISHED_ROWS),
    "as published, to group": partial(Purified, published=True, objective=OneSided("group"), batch_size=PUBLISHED_ROWS),
    "wdpurify, one-sided, balanced": partial(
        Purified,
        fixed=True,
        objective=OneSided(),
        strength=0.1,
        fade=0.0,
        constraint=WeightClipping(0.1),
        critic=PUBLISHED_CRITIC,
        critic_lr=1e-3,
        critic_steps=1,
        scale_features=False,
        every=3,
        batch_size=PUBLISHED_ROWS,
    ),
    "wdpurify, one group": partial(Purified, fixed=True),
    "wdpurify": Purified,
    "wdpurify, erased at the end": PurifiedErased,
}

#: The methods of the face tables, under the paper's names.
FACE_METHODS: Mapping[str, Callable[..., Method]] = {
    **REFERENCES,
    "transfer": Transfer,
    "multi-task": MultiTask,
    "adversarial multi-task": GradientReversal,
    **LEACE,
    "as published, to population": METHODS["as published, to population"],
    "as published, to group": METHODS["as published, to group"],
    "wdpurify": Purified,
    "wdpurify, erased at the end": PurifiedErased,
    "control: statistics only": METHODS["control: statistics only"],
    "control: shuffled groups": METHODS["control: shuffled groups"],
}

#: The methods for those who know the irrelevant label of their own training rows. Upper bound and plain training do not use it.
OWN_ROWS_METHODS: Mapping[str, Callable[..., Method]] = {
    **REFERENCES,
    "balanced batches": BalancedBatches,
    "group DRO": GroupRobust,
    "gradient reversal, balanced": partial(GradientReversal, balance=True),
    "gradient reversal and batches, balanced": partial(BalancedReversal, balance=True),
    "wdpurify, rows as they are": Purified,
    "wdpurify, balanced rows": partial(Purified, balance=True),
    "wdpurify, balanced": partial(BalancedPurified, balance=True),
    "wdpurify, balanced, erased at the end": partial(BalancedPurifiedErased, balance=True),
    "wdpurify, balanced, within each class": partial(WithinClass, balance=True),
    "wdpurify, balanced, weights in the gap": WeightedGap,
}

#: Auxiliary rows per step of the picture benchmark, as many as task rows; of purifying half as many.
PICTURE_ROWS = {"batch_size": 32}
PURIFIED_ROWS = {"batch_size": 16}

#: The methods of the picture benchmark.
PICTURE_METHODS: Mapping[str, Callable[..., Method]] = {
    **REFERENCES,
    "control: shuffled groups": partial(Purified, shuffled=True, **PURIFIED_ROWS),
    "gradient reversal, weight 0": partial(GradientReversal, weight=0.0, **PICTURE_ROWS),
    "gradient reversal": partial(GradientReversal, **PICTURE_ROWS),
    "gradient reversal, protected statistics": partial(GradientReversal, protect_statistics=True, **PICTURE_ROWS),
    "CORAL": partial(Coral, **PICTURE_ROWS),
    "MMD": partial(MaximumMeanDiscrepancy, **PICTURE_ROWS),
    "sliced Wasserstein": partial(SlicedWasserstein, **PICTURE_ROWS),
    **LEACE,
    "wdpurify, statistics updated": partial(Purified, update_statistics=True, **PURIFIED_ROWS),
    "wdpurify": partial(Purified, **PURIFIED_ROWS),
    "wdpurify, erased at the end": partial(PurifiedErased, **PURIFIED_ROWS),
    "plain, head on unbiased rows": UnbiasedHead,
    "wdpurify, head on unbiased rows": partial(PurifiedUnbiasedHead, **PURIFIED_ROWS),
}

#: Methods that take no step, by the kind of rows that they read.
FITTED_METHODS: Mapping[str, Mapping[str, Callable[..., Method]]] = {
    "table": {
        "Fairlearn, reductions (nuisance known on own rows)": ParityReductions,
        "Fairlearn, reductions, equalized odds (nuisance known on own rows)": partial(
            ParityReductions, constraint="EqualizedOdds"
        ),
        "Fairlearn, adversarial (nuisance known on own rows)": AdversarialParity,
    },
    "embeddings": {"logistic regression on erased embeddings": ErasedRegression},
}


def several_labels_methods(batch_size: int, kind: str = "") -> dict[str, Callable[..., Method]]:
    """The methods of :func:`modality_methods`, and one regularizer per label; the arguments are those of it."""
    per_label = {"wdpurify, one regularizer per label": partial(PurifiedPerLabel, batch_size=batch_size // 2)}
    return modality_methods(batch_size, kind) | per_label


def tuned_variants(batch_size: int, kind: str = "") -> dict[str, Callable[..., Method]]:
    """Variants of the default strength, over several kinds of data; ``kind`` plays no part."""
    half = {"batch_size": batch_size // 2}
    limits = {f"wdpurify, at most {most:g} times": partial(Purified, most=most, **half) for most in (1.0, 1.5, 3.0)}
    return {
        **REFERENCES,
        "wdpurify": partial(Purified, **half),
        **limits,
        "wdpurify, no guard of the spread": partial(Purified, keep=0.0, **half),
        "wdpurify, strength 1": partial(Purified, strength=1.0, most=1.0, **half),
        "wdpurify, erased at the end": partial(PurifiedErased, **half),
    }


def own_rows_methods(batch_size: int, kind: str = "") -> dict[str, Callable[..., Method]]:
    """The methods for those who know the nuisance of their own training rows, over several kinds of data.

    Args:
        batch_size: task rows per step; purifying has half as many auxiliary rows.
        kind: of `FITTED_METHODS`; the logistic regression is for these kinds alone.
    """
    half = {"batch_size": batch_size // 2}
    return {
        **REFERENCES,
        "balanced batches": BalancedBatches,
        "group DRO": GroupRobust,
        "wdpurify, balanced": partial(BalancedPurified, balance=True, **half),
        "wdpurify, balanced, erased at the end": partial(BalancedPurifiedErased, balance=True, **half),
        **({"weighted logistic regression": WeightedRegression} if kind in FITTED_METHODS else {}),
    }


def modality_methods(batch_size: int, kind: str = "") -> dict[str, Callable[..., Method]]:
    """The methods that are compared over several kinds of data.

    Args:
        batch_size: task rows per step; reversal has as many auxiliary rows, purifying half as many.
        kind: of `FITTED_METHODS`; other rows have none of these.
    """
    half = {"batch_size": batch_size // 2}
    return {
        **REFERENCES,
        "control: shuffled groups": partial(Purified, shuffled=True, **half),
        "gradient reversal": partial(GradientReversal, batch_size=batch_size),
        **LEACE,
        "wdpurify": partial(Purified, **half),
        "erased at the end, never purified": partial(PurifiedErased, strength=0.0, **half),
        "wdpurify, erased at the end": partial(PurifiedErased, **half),
        "wdpurify, predicted nuisance": partial(PredictedNuisance, **half),
        "wdpurify, predicted nuisance, erased at the end": partial(PredictedNuisanceErased, **half),
        **FITTED_METHODS.get(kind, {}),
    }
