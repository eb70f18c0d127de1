"""Erasure after training: fits the linear map that removes a nuisance from features, and folds it into a classifier."""

from .erase import Erasing, ErasureReport
from .eraser import Eraser, fit_eraser
from .outputs import are_close, scores_in
from .rows import BatchUnpacker
