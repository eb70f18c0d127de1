"""Opens models by name: a timm backbone or ``package.module:callable``, with published weights or those of a file."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ._hub import WEIGHTS, check_hub, has_cached
from ._optional import optional
from ._weights import load_weights

#: What to do where weights are out of reach.
INSTEAD = (
    "give the weights as a file (`--weights FILE`), go without (`--no-pretrained`; `pretrained=False` in Python), or name "
    "another hub in HF_ENDPOINT"
)


class Backbone(nn.Module):
    """A timm model without its classifier, for images in [0, 1].

    Args:
        name: as timm knows it.
        pretrained: load its published weights, from the cache or the hub.
        options: for ``timm.create_model``; a number of classes is of no account.

    Raises:
        ValueError: for a name that timm does not know, with the nearest ones; or if its weights are out of reach.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, *, pretrained: bool = True, options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        timm = optional("timm", "a backbone by name")
        if not name.startswith(("hf-hub:", "local-dir:")) and not timm.is_model(name.partition(".")[0]):
            near = timm.list_models(f"*{name.partition('.')[0][:6]}*")[:5]
            raise ValueError(f"`model` must be a name that timm knows, got {name!r}; near are {', '.join(near) or 'none'}")
        try:
            _check_published(timm, name, pretrained)
            self.network = timm.create_model(name, **{**(options or {}), "pretrained": pretrained, "num_classes": 0})
        except OSError as error:  # the hub's own kinds among them
            raise ValueError(f"`model` {name!r}: its published weights cannot be had ({error}): {INSTEAD}") from error
        except (RuntimeError, optional("safetensors", "a backbone by name").SafetensorError) as error:  # such as an unknown tag
            raise ValueError(f"`model` {name!r} cannot be made by timm: {error}") from error
        self.name = name
        config = timm.data.resolve_model_data_config(self.network)
        self.image_size = int(config["input_size"][-1])
        for part in ("mean", "std"):
            self.register_buffer(part, torch.tensor(config[part]).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Features, ``(batch, dim)``, of images ``(batch, 3, height, width)`` in [0, 1]."""
        found: Tensor = self.network((images - self.mean) / self.std)
        return found


def open_model(
    name: str, *, pretrained: bool = True, weights: Path | None = None, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """A model by name.

    Args:
        name: of a timm model, whose classifier is left out; or ``package.module:callable``, which is imported and called.
        pretrained: load a timm model's published weights, where no file is given.
        weights: file of the model's ``state_dict()``, of torch or safetensors; nothing in it is run. What it holds for a timm
            model's classifier is left out.
        options: for the callable, or for ``timm.create_model``.

    Raises:
        ValueError: if there is no such model, it is no module, or the weights are not its own or out of reach.
    """
    if ":" in name and not name.startswith(("hf-hub:", "local-dir:")):
        model = called(name, options or {}, argument="model")
        if weights is not None:
            load_weights(model, weights)
        return model
    backbone = Backbone(name, pretrained=pretrained and weights is None, options=options)
    if weights is not None:
        classifier = backbone.network.pretrained_cfg.get("classifier") or ()
        heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        load_weights(backbone.network, weights, leave_out=tuple(f"{head}." for head in heads))
    return backbone


def called(name: str, options: Mapping[str, Any], *, argument: str) -> nn.Module:
    """What a callable returns, named as ``package.module:callable``, with dots for what is within a class.

    Args:
        name: of the callable.
        options: for it.
        argument: what to call ``name`` in errors.

    Raises:
        ValueError: if there is no such callable, or it returns no module.
    """
    module, _, path = name.partition(":")
    try:
        made: Any = importlib.import_module(module)
        for part in path.split("."):
            made = getattr(made, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"`{argument}` {name!r} cannot be imported, as package.module:callable: {error}") from error
    if not callable(made):
        raise ValueError(f"`{argument}` {name!r} must be something to call, got {type(made).__name__}")
    model = made(**options)
    if not isinstance(model, nn.Module):
        raise ValueError(f"`{argument}` {name!r} must return a torch.nn.Module, got {type(model).__name__}")
    return model


def _check_published(timm: Any, name: str, pretrained: bool) -> None:
    """Raise an error at once if a model's description or weights are only on the hub and the hub cannot be reached."""
    published = ""
    files = WEIGHTS
    if name.startswith("hf-hub:"):
        published = name.removeprefix("hf-hub:")
        files = ("config.json",)
    elif pretrained and not name.startswith("local-dir:"):
        config = timm.models.get_pretrained_cfg(name)
        published = getattr(config, "hf_hub_id", None) or ""
        files = (config.hf_hub_filename,) if getattr(config, "hf_hub_filename", None) else WEIGHTS
    repository, _, revision = published.partition("@")
    if repository and not has_cached(repository, files, revision or None):
        check_hub(f"`model` {name!r}: its published weights", INSTEAD)
