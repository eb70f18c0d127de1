"""Named warnings, each raised once per cause and regularizer. The first sentence says what is wrong, the second what to do."""

import warnings


class PurifyWarning(UserWarning):
    """Base class: purifying does not do what was asked."""


class PullNotAppliedWarning(PurifyWarning):
    """The pull does not come to what is trained: no term, no task gradient, other parameters, no step that was seen."""


class CriticWarning(PurifyWarning):
    """The critic cannot follow: its gradient is zero, its weights sit at their bound, or somebody else changes them."""


class FeatureScaleWarning(PurifyWarning):
    """The features have collapsed, or those of auxiliary rows are spread far more widely than the task's, or far less."""


class GroupsApartWarning(PurifyWarning):
    """The groups stay as far apart as they were though the pull is as strong as it may become: erase what is left."""


class AuxiliaryDataWarning(PurifyWarning):
    """The auxiliary rows or their labels need a check.

    Groups are rare, many, empty in some classes or dependent on them; rows are unusable; or numbers were cut into ranges.
    """


class ResumeWarning(PurifyWarning):
    """A run goes on from a checkpoint without a state of the regularizer, or not bit for bit."""


class ForeignHeadWarning(PurifyWarning):
    """The classifier given to ``erase()`` does not predict: it reads other features, or is not trained."""


_FORMER_NAMES: dict[str, type[PurifyWarning]] = {
    "DeadCriticWarning": CriticWarning,
    "SaturatedCriticWarning": CriticWarning,
    "ForeignOptimizerWarning": CriticWarning,
    "CollapsedFeaturesWarning": FeatureScaleWarning,
    "UnlikeImagesWarning": FeatureScaleWarning,
    "CriticNotSteppedWarning": PullNotAppliedWarning,
    "FeaturesWithoutGradWarning": PullNotAppliedWarning,
    "NoTaskGradientWarning": PullNotAppliedWarning,
    "NegativeFactorWarning": PullNotAppliedWarning,
    "OptimizerNotSeenWarning": PullNotAppliedWarning,
    "SilentTapWarning": PullNotAppliedWarning,
    "TermNotAddedWarning": PullNotAppliedWarning,
    "UnreachedParametersWarning": PullNotAppliedWarning,
    "FreshStartWarning": ResumeWarning,
    "InexactResumeWarning": ResumeWarning,
    "ConfoundedGroupsWarning": AuxiliaryDataWarning,
    "EmptyCellsWarning": AuxiliaryDataWarning,
    "RareGroupWarning": AuxiliaryDataWarning,
    "ManyGroupsWarning": AuxiliaryDataWarning,
}


def __getattr__(name: str) -> type[PurifyWarning]:
    if name not in _FORMER_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    now = _FORMER_NAMES[name]
    warnings.warn(
        f"`{name}` is now `{now.__name__}`. Write that; the former name goes in the next version.", DeprecationWarning, 2
    )
    return now
