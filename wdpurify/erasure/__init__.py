"""Erasure after training: the linear map that removes a nuisance from features, and its folding into a classifier."""

from .erase import Erasing, ErasureReport
from .eraser import Eraser, fit_eraser
from .rows import BatchUnpacker
