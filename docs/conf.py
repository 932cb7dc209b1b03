"""Settings of the documentation: ``make docs``."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.util.nodes import make_refnode

import bellis

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "bellis"
author = "the bellis developers"
copyright = "the bellis developers"
release = version = bellis.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "how-to/_pictures"]
default_role = "py:obj"

html_theme = "furo"
html_title = f"bellis {version}"

myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_ivar = True

# Names that have no page here: of other libraries, short names for types, and what comes with later versions.
OUTSIDE = re.compile(
    r"(numpy|np|npt|collections\.abc|fractions|pathlib|os|enum|typing)\."
    r"|(AbstractContextManager|Any|Callable|InitVar|Iterable|Iterator|Literal|Mapping|NDArray|Path|Protocol|Self|Sequence)$"
    r"|(Check|CoordinateLike|DTypes?|Edge|Fit|Ints|Lut|Method|Missing|OnChanged|RationalsLike|Regions|Snap|_?Source)$"
    r"|(AnyDescription|Compression|DatasetPath|Index|Marker|MissingPolicy|Payload|RoiLike|Cluster|Security)$"
    r"|(AttributeType|GraphPlace|Ids|Names|Places|Policy|Rows|Values)$"
    r"|(Mapping\[str|dict\[int|tuple\[int|(str \| )?tuple\[str|low|high)$"
)

_set_aside: dict[str, list[str]] = {}


def set_aside(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Keep napoleon from reading "Half: the other half" under a field as "type: description"."""
    del app, value, options
    if what in {"attribute", "property"}:
        _set_aside[name] = lines[:]
        lines.clear()


def put_back(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Undo `set_aside`, when napoleon is through."""
    del app, what, value, options
    lines[:] = _set_aside.pop(name, lines)


def draw_pictures(app: Sphinx) -> None:
    """Run the pages that show pictures of their own making: ``_pictures/NAME.png)`` is what their snippets save."""
    del app
    from snippets import run_page

    os.environ.setdefault("MPLBACKEND", "agg")
    pictures = HERE / "how-to" / "_pictures"
    pictures.mkdir(exist_ok=True)
    for page in sorted([*HERE.glob("*.md"), *HERE.glob("how-to/*.md")]):
        named = re.findall(r"\((?:how-to/)?_pictures/([\w-]+\.png)\)", page.read_text())
        drawn = [
            (pictures / name).exists() and (pictures / name).stat().st_mtime > page.stat().st_mtime for name in named
        ]
        if not all(drawn):
            with tempfile.TemporaryDirectory() as folder, redirect_stdout(None):
                run_page(page, Path(folder))
                for name in named:
                    shutil.move(Path(folder) / name, pictures / name)


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Node) -> nodes.Node | None:
    """Find what docstrings and annotations call by its short name, or by the room that it is made in."""
    target = str(node.get("reftarget"))
    if node.get("refdomain") != "py" or OUTSIDE.match(target.rpartition(".")[2]) or OUTSIDE.match(target):
        return content if node.get("refdomain") == "py" else None
    objects = env.domains.python_domain.objects
    ends = [f".{target}", f".{target.rpartition('.')[2]}"]
    for end in ends:
        found = sorted((full for full in objects if full.startswith("bellis.") and full.endswith(end)), key=len)
        if found and (len(found) == 1 or len(found[0]) < len(found[1])):
            entry = objects[found[0]]
            return make_refnode(app.builder, str(node.get("refdoc")), entry.docname, entry.node_id, content, found[0])
    return None


def setup(app: Sphinx) -> None:
    """Register with Sphinx."""
    app.connect("builder-inited", draw_pictures)
    app.connect("autodoc-process-docstring", set_aside, priority=400)
    app.connect("autodoc-process-docstring", put_back, priority=600)
    app.connect("missing-reference", resolve)
