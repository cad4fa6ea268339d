"""Sphinx configuration. Builds offline; `make docs` treats warnings as errors."""

import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # the latter for the benchmark

import commands  # noqa: E402 beside this file
import docstrings  # noqa: E402
import gallery  # noqa: E402
import ledger  # noqa: E402
import passports  # noqa: E402
import records  # noqa: E402
import studies  # noqa: E402

project = "forwardgrad"
author = "The forwardgrad authors"
copyright = "the forwardgrad authors, Apache-2.0"
release = version = metadata.version("forwardgrad")
language = "en_GB"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "generated/*", "tasks/generated/*"]  # what pages include
smartquotes_action = "qe"  # quotes and ellipses; two hyphens begin an option
nitpicky = False  # types of torch would be looked up on the network

html_theme = "furo"
html_title = "forwardgrad"
html_show_sourcelink = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

default_role = "code"
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False


sphinx_gallery_conf = gallery.config(HERE)


def setup(app) -> None:
    passports.write_pages(HERE / "methods" / "generated")
    records.write_tables(HERE / "generated")
    ledger.write(HERE / "generated")
    commands.write(HERE / "generated" / "commands.md")
    studies.write(HERE / "tasks", HERE / "tasks" / "generated")
    docstrings.setup(app)
