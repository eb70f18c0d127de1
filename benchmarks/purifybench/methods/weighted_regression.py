"""A logistic regression on the rows themselves, each weighed by how rare its pair of nuisance and class is."""

from sklearn.linear_model import LogisticRegression

from wdpurify import balanced_weights

from .fitted import Fitted, Predictor


class WeightedRegression(Fitted):
    """What the owner of a table tries first, where the nuisance of the training rows is known."""

    def fit(self) -> Predictor:
        auxiliary = self.task.auxiliary
        assert auxiliary.classes is not None
        weights = balanced_weights(auxiliary.groups, auxiliary.classes) * len(auxiliary.groups)
        train = self.task.train
        fitted = LogisticRegression(max_iter=1000)
        fitted.fit(train.images.numpy(), train.labels.numpy(), sample_weight=weights.numpy())
        return fitted.predict
