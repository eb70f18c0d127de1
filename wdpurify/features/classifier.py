"""Which layer of a model classifies, and how wide its input is: read off the modules alone, without a forward pass."""

from torch import Tensor, nn

#: Children that call themselves the classifier. Not `linear` or `fc`: hidden layers of small networks are called so too.
HEADS = ("classifier", "head", "heads")
#: How names of children begin that are searched last: extractors, heads beside the one that predicts, LoRA's inner matrices.
ASIDE = ("backbone", "encoder", "feature", "body", "trunk", "aux", "dist", "domain", "lora")
#: How names of layers begin that predict boxes or masks and no class; they are never taken.
NO_CLASSIFIERS = ("bbox", "box_reg", "regression", "mask", "keypoint")

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONTAINERS = (nn.ModuleList, nn.ModuleDict)  # they are never called, so that no hook on them would fire
_GLOBAL_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_RESHAPING = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.Fold, nn.Unfold)


def find_classifier(model: nn.Module) -> str | None:
    """Name of the layer whose input is what the model classifies by.

    What ``get_classifier()`` of the model or of a part of it returns comes first (timm has it), then children called
    ``classifier``, ``head`` or ``heads``, then the last linear layer in order of registration, then a closing 1x1
    convolution. Extractors and auxiliary heads are searched last. Of a distilled model's two classifiers it is the first, of
    several branches' (CrossViT, EfficientViM) the last. Where the classifier was taken off (``num_classes=0``) it is the
    identity left there.

    Args:
        model: without wrappers such as DDP; it is neither run nor changed.

    Returns:
        The name as in ``named_modules()``, empty for the model itself; None if there is no such layer.
    """
    found = _search(model, closes=True)
    first = next((part for part in model.modules() if part._parameters), None)
    if found is first and found is _closing_convolution(model):  # it reads images, not features
        return None
    return next((name for name, module in model.named_modules() if module is found), None)


def candidates(model: nn.Module, count: int = 20) -> str:
    """The last layers with weights of their own or a head's name, for a message that asks for one of them."""
    known = (*HEADS, "fc")  # such as one whose layers are in a list, where torch does not see them
    layers = [(name, layer) for name, layer in model.named_modules() if name and not isinstance(layer, _CONTAINERS)]
    names = [name for name, layer in layers if layer._parameters or name.rpartition(".")[2] in known]
    if not names:
        return "it has no layers with weights: compute the features in your loop and give them to `loss(features)`"
    return f"its last ones are {', '.join(names[-count:])}"


def input_width(module: nn.Module) -> int | None:
    """Width of what a layer reads, from itself or else from its first part that has one; None if that cannot be told.

    Args:
        module: a linear, convolution, normalisation, attention or recurrent layer, or a block that begins with one.
    """
    pooled = False
    for part in module.modules():
        width = _own_width(part)
        if width is not None:
            return width or None  # a lazy layer says 0 before its first forward
        if isinstance(part, _RESHAPING) and not pooled:
            return None  # what comes behind says nothing about the width here
        pooled = isinstance(part, _GLOBAL_POOLS) and part.output_size in (1, (1, 1))
    return None


def _own_width(module: nn.Module) -> int | None:
    width: object = None
    if isinstance(module, _BATCH_NORMS):
        width = module.num_features
    elif isinstance(module, nn.GroupNorm):
        width = module.num_channels
    elif isinstance(module, nn.MultiheadAttention):
        width = module.embed_dim
    elif isinstance(module, nn.RNNBase):
        width = module.input_size
    elif isinstance(module, nn.LayerNorm):
        width = module.normalized_shape[0] if len(module.normalized_shape) == 1 else None
    elif isinstance(getattr(module, "out_features", None), int):  # the pair: whole models keep one such attribute too
        width = getattr(module, "in_features", None)
    elif isinstance(getattr(module, "out_channels", None), int):
        width = getattr(module, "in_channels", None)
    elif isinstance(weight := getattr(module, "weight", None), Tensor) and weight.ndim == 1:
        width = None if isinstance(module, nn.PReLU) else len(weight)  # RMSNorm, frozen BatchNorm of other libraries
    return width if isinstance(width, int) else None


def _search(module: nn.Module, *, closes: bool = False) -> nn.Module | None:
    """The classifier in ``module``; ``closes`` says that a 1x1 convolution at its end may be it."""
    declared = _declared_classifier(module)
    if declared is not None or _is_linear(module):
        return module if declared is None else declared
    if isinstance(module, nn.MultiheadAttention):  # it calls its projection as a function, past all hooks
        return None
    convolution = _closing_convolution(module) if closes else None
    if convolution is not None and isinstance(module, (nn.Sequential, *_CONVOLUTIONS)):
        return convolution
    heads, others = _by_promise(module)
    left = None  # where a classifier was taken off
    for head in heads:
        found = _search(head, closes=True)
        if found is None and not isinstance(head, _CONTAINERS):
            found = head
        if found is not None and _has_weights(found):
            return found
        left = left or found
    if left is not None:  # the linear layers further in are none
        return left
    for child in others:
        found = _search(child)
        if found is not None and _has_weights(found):
            return found
        left = left or found
    return convolution or left


def _declared_classifier(module: nn.Module) -> nn.Module | None:
    """What ``get_classifier()`` returns, if it is a layer of ``module`` that forward passes call."""
    declare = getattr(module, "get_classifier", None)
    try:
        declared = declare() if callable(declare) else None
    except (AttributeError, NotImplementedError, TypeError):  # a name that means something else here
        return None
    if isinstance(declared, tuple | list):
        declared = declared[0] if declared else None
    if isinstance(declared, nn.ModuleList):
        declared = declared[-1] if len(declared) else None
    ours = isinstance(declared, nn.Module) and any(part is declared for part in module.modules())
    return declared if ours else None


def _by_promise(module: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """Children that call themselves heads; the others from last to first, with extractors and the like at the end."""
    children = dict(module.named_children())
    # Under the name `fc` an identity says as clearly that the classifier was taken off.
    names = HEADS + (("fc",) if isinstance(children.get("fc"), nn.Identity) else ())
    heads = [children.pop(name) for name in names if name in children]
    backwards = [name for name in list(children)[::-1] if not name.lower().startswith(NO_CLASSIFIERS)]
    others = sorted(backwards, key=lambda name: name.lower().startswith(ASIDE))
    return heads, [children[name] for name in others]


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _is_linear(module: nn.Module) -> bool:
    """Linear layers, and layers of users and adapter libraries that present themselves as one."""
    sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    presents = all(isinstance(size, int) for size in sizes) and isinstance(getattr(module, "weight", None), Tensor)
    return presents or isinstance(module, nn.Linear)


def _closing_convolution(module: nn.Module) -> nn.Module | None:
    """The 1x1 convolution that is the last layer with weights, looking into sequences but into no block of another kind."""
    last = [child for child in module.children() if _has_weights(child)][-1:]
    if last and isinstance(last[0], nn.Sequential):
        return _closing_convolution(last[0])
    layer = last[0] if last else module
    return layer if isinstance(layer, _CONVOLUTIONS) and set(layer.kernel_size) == {1} else None
