"""The audit's report: the table in a narrow terminal, and the page of HTML, with names and values of any kind."""

import base64
import io
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

pytest.importorskip("sklearn")
from rich.console import Console

from wdpurify.audit import Association, Audit, Column, ColumnAudit, Leakage, Transfer
from wdpurify.audit._verdict import VERDICTS

HOSTILE = "$x_{$ [red]|<script>alert(1)</script>\" onload='x\x1b[31m`*{{ 7 * 7 }}\nnext" + "n" * 10_000


def _entry(name, verdict="use", known=False, counts=None, reason="irrelevant"):
    column = Column(name, counts or {"black": 1200, "blond": 400}, 0, "", ())
    transfer = Transfer(0.7, 0.8, -0.111, -0.147, -0.075, 0.813, True, True, -0.052, -0.08, 0.01)
    leakage = Leakage(0.819, 0.782, 0.855, 0.167, 0.0099, 100, 6, 400)
    return ColumnAudit(column, verdict, reason, transfer, leakage, Association(known, 0.66, (), known, {}))


@pytest.fixture
def found():
    names = ("hair", "background_colour", "smiling", "Wearing_Lipstick")
    entries = [_entry(name, verdict, known=name == "smiling") for name, verdict in zip(names, VERDICTS, strict=True)]
    entries.append(ColumnAudit(Column("person", {"a": 1}, 0, "x", ()), "do not use", "nearly one per row", None, None, None))
    settings = {"seed": 7, "margin": 0.1, "layer": None, "model": "Net"}
    return Audit(tuple(entries), "Transfer was evaluated on separate data.", settings, {"Python": "3.11", "torch": "2.14"})


def _printed(found, width):
    file = io.StringIO()
    found.print(Console(file=file, width=width, force_terminal=False))
    return file.getvalue()


@pytest.mark.parametrize("width", [72, 80, 100, 200])
def test_no_heading_and_no_number_is_cut_in_a_narrow_terminal(found, width):
    out = _printed(found, width)
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= width
    words = set(out.split())
    wanted = "label verdict transfer effect alone leakage (permuted) learned Cramér's V"
    wanted += " doubtful -11.1 -14.7 -7.5 -5.2 81.9 (16.7) 0.010 81.3 0.66 predicted"
    assert set(wanted.split()) - words == set()
    assert "do not use" in out


def test_a_long_label_is_folded_and_in_the_end_cut():
    lines = _printed(Audit((_entry("n" * 300),), "", {}), 80).splitlines()
    folded = [
        line.split()[0] for line in lines if line.strip().startswith("n") and ":" not in line and len(line.split()[0]) < 20
    ]
    assert "".join(folded) == "n" * 59 + "…"
    assert "-11.1" in " ".join(lines).split()


class Page(HTMLParser):
    """Checks that tags are closed, and keeps tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data


def test_the_page_has_the_numbers_their_meaning_and_how_to_repeat_them(found):
    page = Page(found.html("python -m wdpurify.audit --seed 7"))
    wanted = ("-11.1 (-14.7 to -7.5)", "81.9, p = 0.010", "0.66 predicted", "black 1200, blond 400", "nearly one per row")
    wanted += (
        found.evaluation,
        "a function of the task label",
        "below the margin, 10 points",
        "python -m wdpurify.audit --seed 7",
    )
    wanted += ("torch 2.14", *VERDICTS)
    assert [text for text in wanted if text not in page.text] == []
    assert re.search(r"seed\s*7\s", page.text)
    assert "None" not in page.text
    assert "pre" not in Page(found.html()).tags


def test_the_page_needs_nothing_beside_itself(found):
    text = found.html()
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:") in page.attributes
    outside = [value for name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert [value[:26] for value in outside] == ["data:image/svg+xml;base64,"]
    assert not re.search(r"url\(|@import|https?:", text)
    picture = base64.b64decode(outside[0].partition(",")[2])
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    assert found.html() == text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_hostile_names_and_values_are_text_on_the_page():
    audit = Audit(
        (_entry(HOSTILE, counts={HOSTILE: 3, "\x1b]0;title\x07": 4}, reason=HOSTILE, known=True),), HOSTILE, {HOSTILE: HOSTILE}
    )
    text = audit.html(f"python {HOSTILE}")
    page = Page(text)
    assert not {"script", "red"} & set(page.tags)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert not set("\x1b\x07") & set(text)
    assert "n" * 10_000 not in text.partition("<pre>")[0]
