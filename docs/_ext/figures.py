"""Figures are SVG images that follow the page: light or dark, described for who cannot see.

matplotlib draws text, axes, grid and background in the sentinel colours of `ROLES`; `to_svg`
puts CSS variables in their place. A browser hands the page's colour scheme on to the images
in it, so one file serves both themes. Scripts (through `scraper`) and MyST pages (through
`install_in_kernel`) are drawn alike, and twice the same figure is twice the same file.
"""

from __future__ import annotations

import html
import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl

if TYPE_CHECKING:
    from docutils import nodes
    from matplotlib.figure import Figure
    from sphinx.application import Sphinx
    from sphinx.config import Config


class Role(NamedTuple):
    """A colour that the theme decides: where matplotlib uses it, and what it becomes."""

    sentinel: str
    light: str
    dark: str
    settings: tuple[str, ...]


# light and dark: the page's own colours, see _static/initguide.css
ROLES = {
    "text": Role("#010203", "#1f2933", "#d5dce3", ("text.color", "axes.labelcolor")),
    "tick": Role("#010305", "#46535f", "#a3aeb9", ("xtick.labelcolor", "ytick.labelcolor")),
    "edge": Role(
        "#020305",
        "#7b8794",
        "#77828d",
        ("axes.edgecolor", "xtick.color", "ytick.color", "legend.edgecolor", "patch.edgecolor"),
    ),
    "grid": Role("#030507", "#9aa5b1", "#616e7c", ("grid.color",)),
    "background": Role(
        "#fdfcfb",
        "#ffffff",
        "#14181e",
        ("figure.facecolor", "figure.edgecolor", "axes.facecolor"),
    ),
}
STYLE = "initguide.initguide"  # the package's own style sheet: sizes, fonts, grid
_DETERMINISTIC = {"svg.fonttype": "path", "svg.hashsalt": "initguide"}
_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_STARTUP = """\
import sys
sys.path.insert(0, {folder!r})
import figures, scrapers
figures.install_in_kernel(get_ipython())
scrapers.install_in_kernel()
"""


def theme() -> dict[str, str]:
    """Return the rcParams that draw with the sentinel colours."""
    return {name: role.sentinel for role in ROLES.values() for name in role.settings}


def reset(gallery_conf: dict[str, Any] | None = None, fname: str | None = None) -> None:
    """Give each page the same fresh matplotlib: the package's style in the site's colours."""
    mpl.use("agg") if gallery_conf else None
    mpl.rcdefaults()
    import matplotlib.pyplot as plt

    plt.close("all")
    plt.style.use(STYLE)
    mpl.rcParams.update(theme())


def describe(figure: Figure) -> str:
    """Describe a figure in words: its titles, its axes, its legend."""
    parts = [figure.get_suptitle()]
    for axes in figure.axes:
        if axes.get_label() == "<colorbar>":
            continue
        labels = [("horizontal", axes.get_xlabel()), ("vertical", axes.get_ylabel())]
        parts.append(axes.get_title(loc="left") or axes.get_title())
        parts += [f"{name} axis: {label}" for name, label in labels if label]
    for legend in [*figure.legends, *(axes.get_legend() for axes in figure.axes)]:
        if legend is not None:
            parts.append("shown: " + ", ".join(text.get_text() for text in legend.get_texts()))
    lines = (re.sub(r"[$\\{}]", "", " ".join(part.split())).rstrip(".") for part in parts)
    return ". ".join(line[0].upper() + line[1:] for line in dict.fromkeys(lines) if line)


def to_svg(figure: Figure) -> str:
    """Return a figure as SVG whose colours a CSS variable each decides."""
    buffer = io.StringIO()
    with mpl.rc_context(_DETERMINISTIC):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata=_METADATA)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for name, role in ROLES.items():
        svg = svg.replace(role.sentinel, f"var(--{name})")
    light = "".join(f"--{name}:{role.light};" for name, role in ROLES.items())
    dark = "".join(f"--{name}:{role.dark};" for name, role in ROLES.items())
    style = f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    head = f"<title>{html.escape(describe(figure), quote=False)}</title>\n<style>{style}</style>"
    return re.sub(r"(<svg\b[^>]*>)", lambda match: f"{match[1]}\n{head}", svg, count=1)


def scraper(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Save the figures that a block of a gallery script left open; return the RST for them."""
    import matplotlib.pyplot as plt
    from sphinx_gallery.scrapers import figure_rst

    rst = []
    for number, template in zip(plt.get_fignums(), block_vars["image_path_iterator"], strict=False):
        figure = plt.figure(number)
        path = Path(template).with_suffix(".svg")
        path.write_text(to_svg(figure), encoding="utf-8")
        rst.append(figure_rst([str(path)], gallery_conf["src_dir"], describe(figure)))
    plt.close("all")
    return "".join(rst)


def install_in_kernel(shell: Any) -> None:
    """Make a Jupyter kernel show its figures as `to_svg` writes them."""
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    reset()
    plt.switch_backend("module://matplotlib_inline.backend_inline")
    for kind, formatter in shell.display_formatter.formatters.items():
        formatter.pop(Figure, None)
        if kind == "image/svg+xml":
            formatter.for_type(Figure, to_svg)


def prepare_kernels(app: Sphinx, config: Config) -> None:
    """Point Jupyter kernels to a start-up file of ours: `install_in_kernel`."""
    profile = Path(app.outdir).parent / "ipython" / "profile_default" / "startup"
    profile.mkdir(parents=True, exist_ok=True)
    startup = _STARTUP.format(folder=str(Path(__file__).parent))
    (profile / "00-figures.py").write_text(startup, encoding="utf-8")
    quiet = "get_config().Application.log_level = 40  # it would tell how to encrypt TCP\n"
    (profile.parent / "ipython_kernel_config.py").write_text(quiet, encoding="utf-8")
    os.environ["IPYTHONDIR"] = str(profile.parents[1])


def add_descriptions(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Take the alternative text of a MyST page's figures from the title within the SVG."""
    from docutils import nodes

    for image in doctree.findall(nodes.image):
        path = Path(app.srcdir, image["uri"].lstrip("/"))
        if not image.get("alt") and path.suffix == ".svg" and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")  # a failed page has no SVG
            found = re.search(r"<title>(.*?)</title>", text, re.DOTALL)
            image["alt"] = html.unescape(found[1]) if found else ""


def setup(app: Sphinx) -> dict[str, bool]:
    """Prepare kernels, describe figures; conf.py names `scraper`."""
    app.connect("config-inited", prepare_kernels)
    # Others draw too, alike whether or not scripts have been executed before.
    app.connect("builder-inited", lambda app: mpl.rcdefaults(), priority=600)
    app.connect("doctree-resolved", add_descriptions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
