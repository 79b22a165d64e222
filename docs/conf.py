"""Sphinx: `make docs` builds the pages and runs the notebooks; nothing is fetched, and a warning is an error."""

import shutil
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from pydantic_core import PydanticUndefined
from sphinx.util.docutils import SphinxDirective

import bayesflat
from bayesflat.cli import cli
from bayesflat.config import Connections, RunConfig

HERE = Path(__file__).parent

project = "bayesflat"
author = "The bayesflat developers"
copyright = author
release = version = bayesflat.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
templates_path = ["_templates"]
default_role = "py:obj"
smartquotes = False  # what is quoted may be copied
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings say it
autodoc_preserve_defaults = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

# notebooks are kept without output, and run anew for each build
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_ipywidgets_js = {}  # nothing from the network

html_theme = "pydata_sphinx_theme"
html_title = "bayesflat"
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "navbar_align": "left",
    "footer_start": ["copyright"],
    "footer_end": [],
    "header_links_before_dropdown": 5,  # in one row with the search at 1300 pixels
}
# the menu above is enough, and code needs the room
_WIDE = ("index", "start", "model", "howto", "lsst*", "notebooks", "notebooks/*", "commands", "config", "changelog")
html_sidebars = {name: [] for name in _WIDE}
html_static_path = ["_static"]
html_css_files = ["bayesflat.css"]
html_show_sourcelink = False
html_math_renderer = "mathml"

# Sphinx reads below this folder only
shutil.rmtree(HERE / "notebooks", ignore_errors=True)
shutil.copytree(HERE.parent / "notebooks", HERE / "notebooks", ignore=shutil.ignore_patterns(".*"))


class ConfigFields(SphinxDirective):
    """A table of the fields of `RunConfig`: name, default, what it is."""

    def run(self):
        """The table, from the fields themselves."""
        lines = ["| field | default | what |", "|---|---|---|"]
        for name, field in RunConfig.model_fields.items():
            if name == "connections":
                default = "see below"
            elif field.default is PydanticUndefined:
                default = "required"
            else:
                default = f"`{_shown(field.default)}`"
            lines.append(f"| `{name}` | {default} | {_cell(field.description)} |")
        lines += ["", "`connections` holds names of dataset types:", "", "| field | default |", "|---|---|"]
        lines += [f"| `connections.{name}` | `{field.default}` |" for name, field in Connections.model_fields.items()]
        return self.parse_text_to_nodes("\n".join(lines))


class CommandHelp(SphinxDirective):
    """The help of each command, as the terminal shows it."""

    def run(self):
        """A section for each, from the commands themselves."""
        lines = []
        for name, command in cli.commands.items():
            context = command.make_context(f"bayesflat {name}", [], resilient_parsing=True)
            lines += [f"## bayesflat {name}", "", "```text", command.get_help(context), "```", ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def _shown(value):
    """A default as `-c` takes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(words):
    return words.replace("|", "\\|").replace("<", "&lt;").replace("_", "\\_")


# formulas as MathML, which browsers draw themselves: no script, no network
def _inline(self, node):
    self.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _block(self, node):
    self.body.append(f'<div class="formula">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app):
    """Register what is above."""
    app.add_directive("config-fields", ConfigFields)
    app.add_directive("command-help", CommandHelp)
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
