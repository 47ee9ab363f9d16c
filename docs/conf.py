"""The site: MyST pages that myst-nb executes, scripts that sphinx-gallery executes.

Each file in ``_ext`` says in its first line what it is for. Nothing on the site is loaded
from elsewhere, and building it twice gives the same bytes except for one table of times.
"""

import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from urllib.parse import urlsplit

from sphinx.errors import ConfigError
from sphinx_gallery.sorting import ExplicitOrder

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

# -- The project ---------------------------------------------------------------------------

project = "initguide"
author = "The initguide authors"
project_copyright = author
version = release = installed_version("initguide")

# Where it lives. A published build sets both; any other is served from one's own machine.
REPOSITORY = os.environ.get("GITHUB_REPOSITORY", "initguide/initguide")
SITE = os.environ.get("INITGUIDE_SITE_URL", "http://localhost:8000/")
install_line = f"pip install {SITE}wheel/initguide-{version}-py3-none-any.whl"

# The order in which a student reads them. A script that is not listed, or a name without a
# script, fails the build.
tutorials = [
    "watch_bad_weights_stop_learning.py",
    "escape_bad_weights_with_cross_entropy.py",
    "watch_activations_saturate_and_die.py",
    "break_the_symmetry.py",
    "keep_the_variance_level.py",
    "derive_lecun_xavier_and_he.py",
    "move_from_constants_to_normal_weights.py",
    "compare_initializations_on_mnist.py",
    "test_a_classifier_honestly.py",
    "match_scheme_activation_and_depth.py",
    "ask_what_batch_norm_changes.py",
    "fine_tune_a_new_head.py",
    "initialize_a_model_you_did_not_write.py",
    "find_the_gain_of_any_activation.py",
    "follow_a_signal_through_fifty_layers.py",
    "train_at_the_edge_of_chaos.py",
    "keep_every_singular_value_near_one.py",
    "remember_with_orthogonal_weights.py",
    "let_the_data_set_the_scale.py",
]
if unmatched := set(tutorials) ^ {path.name for path in (HERE / "gallery").glob("*.py")}:
    raise ConfigError(f"tutorials in conf.py and docs/gallery disagree on {sorted(unmatched)}")

# -- Sphinx --------------------------------------------------------------------------------

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosectionlabel",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "numpydoc",
    "myst_nb",
    "sphinx_gallery.gen_gallery",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "sphinxext.opengraph",
    "notfound.extension",
    # ours
    "evidence",
    "figures",
    "freshness",
    "links",
    "mathml",
    "replications",
    "tidy_pages",
    "tutorials",
]
# myst-nb would read the gallery's sources, and what is generated from them, as pages.
exclude_patterns = [
    "_build",
    "gallery",
    "replication/*",
    "tutorials/*.ipynb",
    "tutorials/*.py*",
    "tutorials/*.json",
]
templates_path = ["_templates"]
suppress_warnings = ["sphinx_gallery.space_in_filename"]  # it means the path of this clone
nitpicky = True
numfig = True
default_role = "py:obj"  # a name in single backticks is a link to its reference
math_numfig = False
autosectionlabel_prefix_document = True
math_eqref_format = "({number})"
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"
bibtex_reference_style = "author_year"

# Inventories of the few names we link to, written by tools/make_inventories.py: no network.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", "_inv/python.inv"),
    "torch": ("https://docs.pytorch.org/docs/stable/", "_inv/torch.inv"),
    "numpy": ("https://numpy.org/doc/stable/", "_inv/numpy.inv"),
    "pandas": ("https://pandas.pydata.org/docs/", "_inv/pandas.inv"),
    "matplotlib": ("https://matplotlib.org/stable/", "_inv/matplotlib.inv"),
}

# -- The reference -------------------------------------------------------------------------

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings give the types, in words
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
numpydoc_class_members_toctree = False
numpydoc_show_class_members = False
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"  # but these, where a type is given in words
numpydoc_xref_aliases = {
    words: f":obj:`{words} <{prefix}{words}>`"
    for prefix, names in {
        "": "bool concurrent.futures.Executor matplotlib.axes.Axes pandas.DataFrame "
        "torch.Generator torch.Tensor torch.device torch.nn.Module",
        "torch.": "nn.Module nn.Sequential",
        "initguide.": "Activation Dataset Ensemble History Initialization LSUVReport Scheme",
    }.items()
    for words in names.split()
}
numpydoc_validation_checks = {"GL03", "GL05", "GL06", "GL07", "PR02", "SS01", "SS05"}
numpydoc_validation_exclude = {r"\.[A-Z_]+$"}  # constants have a comment, no docstring

# -- Executed pages ------------------------------------------------------------------------

os.environ["TQDM_DISABLE"] = "1"  # a page is no terminal
os.environ.setdefault("SOURCE_DATE_EPOCH", "0")  # no dates in what is generated

myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_timeout = 1800
nb_execution_show_tb = True  # a warning, which fails the build as all warnings do
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_output_stderr = "warn"  # a warning on a page is a mistake in it

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "tutorials",
    "filename_pattern": r"\.py$",  # every script is executed
    "within_subsection_order": ExplicitOrder(tutorials),
    "backreferences_dir": "reference/backreferences",
    "doc_module": ("initguide",),
    "inspect_global_variables": True,
    "image_scrapers": (
        "figures.scraper",
        *map("scrapers.{}".format, ("formulas", "claims", "findings")),
    ),
    "reset_modules": ("freshness.seal_scripts", "scrapers.reset"),
    "capture_repr": ("_repr_html_", "__repr__"),
    "ignore_repr_types": r"matplotlib|sympy|Outcome",
    "remove_config_comments": True,
    "first_notebook_cell": f"%{install_line}",
    "default_thumb_file": str(HERE / "_static" / "mark.svg"),
    "css": (),  # ours: _static/initguide.css
    "show_memory": False,
    "show_signature": False,
    # Times are in the one table of the page "About"; sphinx-gallery's own loads scripts.
    "min_reported_time": float("inf"),
    "write_computation_times": False,
    "download_all_examples": False,  # zip files hold dates
    "log_level": {"backreference_missing": "debug"},
}

# -- HTML ----------------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = "initguide"
html_baseurl = SITE
html_static_path = ["_static"]
html_css_files = ["initguide.css"]
html_js_files = [("overflow.js", {"defer": "defer"})]
html_favicon = "_static/mark.svg"
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # fetches pages, which fails where the site is opened as files
html_permalinks_icon = "#"
html_context = {
    "default_mode": "auto",
    "author": author,
    "html_baseurl": SITE,
    "repository": REPOSITORY,
    "site_branch": "gh-pages",  # Colab and Binder read the notebooks there
}
html_theme_options = {
    "logo": {"text": project} | dict.fromkeys(["image_light", "image_dark"], "_static/mark.svg"),
    "navbar_align": "left",
    "navbar_persistent": ["search-button-field"],
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc", "sg_download_links", "launch", "edit-this-page"],
    "article_header_start": ["progress"],
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
alone = (
    "404",
    "about",
    "evidence",
    "glossary",
    "how-to-choose",
    "index",
    "references",
    "replication",
)
html_sidebars = {page: [] for page in alone}  # no section to navigate
copybutton_exclude = ".linenos, .gp, .go"
notfound_urls_prefix = urlsplit(SITE).path  # a page that is not found can be asked for anywhere
ogp_site_url = SITE
ogp_social_cards = {
    "image": "_static/mark.png",
    "image_mini": "_static/mark.png",
    "line_color": "#0b5f8a",
    "font": "DejaVu Serif",  # comes with matplotlib
}
