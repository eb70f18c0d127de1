"""How the documentation site is made from this folder; `make docs` builds it.

Why Sphinx: the docstrings are written in its markup, a link or a name that leads nowhere ends the build, and the search works
from a folder, without a server or a network. The pages are plain Markdown (read by MyST), so that GitHub shows them too.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import metadata
from importlib.util import module_from_spec
from pathlib import Path

from docutils import nodes
from sphinx import addnodes

import wdpurify

LINKS = dict(line.split(", ") for line in metadata("wdpurify").get_all("Project-URL"))
REPOSITORY = LINKS["Source"]
ROOT = Path(__file__).parent.parent
#: Files outside of this folder that a page includes, by their path in the repository.
INCLUDED = {
    "README.md": "index",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "SECURITY.md": "security",
    "benchmarks/README.md": "benchmarks/README",
    "benchmarks/digits.md": "benchmarks/digits",
    "benchmarks/fer.md": "benchmarks/fer",
    "benchmarks/overhead.md": "benchmarks/overhead",
    "benchmarks/own_labels.md": "benchmarks/own_labels",
    "benchmarks/modalities.md": "benchmarks/modalities",
    "benchmarks/pictures.md": "benchmarks/pictures",
    "benchmarks/separation.md": "benchmarks/separation",
}
#: What the integrations take from the libraries that they adapt: the docstrings are read without these libraries.
STAND_INS = {
    "accelerate": ["Accelerator"],
    "datasets": ["ClassLabel", "Dataset", "Features", "IterableDataset"],
    "datasets.distributed": ["split_dataset_by_node"],
    "lightning.pytorch": ["Callback"],
    "timm.task": ["TrainingTask"],
    "transformers": ["Trainer", "TrainerCallback"],
    "transformers.trainer_utils": ["get_last_checkpoint"],
}

project = "wdpurify"
author = "the wdpurify developers"
release = version = wdpurify.__version__
copyright = author
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
default_role = "code"
nitpicky = True
nitpick_ignore = [("py:class", "PurifyOptions")]  # the constructor's options, passed on
#: Types of other libraries: their pages are on the network, where the build does not go.
nitpick_ignore_regex = [
    ("py:.*", rf"({'|'.join(['torch', 'collections', 'typing', 'typing_extensions', 'pathlib', *STAND_INS])})\..*"),
]

myst_enable_extensions = ["attrs_block"]
myst_heading_anchors = 4
nb_execution_mode = "off"

autodoc_member_order = "bysource"
autodoc_mock_imports = ["numpy", "scipy", "sklearn"]
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"
napoleon_attr_annotations = False
napoleon_numpy_docstring = False

copybutton_selector = "div:not(.highlight-diff) > div.highlight > pre"
copybutton_exclude = ".linenos, .gp, .go"  # of doctests neither prompts nor results

html_theme = "furo"
html_title = "wdpurify"
html_baseurl = LINKS["Documentation"]
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False


def _stand_in(name, members):
    """A module that holds empty classes of these names, in place of a library."""
    package, _, last = name.rpartition(".")
    if package and package not in sys.modules:
        _stand_in(package, [])
    module = module_from_spec(ModuleSpec(name, None, is_package=True))
    vars(module).update({member: type(member, (), {"__module__": name}) for member in members})
    sys.modules[name] = module
    if package:
        setattr(sys.modules[package], last, module)


def _file_behind(link, here):
    """The file that a link leads to, and the anchor in it."""
    name, _, anchor = link["reftarget"].partition("#")
    if link["refdomain"] == "doc":  # a file, found from the page
        return Path(f"{here / name}.md").resolve(), link["reftargetid"]
    if isinstance(link, addnodes.download_reference):
        return (here / link["refdoc"]).parent.joinpath(name).resolve(), None
    source = link.source or link.document["source"]  # not found from the page: from the file that the page includes
    return Path(source).parent.joinpath(name).resolve(), anchor or None


def _leave_the_folder(app, doctree):
    """Lead links to files outside of this folder to the page that includes the file, or to the repository."""
    here = Path(app.srcdir)
    links = [*doctree.findall(addnodes.pending_xref), *doctree.findall(addnodes.download_reference)]
    for link in (link for link in links if link["reftype"] == "myst"):
        path, anchor = _file_behind(link, here)
        if not (path.is_file() and path.is_relative_to(ROOT)):
            continue
        name = path.relative_to(ROOT).as_posix()
        page = INCLUDED.get(name) or (name.removeprefix("docs/").removesuffix(".md") if path.is_relative_to(here) else None)
        if page is not None:
            link.attributes.update(refdomain="doc", reftarget=page, reftargetid=anchor)
        else:
            link.replace_self(nodes.reference("", "", *link.children, refuri=f"{REPOSITORY}/blob/main/{name}"))


def setup(app):
    for name, members in STAND_INS.items():
        _stand_in(name, members)
    sys.modules["timm.task"].TrainingTask.get_trainable_module = None  # by which tasks of a newer timm are recognised
    app.connect("doctree-read", _leave_the_folder, priority=100)  # before files that links lead to are copied into the site
