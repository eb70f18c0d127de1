"""Writes the audit as one HTML page without scripts, network or other files."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from ._optional import optional
from ._text import shown

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --ground: #fff; --faint: #6b6b6b; --line: #d5d5d5;
  --use: #0072b2; --balance: #0072b2; --doubtful: #8a5a00; --refuse: #b34700; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --ground: #161616; --faint: #a5a5a5; --line: #444;
  --use: #56b4e9; --balance: #56b4e9; --doubtful: #e69f00; --refuse: #ff8a4c; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); max-width: 70rem; margin: auto;
  padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem .4rem 0; border-top: 1px solid var(--line); }
thead th { border-top: 0; color: var(--faint); font-weight: normal; overflow-wrap: normal; }
.number { font-variant-numeric: tabular-nums; }
.audit tbody th, .audit td:nth-last-child(2) { min-width: 9ch; } .verdict { font-weight: bold; min-width: 9ch; }
.use { color: var(--use); } .use-with-balance { color: var(--balance); }
.doubtful { color: var(--doubtful); } .do-not-use { color: var(--refuse); }
dt { font-weight: bold; } dd { margin: 0 0 .6rem; } .faint { color: var(--faint); }
figure { margin: 1rem 0; } img { width: 100%; max-width: 60rem; background: #fff; }
pre { white-space: pre-wrap; border: 1px solid var(--line); padding: .6rem; }
@media screen and (max-width: 50rem) {
  .audit, .audit tbody { display: block; } .audit thead { display: none; }
  .audit tr { display: block; border-top: 1px solid var(--line); padding: .6rem 0; }
  .audit tbody :is(th, td) { display: block; border: 0; padding: 0; }
  .audit td::before { content: attr(data-head) ": "; color: var(--faint); font-weight: normal; }
}
@media print { :root { --ink: #000; --ground: #fff; --faint: #444; --line: #999; --use: #0072b2; --balance: #0072b2;
  --doubtful: #8a5a00; --refuse: #b34700; } body { font-size: 10px; max-width: none; } tr, figure, dd { break-inside: avoid; } }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>Label audit</title>
<style>{{ style }}</style>
</head>
<body>
<h1>Which label is fit to purify of?</h1>
<p>The best first. {{ evaluation }}</p>
<table class="audit">
<thead><tr>{% for head in heads %}<th scope="col">{{ head }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr><th scope="row">{{ row[0] }}</th>
<td class="verdict {{ row[1].replace(",", "").replace(" ", "-") }}" data-head="{{ heads[1] }}">{{ row[1] }}</td>
{% for cell in row[2:] %}
<td{% if not loop.last %} class="number"{% endif %} data-head="{{ heads[loop.index + 1] }}">{{ cell }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
{% if notes %}
<h2>Notes</h2>
<ul>{% for name, note in notes %}<li><b>{{ name }}</b>: {{ note }}</li>{% endfor %}</ul>
{% endif %}
<figure>
<img alt="Transfer effects and leakage of every label with their intervals; the table has the numbers." src="{{ picture }}">
</figure>
<h2>What the verdicts mean</h2>
<dl>{% for verdict, meaning in meanings.items() %}
<dt class="{{ verdict.replace(",", "").replace(" ", "-") }}">{{ verdict }}</dt><dd>{{ meaning }}</dd>
{% endfor %}</dl>
<h2>What the numbers mean</h2>
<dl>{% for name, meaning in numbers.items() %}<dt>{{ name }}</dt><dd>{{ meaning }}</dd>{% endfor %}</dl>
<h2>To repeat it</h2>
{% if command %}<pre>{{ command }}</pre>{% endif %}
<table>
<tbody>
{% for name, value in settings.items() %}
<tr><th scope="row">{{ name }}</th><td class="number">{{ value }}</td></tr>
{% endfor %}
</tbody>
</table>
<p class="faint">With {% for name, version in versions.items() %}{{ name }} {{ version }}{% if not loop.last %}, {% endif %}
{% endfor %}.
On a CPU the same seed, settings, rows and versions give the same numbers.</p>
</body>
</html>
"""

_NUMBERS = {
    "transfer effect": (
        "Balanced accuracy on the task of a linear probe, in points, after the network has learned the label, minus the same "
        "after it has learned shuffled values of it; with the 95 % interval. Negative or null: the label is irrelevant."
    ),
    "label alone": (
        "How far above chance, in points, the predicted label by itself tells the task class on the evaluation data; only "
        "where they are separate."
    ),
    "leakage": "Balanced accuracy with which a linear probe reads the label off the features as they are, and its p value.",
    "permuted": "The same for permuted labels: what chance gives.",
    "learned": "Balanced accuracy on the label after training on it, on rows that were kept out.",
    "Cramér's V": "How far the label goes with the task label in the task rows: 0 not at all, 1 one tells the other.",
}


def page(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    notes: Sequence[tuple[str, str]],
    evaluation: str,
    meanings: Mapping[str, str],
    settings: Mapping[str, Any],
    versions: Mapping[str, str],
    figure: Any,
    command: str,
) -> str:
    """The page as text; whatever is written into it is escaped, and of long or unprintable text a harmless form is shown.

    Args:
        heads, rows: the table; name and verdict come first, the reason last.
        notes: pairs of column and text.
        evaluation: which rows judged.
        meanings: of the verdicts.
        settings, versions: what the numbers depend on.
        figure: a matplotlib figure.
        command: that made it; empty where none did.
    """
    markup = optional("markupsafe", "the page").Markup

    def harmless(value: Any) -> Any:
        return value if isinstance(value, markup) else shown(str(value))

    jinja = optional("jinja2", "the page")
    environment = jinja.Environment(
        autoescape=True, finalize=harmless, undefined=jinja.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found: str = environment.from_string(_PAGE).render(
        style=markup(_STYLE),
        heads=heads,
        rows=rows,
        notes=notes,
        evaluation=evaluation,
        picture=markup(_embedded(figure)),
        meanings=meanings,
        numbers=_NUMBERS,
        command=markup.escape(_printable(command)),
        settings={name: "-" if value is None else value for name, value in settings.items()},
        versions=versions,
    )
    return found


def _printable(command: str) -> str:
    """Write a command in full length, for copying."""
    return shown(command, max(1, len(command)))


def _embedded(figure: Any) -> str:
    """Return the figure as a data URI; equal figures give equal bytes."""
    drawn = io.BytesIO()
    with optional("matplotlib", "the plot").rc_context({"svg.hashsalt": "wdpurify"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(drawn.getvalue()).decode()
