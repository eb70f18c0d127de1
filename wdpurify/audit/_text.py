"""Text of other people's data, made harmless where it is shown: names and values may hold anything, of any length."""

import re

#: Characters of one piece of text that are shown.
LONGEST = 400


def shown(text: str, longest: int = LONGEST) -> str:
    """One line of printable characters: escape sequences and newlines are spelt out, the end of long text is cut off."""
    cut = text if len(text) <= longest else text[: longest - 1] + "…"
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in cut)


def in_markdown(text: str) -> str:
    """The same where Markdown and HTML would read signs of it as their own."""
    return re.sub(r"([\\`*_{}\[\]<>$|&])", r"\\\1", shown(text))


def in_plots(text: str, longest: int = 40) -> str:
    """The same where matplotlib would read mathematics."""
    return shown(text, longest).replace("$", r"\$")
