"""Checks once and briefly whether the hub can be reached; its own libraries retry for most of a minute."""

from ._optional import optional

#: Seconds to wait for the hub, to connect and then to answer.
PATIENCE = 5.0
#: Files of weights that timm looks for on the hub.
WEIGHTS: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")


def check_hub(what: str, instead: str) -> None:
    """Ask the hub for nothing but an answer; in offline mode there is nobody to ask.

    Args:
        what: is wanted of it, for the message.
        instead: what to do without the hub, for the message.

    Raises:
        ValueError: if it cannot be reached.
    """
    hub = optional("huggingface_hub", what)
    if hub.constants.HF_HUB_OFFLINE:
        return
    try:
        optional("huggingface_hub.utils", what).get_session().head(hub.constants.ENDPOINT, timeout=PATIENCE)
    except Exception as error:  # its HTTP library was another one before, with kinds of its own
        why = f"the hub at {hub.constants.ENDPOINT} cannot be reached ({str(error) or type(error).__name__})"
        raise ValueError(f"{what} cannot be had, as {why}: {instead}") from error


def has_cached(repository: str, files: tuple[str, ...], revision: str | None = None) -> bool:
    """Whether the hub's cache has one of the files of a model."""
    hub = optional("huggingface_hub", "a look into its cache")
    return any(isinstance(hub.try_to_load_from_cache(repository, name, revision=revision), str) for name in files)
