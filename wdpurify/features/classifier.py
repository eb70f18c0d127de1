"""Finds the classifier layer of a model and the width of its input, from the modules alone and without a forward pass."""

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

#: Names of children that are classifiers. Not `linear` or `fc`: small networks use these names for hidden layers too.
HEADS = ("classifier", "head", "heads")
#: Name prefixes of children that the search visits last: extractors, auxiliary heads, LoRA's inner matrices.
ASIDE = ("backbone", "encoder", "feature", "body", "trunk", "aux", "dist", "domain", "lora")
#: Name prefixes of layers that predict boxes or masks and no class; the search skips them.
NO_CLASSIFIERS = ("bbox", "box_reg", "regression", "mask", "keypoint")

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONTAINERS = (nn.ModuleList, nn.ModuleDict)  # torch never calls them, so a forward hook on them never fires
_GLOBAL_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_POOLS = (
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
)
_CHANNELS_FIRST = (*_CONVOLUTIONS, *_BATCH_NORMS, *_POOLS, nn.GroupNorm)
_TOKENS = (nn.MultiheadAttention, nn.RNNBase)
_CHANNELS_LAST = (nn.Linear, *_TOKENS)
_RESHAPING = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.Fold, nn.Unfold)


def find_classifier(model: nn.Module) -> str | None:
    """Return the name of the layer that classifies the model's features.

    The search tries, in this order: the result of ``get_classifier()`` of the model or of a submodule (timm defines it);
    children with the name ``classifier``, ``head`` or ``heads``; the last linear layer in order of registration; a final 1x1
    convolution. It visits extractors and auxiliary heads last. Of a distilled model's two classifiers it returns the first,
    of several branches' (CrossViT, EfficientViM) the last. If a model has lost its classifier (``num_classes=0``), it
    returns the identity in its place.

    Args:
        model: without wrappers such as DDP. The function neither runs nor changes it.

    Returns:
        The name as in ``named_modules()``, empty for the model itself; None if there is no such layer.
    """
    classifier = _search(model, closes=True)
    first = next((part for part in model.modules() if part._parameters), None)
    if classifier is first and classifier is _closing_convolution(model):  # its input are images, not features
        return None
    return next((name for name, module in model.named_modules() if module is classifier), None)


def candidates(model: nn.Module, count: int = 20) -> str:
    """List the last layers that have direct weights or a head's name, for a message that asks for a layer name."""
    head_names = (*HEADS, "fc")  # a head may keep its layers in a plain list, which torch does not register
    layers = [(name, layer) for name, layer in model.named_modules() if name and not isinstance(layer, _CONTAINERS)]
    names = [name for name, layer in layers if layer._parameters or name.rpartition(".")[2] in head_names]
    if not names:
        return "it has no layers with weights. Compute the features in your loop and pass them to `loss(features)`"
    return f"its last ones are {', '.join(names[-count:])}"


def input_width(module: nn.Module) -> int | None:
    """Return the width of a layer's input, from the layer or its first submodule with a width; None if neither has one.

    Args:
        module: a linear, convolution, normalisation, attention or recurrent layer, or a block that begins with one.
    """
    pooled = False
    for part in module.modules():
        width = _own_width(part)
        if width is not None:
            return width or None  # a lazy layer has width 0 before its first forward pass
        if isinstance(part, _RESHAPING) and not pooled:
            return None  # reshaping changes the width, so later layers do not show the input width
        pooled = isinstance(part, _GLOBAL_POOLS) and part.output_size in (1, (1, 1))
    return None


def reads_channels_first(module: nn.Module) -> bool | None:
    """Whether a layer reads its channels from the axis after the batch, not from the last axis; None if it does not tell."""
    if isinstance(module, _CHANNELS_LAST) or type(module) is nn.LayerNorm:  # subclasses normalise maps
        return False
    if isinstance(module, nn.Sequential):
        for part in module:
            if (first := reads_channels_first(part)) is not None or isinstance(part, _RESHAPING):
                return first
        return None
    # Other modules call their parts in any order: a linear layer may come after a pooling.
    kinds = {isinstance(part, _CHANNELS_FIRST) for part in module.modules() if isinstance(part, (*_CHANNELS_FIRST, *_TOKENS))}
    return kinds.pop() if len(kinds) == 1 else None


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
    elif isinstance(getattr(module, "out_features", None), int):  # both attributes: whole models may have one of them
        width = getattr(module, "in_features", None)
    elif isinstance(getattr(module, "out_channels", None), int):
        width = getattr(module, "in_channels", None)
    elif isinstance(weight := getattr(module, "weight", None), Tensor) and weight.ndim == 1:
        width = None if isinstance(module, nn.PReLU) else len(weight)  # RMSNorm, frozen BatchNorm of other libraries
    return width if isinstance(width, int) else None


def _search(module: nn.Module, *, closes: bool = False) -> nn.Module | None:
    """Return the classifier in ``module``; with ``closes``, a final 1x1 convolution may be the classifier."""
    declared = _declared_classifier(module)
    if declared is not None or _is_linear(module):
        return module if declared is None else declared
    if isinstance(module, nn.MultiheadAttention):  # it uses its projection's weights directly, so no hook fires
        return None
    convolution = _closing_convolution(module) if closes else None
    if convolution is not None and isinstance(module, (nn.Sequential, *_CONVOLUTIONS)):
        return convolution
    heads, others = _by_promise(module)
    left = None  # an identity in place of a removed classifier
    for head in heads:
        candidate = _search(head, closes=True)
        if candidate is None and not isinstance(head, _CONTAINERS):
            candidate = head
        if candidate is not None and _has_weights(candidate):
            return candidate
        left = left or candidate
    if left is not None:  # the remaining linear layers are hidden layers
        return left
    for child in others:
        candidate = _search(child)
        if candidate is not None and _has_weights(candidate):
            return candidate
        left = left or candidate
    return convolution or left


def _declared_classifier(module: nn.Module) -> nn.Module | None:
    """Return the result of ``get_classifier()`` if it is a layer of ``module``."""
    declare = getattr(module, "get_classifier", None)
    try:
        declared = declare() if callable(declare) else None
    except (AttributeError, NotImplementedError, TypeError):  # this class uses the name for something else
        return None
    if isinstance(declared, tuple | list):
        declared = declared[0] if declared else None
    if isinstance(declared, nn.ModuleList):
        declared = declared[-1] if len(declared) else None
    ours = isinstance(declared, nn.Module) and any(part is declared for part in module.modules())
    return declared if ours else None


def _by_promise(module: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the children with a head's name, and the others from last to first with extractors and the like at the end."""
    children = dict(module.named_children())
    # An identity with the name `fc` shows a removed classifier too.
    names = HEADS + (("fc",) if isinstance(children.get("fc"), nn.Identity) else ())
    heads = [children.pop(name) for name in names if name in children]
    backwards = [name for name in list(children)[::-1] if not name.lower().startswith(NO_CLASSIFIERS)]
    others = sorted(backwards, key=lambda name: name.lower().startswith(ASIDE))
    return heads, [children[name] for name in others]


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer, or a custom or adapter layer with the same attributes.

    A matrix between as many channels is one too (torch_geometric's linear layer).
    """
    weight = getattr(module, "weight", None)
    sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    presents = all(isinstance(size, int) for size in sizes) and isinstance(weight, Tensor)
    channels = (getattr(module, "out_channels", None), getattr(module, "in_channels", None))
    is_lazy = isinstance(weight, UninitializedParameter)
    is_matrix = isinstance(weight, Tensor) and not is_lazy and tuple(weight.shape) == channels
    return presents or is_matrix or isinstance(module, nn.Linear)


def _closing_convolution(module: nn.Module) -> nn.Module | None:
    """Return the 1x1 convolution if it is the last layer with weights.

    The search goes into sequences and into a block that holds one convolution alone (the output block of a U-Net).
    """
    last = [child for child in module.children() if _has_weights(child)][-1:]
    if last and isinstance(last[0], nn.Sequential):
        return _closing_convolution(last[0])
    layer = last[0] if last else module
    inner = [child for child in layer.children() if _has_weights(child)]
    if len(inner) == 1 and isinstance(inner[0], _CONVOLUTIONS) and not layer._parameters:
        layer = inner[0]
    return layer if isinstance(layer, _CONVOLUTIONS) and set(layer.kernel_size) == {1} else None
