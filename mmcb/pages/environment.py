"""The jinja2 environment of every page and card: templates beside their module, and the look.

No network, no script: a page's head forbids both, styles and charts stand in the file. Every text
from a model or a data set goes through jinja2's escaping.
"""

from __future__ import annotations

from pathlib import Path

import jinja2


def page_environment(folder: Path) -> jinja2.Environment:
    """An environment for the HTML templates in `folder`, which may include `head.html.j2`."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
