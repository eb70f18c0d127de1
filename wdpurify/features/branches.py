"""Finds other layers that may be the classifier: an adversary, a second task or a gate reads the same features."""

from torch import nn

from .classifier import ASIDE, HEADS, NO_CLASSIFIERS


def other_heads(model: nn.Module, taken: str) -> list[str]:
    """Return the names of last linear layers of branches that begin at the same features as the chosen classifier.

    A branch whose output is as wide as the features precedes the classifier, so it is no alternative. Names decide first: a
    layer named as a classifier has no alternatives, and a layer named otherwise (``projector``, ``decoder``) is none.

    Args:
        model: without wrappers such as DDP.
        taken: name of the chosen classifier, as in ``named_modules()``.
    """
    path = taken.split(".") if taken else []
    if any(part in HEADS for part in path) or hasattr(model, "get_classifier"):
        return []
    names: list[str] = []
    for depth, name in enumerate(path):
        parent = model.get_submodule(".".join(path[:depth]))
        if isinstance(parent, nn.Sequential):  # one layer after the other
            continue
        branch = _linear_layers(parent.get_submodule(name))
        reads = branch[0][1].in_features if branch else None
        for sibling, child in parent.named_children():
            beside = sibling == name or sibling.lower().startswith((*ASIDE, *NO_CLASSIFIERS))
            layers = [] if beside else _linear_layers(child)
            if layers and layers[0][1].in_features == reads and layers[-1][1].out_features != reads:
                names.append(".".join(part for part in (*path[:depth], sibling, layers[-1][0]) if part))
    return names


def _linear_layers(module: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, part) for name, part in module.named_modules() if isinstance(part, nn.Linear)]
