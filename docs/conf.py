"""Sphinx: how the pages of this folder become HTML (make docs)."""

import os
import sys
from pathlib import Path

from sphinx import addnodes

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

project = "espnet_des"
author = "the authors of espnet_des"
copyright = "the authors of espnet_des, Apache-2.0"
version = release = "0.1.0"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
smartquotes = False  # they would make one dash of the two before an option
html_theme = "furo"
html_title = "espnet_des"
html_show_sourcelink = False

# Links such as options.md#sizes lead to headings, as they do where the files are read directly.
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
# The types are in the signatures; signatures of ESPnet's own classes name classes of its own.
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
# Attributes of a class in a list of its own: those of a NamedTuple are members besides.
napoleon_use_ivar = True


def link_to_files(app, doctree) -> None:
    """Let links to Markdown files outside of this folder lead to the files themselves.

    MyST takes them for pages of the documentation, and would not find them.
    """
    for link in list(doctree.findall(addnodes.pending_xref)):
        page = link.get("reftarget", "")
        if link.get("refdomain") != "doc" or page in app.env.found_docs:
            continue
        own = Path(page).name.lower()
        if own in app.env.found_docs:  # CHANGELOG.md is included by changelog.md
            link["reftarget"] = own
            continue
        path = os.path.relpath(f"{page}.md", app.srcdir)
        file = addnodes.download_reference("", "", *link.children, reftarget=path)
        file["refdoc"] = link["refdoc"]
        link.replace_self(file)


def setup(app) -> None:
    # Before the collector of files to copy, which listens to the same event.
    app.connect("doctree-read", link_to_files, priority=400)
