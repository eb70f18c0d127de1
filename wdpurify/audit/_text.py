"""Makes text of foreign data harmless for display: names and values may have any content and length."""

import re

#: Characters of one piece of text that are shown.
LONGEST = 400


def shown(text: str, longest: int = LONGEST) -> str:
    """Return one line of printable characters: escape sequences and newlines are spelt out, long text is cut."""
    cut = text if len(text) <= longest else text[: longest - 1] + "…"
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in cut)


def in_markdown(text: str) -> str:
    """Escape text for Markdown and HTML."""
    return re.sub(r"([\\`*_{}\[\]<>$|&])", r"\\\1", shown(text))


def in_plots(text: str, longest: int = 40) -> str:
    """Escape text for matplotlib, which reads mathematics."""
    return shown(text, longest).replace("$", r"\$")
