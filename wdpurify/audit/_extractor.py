"""Extracts features with a copy of the user's model."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wdpurify._torch import map_leaves, to_device, unwrap
from wdpurify.features import FeatureTap, attention_mask_of, call_with, check_features, pool_features

from ._backbone import Backbone
from ._inputs import Inputs
from ._progress import watched


class Extractor:
    """A copy of a model and the way from rows to its features; the model itself is neither run nor changed.

    Args:
        model: any module; wrappers such as DDP are looked through.
        layer: the layer whose input is the features; None finds the classifier, of a ``Backbone`` its output is taken.
        features: called as ``features(copy_of_model, batch)`` in place of reading a layer's input.
        device: where the copy goes; None stays with the model.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layer: str | None = None,
        features: Callable[[Any, Any], Tensor] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` must be a torch.nn.Module or the name of a timm model, got {type(model).__name__}")
        if features is not None and layer is not None:
            raise ValueError("`layer` and `features` both say where features come from: give one of them")
        if isinstance(unwrap(model), Backbone) and features is None and layer is None:
            features = run
        own = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self.device = torch.device(device) if device is not None else own
        self.model = copy.deepcopy(unwrap(model)).to(self.device)
        floats = (parameter.dtype for parameter in self.model.parameters() if parameter.is_floating_point())
        self._dtype = next(floats, torch.float32)
        self._layer = layer
        self._features = features
        self._tap = FeatureTap(self.model, layer) if features is None else None

    def copy(self) -> "Extractor":
        """Return another copy, with its own weights."""
        return Extractor(self.model, layer=self._layer, features=self._features)

    def features(self, batch: Any) -> Tensor:
        """Features of a batch, ``(batch, dim)``, float32, with the graph that grad mode asks for.

        A dict goes to the model by keyword, a tuple by position; padding does not count.
        """
        batch = map_leaves(self._placed, batch)
        if self._features is not None:
            found = self._features(self.model, batch)
            width = None
        else:
            assert self._tap is not None
            found = call_with(self._tap, batch)
            width = self._tap.feature_dim
        check_features(found, width)
        if width is None and found.ndim == 4:  # channels first, as nearly everywhere
            width = found.shape[1]
        channels_first = None if self._tap is None else self._tap.channels_first
        return pool_features(
            found, width, mask=attention_mask_of(self._tap or self.model, batch), channels_first=channels_first
        )

    def _placed(self, leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return to_device(leaf, self.device, self._dtype if leaf.is_floating_point() else None)
        return leaf.to(self.device) if hasattr(leaf, "to") else leaf

    @torch.no_grad()
    def all_features(self, rows: Inputs, *, bar: bool = False) -> Tensor:
        """Compute the features of all rows in evaluation mode, ``(rows, dim)``, on the CPU; ``bar`` shows progress."""
        self.model.eval()
        chunks = watched(rows.chunks(), "features") if bar else rows.chunks()
        found = torch.cat([self.features(rows[places]).cpu() for places in chunks])
        if len(found) != len(rows):
            raise ValueError(
                f"the model must give one row of features per row, got {len(found)} for {len(rows)}. Let `collate_fn` and "
                "`transform` keep every row"
            )
        if not found.isfinite().all():
            raise ValueError(f"features of {int((~found.isfinite()).any(1).sum())} of {len(found)} rows are not finite")
        return found


def run(model: nn.Module, batch: Any) -> Tensor:
    """Extract features with a module that returns them."""
    found: Tensor = model(batch)
    return found
