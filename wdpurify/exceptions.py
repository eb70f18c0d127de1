"""Named warnings, each raised once per regularizer, each with its remedy. Filter them by class."""


class PurifyWarning(UserWarning):
    """Base class: purifying does not do what was asked."""


class DeadCriticWarning(PurifyWarning):
    """The critic's gradient at the features is zero: it pulls nothing."""


class CollapsedFeaturesWarning(PurifyWarning):
    """The features have shrunk to a point: the pull moves them together faster than the task holds them apart."""


class UnlikeImagesWarning(PurifyWarning):
    """The auxiliary features are spread far more widely than the task's, or far less: their images are not prepared alike."""


class ForeignHeadWarning(PurifyWarning):
    """The classifier given to ``erase()`` does not predict: it reads other features, or is not trained."""


class GroupsApartWarning(PurifyWarning):
    """The groups stay as far apart as they were though the pull is as strong as it may become: erase what is left."""


class SaturatedCriticWarning(PurifyWarning):
    """Nearly every critic weight sits at the clipping bound: the critic can hardly follow."""


class CriticNotSteppedWarning(PurifyWarning):
    """``loss()`` was called without a ``critic_step()`` in its iteration."""


class ForeignOptimizerWarning(PurifyWarning):
    """Something other than ``critic_step()`` changed the critic's weights."""


class FeaturesWithoutGradWarning(PurifyWarning):
    """The features carry no gradient: there is nothing to purify."""


class NoTaskGradientWarning(PurifyWarning):
    """No task gradient arrives at the features, so a balanced strength stays 0."""


class NegativeFactorWarning(PurifyWarning):
    """The purify term is multiplied by a number below 0; its magnitude counts."""


class OptimizerNotSeenWarning(PurifyWarning):
    """No step of the model's optimiser was seen, so passes are counted as iterations."""


class SilentTapWarning(PurifyWarning):
    """The criterion is called but the tapped layer sees no training forwards."""


class TermNotAddedWarning(PurifyWarning):
    """The model is trained by losses that carry no term."""


class UnreachedParametersWarning(PurifyWarning):
    """The pull does not come to the parameters that are trained."""


class FreshStartWarning(PurifyWarning):
    """A run is resumed from a checkpoint that holds no state of the regularizer."""


class InexactResumeWarning(PurifyWarning):
    """A state is loaded from which this rank cannot go on bit for bit."""


class ConfoundedGroupsWarning(PurifyWarning):
    """The groups go with the classes of the same rows: forgetting one forgets the other."""


class EmptyCellsWarning(PurifyWarning):
    """Pairs of a group and a class have no row, or one."""


class RareGroupWarning(PurifyWarning):
    """One group has so many of the rows that many batches hold no other."""


class ManyGroupsWarning(PurifyWarning):
    """The label has so many values that each is rarely met."""
