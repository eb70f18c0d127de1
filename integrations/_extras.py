"""How an extra of this package is installed."""


def install(extra: str) -> str:
    """The command that installs an extra, for messages. No package index has this package yet, so it names a clone."""
    return f'pip install ".[{extra}]" in a clone of wdpurify'
