"""Erasure after training: the linear map that removes a nuisance from features, and its folding into a classifier."""

from .erase import ErasureReport, Unpack, collect, erase, world_of
from .eraser import Eraser, fit_eraser
