"""Methods: how the loss of a batch is made. One small class each, which builds on `Plain`.

A new one needs a line in `every_method` and its name in `tables.json`, which says what each table shows, in its order. A class
with an attribute `GRID`, candidate values by option, is tuned on validation data first; `GradientReversal` has one.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import nn

from wdpurify import Critic, OneSided, WeightClipping

from .auxiliary import GradientReversal, MultiTask, Transfer
from .balanced import (
    BalancedBatches,
    BalancedPurified,
    BalancedPurifiedErased,
    BalancedReversal,
    GroupRobust,
    PredictedNuisance,
    PredictedNuisanceErased,
)
from .distances import Coral, MaximumMeanDiscrepancy, SlicedWasserstein
from .fitted import (
    AdversarialParity,
    ConceptErasure,
    ErasedRegression,
    ParityReductions,
    PurifiedUnbiasedHead,
    UnbiasedHead,
    WeightedRegression,
)
from .plain import Methods as Methods
from .plain import Options as Options
from .plain import Plain
from .plain import Run as Run
from .plain import candidates as candidates
from .purified import Purified, PurifiedErased, PurifiedPerLabel
from .told_classes import WeightedGap, WithinClass

#: The critic of the paper; what it does not state, the activation, is ReLU.
PUBLISHED_CRITIC = partial(Critic, hidden=(512, 256, 10), activation=nn.ReLU)
#: Auxiliary rows per acting step of the paper's forms, half of them of the fixed group.
PUBLISHED_ROWS = 64
#: Task rows per step of most tables.
TASK_ROWS = 64


def every_method(task_rows: int = TASK_ROWS) -> Methods:
    """The rows of all tables by name, called as ``every_method()[name](Run(network, task, ...))``.

    Args:
        task_rows: task rows per step; a method with a term has as many auxiliary rows, purifying has half as many.
    """
    whole, half = {"batch_size": task_rows}, {"batch_size": task_rows // 2}
    one_sided = partial(
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
    )
    return {
        "plain": Plain,
        "upper bound": Plain,  # trained on rows without the shift
        "control: statistics only": partial(Purified, strength=0.0, update_statistics=True, **half),
        "control: shuffled groups": partial(Purified, shuffled=True, **half),
        "transfer": Transfer,
        "multi-task": MultiTask,
        "adversarial multi-task": partial(GradientReversal, **whole),
        "gradient reversal, weight 0": partial(GradientReversal, weight=0.0, **whole),
        "gradient reversal": partial(GradientReversal, **whole),
        "gradient reversal, protected statistics": partial(GradientReversal, protect_statistics=True, **whole),
        "gradient reversal, balanced": partial(GradientReversal, balance=True, **whole),
        "gradient reversal and batches, balanced": partial(BalancedReversal, balance=True, **whole),
        "CORAL": partial(Coral, **whole),
        "MMD": partial(MaximumMeanDiscrepancy, **whole),
        "sliced Wasserstein": partial(SlicedWasserstein, **whole),
        "LEACE, head kept": partial(ConceptErasure, refit=False),
        "LEACE, head refitted": ConceptErasure,
        "balanced batches": BalancedBatches,
        "group DRO": GroupRobust,
        "as published, to population": partial(Purified, published=True, batch_size=PUBLISHED_ROWS),
        "as published, to group": partial(Purified, published=True, objective=OneSided("group"), batch_size=PUBLISHED_ROWS),
        "wdpurify, one-sided, balanced": one_sided,
        "wdpurify, one group": partial(Purified, fixed=True, **half),
        "wdpurify, statistics updated": partial(Purified, update_statistics=True, **half),
        "wdpurify": partial(Purified, **half),
        "wdpurify, erased at the end": partial(PurifiedErased, **half),
        "erased at the end, never purified": partial(PurifiedErased, strength=0.0, **half),
        "plain, head on unbiased rows": UnbiasedHead,
        "wdpurify, head on unbiased rows": partial(PurifiedUnbiasedHead, **half),
        "wdpurify, predicted nuisance": partial(PredictedNuisance, **half),
        "wdpurify, predicted nuisance, erased at the end": partial(PredictedNuisanceErased, **half),
        "wdpurify, one regularizer per label": partial(PurifiedPerLabel, **half),
        "wdpurify, rows as they are": partial(Purified, **half),
        "wdpurify, balanced rows": partial(Purified, balance=True, **half),
        "wdpurify, balanced": partial(BalancedPurified, balance=True, **half),
        "wdpurify, balanced, erased at the end": partial(BalancedPurifiedErased, balance=True, **half),
        "wdpurify, balanced, within each class": partial(WithinClass, balance=True, **half),
        "wdpurify, balanced, weights in the gap": partial(WeightedGap, **half),
        **{f"wdpurify, at most {most:g} times": partial(Purified, most=most, **half) for most in (1.0, 1.5, 3.0)},
        "wdpurify, no guard of the spread": partial(Purified, keep=0.0, **half),
        "wdpurify, strength 1": partial(Purified, strength=1.0, most=1.0, **half),
        "Fairlearn, reductions (nuisance known on own rows)": ParityReductions,
        "Fairlearn, reductions, equalized odds (nuisance known on own rows)": partial(
            ParityReductions, constraint="EqualizedOdds"
        ),
        "Fairlearn, adversarial (nuisance known on own rows)": AdversarialParity,
        "logistic regression on erased embeddings": ErasedRegression,
        "weighted logistic regression": WeightedRegression,
    }


#: The kinds of rows that a method is for which is fitted on them as they are; other methods are for all rows.
FITTED_ON: Mapping[str, tuple[str, ...]] = {
    **{name: ("table",) for name in every_method() if name.startswith("Fairlearn")},
    "logistic regression on erased embeddings": ("embeddings",),
    "weighted logistic regression": ("table", "embeddings"),
}
#: Table -> names of its rows, in their order.
TABLES: Mapping[str, list[str]] = json.loads(Path(__file__).with_name("tables.json").read_text(encoding="utf-8"))


def methods_of(table: str, task_rows: int = TASK_ROWS, kind: str = "") -> Methods:
    """The methods of a table.

    Args:
        table: a name of `TABLES`.
        task_rows: as for `every_method`.
        kind: of the rows; methods that are fitted on rows of other kinds are left out.
    """
    every = every_method(task_rows)
    return {name: every[name] for name in TABLES[table] if kind in FITTED_ON.get(name, (kind,))}


METHODS = methods_of("digits")
FACE_METHODS = methods_of("faces")
#: For those who know the irrelevant label of their own training rows. Upper bound and plain training do not use it.
OWN_ROWS_METHODS = methods_of("own rows")
#: With a step of 32 task rows.
PICTURE_METHODS = methods_of("pictures", 32)
