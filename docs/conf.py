"""How Sphinx makes a site of these pages: ``scripts/site FOLDER``. What it shows is all in it; nothing is loaded."""

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

project = "ztrooted"
extensions = ["myst_parser"]
exclude_patterns = [".DS_Store"]
html_theme = "furo"
html_title = "ztrooted"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
highlight_language = "none"
myst_heading_anchors = 4


def setup(app: Sphinx) -> None:
    """Pygments has no lexer for Cedar."""
    app.add_lexer("cedar", TextLexer)
