"""The documentation site, without Sphinx: every page has its place, every figure its command, every public name its entry."""

import ast
import re
from pathlib import Path

import pytest

import wdpurify
from wdpurify import PurifyWarning, exceptions, functional, lipschitz
from wdpurify._findings import FINDINGS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
CONF = (DOCS / "conf.py").read_text()
API = "\n".join(path.read_text() for path in sorted((DOCS / "api").glob("*.md")))


def _toctree_entries(page):
    """Pages that a page lists: `name`, or `title <name>`."""
    for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), flags=re.DOTALL):
        for line in block.splitlines():
            if line.strip() and not line.startswith(":"):
                yield re.sub(r".*<(.+)>$", r"\1", line.strip())


def _assigned(name):
    """The value of a constant of `docs/conf.py`."""
    (value,) = (
        node.value for node in ast.parse(CONF).body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    )
    return ast.literal_eval(value)


def test_every_page_is_listed_once_on_the_first_page():
    pages = {path for kind in ("*.md", "*.ipynb") for path in DOCS.rglob(kind)}
    names = sorted(path.relative_to(DOCS).with_suffix("").as_posix() for path in pages - {DOCS / "index.md"})
    assert sorted(_toctree_entries(DOCS / "index.md")) == names


def test_the_first_page_marks_the_two_lines_and_the_last_call_of_the_readme():
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)[:1]
    (marked,) = re.findall(r":emphasize-lines: (.*)", (DOCS / "index.md").read_text())
    lines = block.splitlines()
    first, second, last = (lines[int(number) - 1] for number in marked.split(","))
    assert "PurifyRegularizer.for_model(" in first
    assert "purify.criterion(" in second
    assert "purify.erase(" in last


def test_every_figure_is_in_the_gallery_below_a_command_whose_script_exists():
    kept = {*(ROOT / "benchmarks" / "figures").glob("*.png"), *DOCS.glob("*.png")}
    shown = set()
    for section in (DOCS / "gallery.md").read_text().split("\n## ")[1:]:
        figures = {(DOCS / link).resolve() for link in re.findall(r"!\[[^]]+\]\((\S+)\)", section)}
        scripts = re.findall(r"```\n[^`]*?(benchmarks/\w+\.py)", section)
        assert figures
        assert scripts
        assert all((ROOT / script).exists() for script in scripts)
        shown |= figures
    assert shown == kept


def test_there_are_ten_questions_or_more_and_each_answer_leads_on():
    sections = (DOCS / "faq.md").read_text().split("\n## ")[1:]
    assert len(sections) >= 10
    assert [section.splitlines()[0] for section in sections if "](" not in section] == []


def test_warnings_that_pages_name_exist():
    named = {name for path in DOCS.rglob("*.md") for name in re.findall(r"\b[A-Z]\w+Warning\b", path.read_text())}
    assert len(named) > 5
    assert {name for name in named if not hasattr(exceptions, name)} == set()


def test_tests_that_pages_name_exist():
    named = [name for path in DOCS.rglob("*.md") for name in re.findall(r"\b(test_\w+\.py)::(test_\w+)", path.read_text())]
    assert len(named) > 5
    assert [name for file, name in named if f"def {name}(" not in next((ROOT / "tests").rglob(file)).read_text()] == []


def test_addresses_are_links():
    pages = [*DOCS.rglob("*.md"), *ROOT.glob("*.md")]
    prose = {path.name: re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(), flags=re.DOTALL) for path in pages}
    bare = {name: re.findall(r"(?<![(<\"=])\bhttps?://\S+", text) for name, text in prose.items()}
    assert {name: found for name, found in bare.items() if found} == {}


def _reexported(path):
    return {name.asname for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom) for name in node.names}


def test_every_public_name_is_in_the_reference():
    described = set(re.findall(r"auto(?:class|function|module):: (?:\w+\.)*(\w+)", API))
    public = set(wdpurify.__all__) | (_reexported(ROOT / "wdpurify" / "audit" / "__init__.py") - {None})
    assert public - described - {"PurifyWarning"} == set()  # that one is described with the module of all warnings
    for path in (ROOT / "integrations").glob("[!_]*.py"):
        assert f"automodule:: wdpurify.integrations.{path.stem}" in API


def test_every_public_name_has_an_example_and_every_example_a_page_that_leads_on():
    examples = "\n".join(re.findall(r"```python\n(.*?)```", API, flags=re.DOTALL))
    formulas = {
        f"{module.__name__.split('.')[-1]}.{name}" for module in (functional, lipschitz) for name in _defined_in(module)
    }
    public = {*wdpurify.__all__, *(_reexported(ROOT / "wdpurify" / "audit" / "__init__.py") - {None}), *formulas}
    assert {name for name in public if name not in examples} == set()
    sections = re.split(r"^#+ ", API, flags=re.MULTILINE)
    assert [each.split("\n")[0] for each in sections if "autoclass::" in each and "](" not in each] == []


def _defined_in(module):
    return {
        name for name, each in vars(module).items() if getattr(each, "__module__", "") == module.__name__ and name[0] != "_"
    }


def test_every_page_that_includes_a_file_is_where_links_to_that_file_lead():
    included = {
        (path.parent / name).resolve().relative_to(ROOT).as_posix(): path.relative_to(DOCS).with_suffix("").as_posix()
        for path in DOCS.rglob("*.md")
        for name in re.findall(r"\{(?:literal)?include\} (\S+)", path.read_text())
    }
    assert _assigned("INCLUDED") == included


def test_what_the_site_is_made_with_is_in_the_extra():
    (extra,) = re.findall(r"^docs = \[(.*)\]", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    installed = set(re.findall(r'"([\w-]+)', extra))
    used = {name.replace("_", "-") for name in [*_assigned("extensions"), _assigned("html_theme")]}
    assert {name for name in used if not name.startswith("sphinx.")} <= installed


def test_make_docs_is_strict_and_what_it_builds_is_ignored_and_published():
    makefile = (ROOT / "Makefile").read_text()
    (command,) = re.findall(r"^SPHINX = (.*)", makefile, flags=re.MULTILINE)
    source, target = command.split()[-2:]
    assert source == "docs"
    assert "--fail-on-warning" in command
    assert "--fresh-env" in command
    assert _assigned("nitpicky") is True
    assert makefile.count("\t$(SPHINX)") == 2  # of `make docs` and `make check`
    assert f"{target.split('/')[0]}/" in (ROOT / ".gitignore").read_text().splitlines()
    assert f"path: {target}}}" in (ROOT / ".github" / "workflows" / "docs.yml").read_text()


def test_every_benchmark_is_on_the_page_that_leads_to_them():
    folder = ROOT / "benchmarks"
    page = (folder / "README.md").read_text()
    pages = {path.stem for path in folder.glob("*.md")} - {"README"}
    assert {name for name in pages if f"]({name}.md)" not in page} == set()
    scripts = {path.stem for path in folder.glob("*.py")}
    assert pages <= scripts
    assert {name for name in scripts - pages if f"`{name}.py`" not in page} == set()


#: The page whose paragraphs may hold many figures, as they are its content.
RECORD = "laboratory-book.md"
PROSE = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
    *(path for path in sorted(DOCS.glob("*.md")) if path.name != "changelog.md"),
    *sorted((DOCS / "loops").glob("*.md")),
    *sorted((DOCS / "api").glob("*.md")),
]
MOST_WORDS = 25
MOST_FIGURES = 3


def _paragraphs(text):
    """The prose of a page: paragraphs and list items, without fences, tables, headings, pictures, code and link targets."""
    text = re.sub(r"^ *(```|~~~).*?^ *\1 *$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"!\[[^]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    text = re.sub(r"(\{[\w:]+\})?`[^`]*`", "code", text)
    text = re.sub(r"^ *(\|.*|#.*|\{\.\w+\})$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^ *(- |\d{1,2}\. )", "\n\n", text, flags=re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph := re.sub(r"\s+", " ", re.sub(r"[*_[\]]", "", paragraph)).strip():
            yield paragraph


def _long_sentences(text):
    ends = re.compile(r"(?<=[.?!])[)\"]* (?=\W?[A-Z]|code|wdpurify)")
    sentences = (sentence for each in _paragraphs(text) for sentence in ends.split(each))
    return [sentence for sentence in sentences if len(re.findall(r"\w\S*", sentence)) > MOST_WORDS]


def _crowded_paragraphs(text):
    return [each for each in _paragraphs(text) if len(re.findall(r"(?<![\w.-])\d[\d.,]*", each)) > MOST_FIGURES]


def test_a_long_sentence_and_a_crowded_paragraph_are_seen():
    long = "This sentence is long" + " and it goes on" * 6
    hidden = f"# {long}\n\n| {long} |\n\n```\n{long}\n```\n\n![{long}](x.png) `{long}` [a link]({long})\n\n- 1\n- 2\n- 3\n- 4"
    text = f"{hidden}\n\nShort. {long}.\n\nIt rose by 1 %, 2 %,\n3.5 % and 4,000."
    assert _long_sentences(text) == [f"{long}."]
    assert _crowded_paragraphs(text) == ["It rose by 1 %, 2 %, 3.5 % and 4,000."]


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_sentences_are_short_and_figures_stand_in_tables(path):
    text = path.read_text()
    assert _long_sentences(text) == []
    assert path.name == RECORD or _crowded_paragraphs(text) == []


def test_the_first_page_begins_as_the_readme_does():
    """With the same first sentence, the same picture, what it shows, and the same snippet."""
    readme, index = ((ROOT / page).read_text() for page in ("README.md", "docs/index.md"))
    assert [*_paragraphs(index)][:2] == [*_paragraphs(readme)][:2]
    assert "](docs/first-picture.png)" in readme.split("## ")[0]
    assert "](first-picture.png)" in index.split("## ")[0]
    assert "{literalinclude} ../README.md" in index.split("## ")[0]


def test_each_warning_of_a_training_is_on_the_page_of_its_class_with_its_remedy():
    page = (DOCS / "api" / "warnings.md").read_text()
    sections = {section.split("\n")[0]: section for section in page.split("\n## ")}
    for what, (category, said, remedy) in FINDINGS.items():
        row = f"| {re.sub(r'{[^}]*}', '...', said)} | {remedy} |"
        assert row in sections.get(category.__name__, page), what
    kinds = {name for name, kind in vars(exceptions).items() if isinstance(kind, type) and issubclass(kind, PurifyWarning)}
    assert kinds - {"PurifyWarning"} <= set(sections)
