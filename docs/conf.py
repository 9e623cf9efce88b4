"""Sphinx: how the pages of this folder become HTML (make docs)."""

import sys
from pathlib import Path

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
html_theme = "furo"
html_title = "espnet_des"
html_show_sourcelink = False

# Links such as options.md#sizes lead to headings, as they do where the files are read directly.
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
# The types are in the signatures; signatures of ESPnet's own classes name classes of its own.
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
copybutton_exclude = ".linenos, .gp"
