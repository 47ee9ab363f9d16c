"""The built site in Chromium: nox -s docs makes it, nox -s browser looks at it.

Every page is opened from the disk and from a server, wide and narrow, light and dark.
"""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

SITE = Path(__file__).parents[1] / "docs" / "_build" / "html"
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
PAGES = [page for page in PAGES if not page.startswith(("_static/", "_downloads/"))]
# One page of each kind, for what depends on the template and not on the text.
KINDS = [
    "index.html",
    "how-to-choose.html",
    "evidence.html",
    "tutorials/index.html",
    "tutorials/derive_lecun_xavier_and_he.html",
    "reference/generated/initguide.train.html",
]
WIDTHS = (1280, 390)
TUTORIAL = "tutorials/watch_bad_weights_stop_learning.html"
EXECUTE = """if True:
    import nbformat
    from nbclient import NotebookClient
    notebook = nbformat.read("notebook.ipynb", as_version=4)
    NotebookClient(notebook, kernel_name="python3").execute()
    print(notebook.cells[0].outputs[0].text)
"""

every_page = pytest.mark.parametrize("page", PAGES or ["index.html"])
kinds = pytest.mark.parametrize("page", KINDS)


@pytest.fixture(scope="session", autouse=True)
def built():
    if not PAGES:
        pytest.fail(f"no page in {SITE}: build the site first, nox -s docs")


@pytest.fixture(scope="session")
def server():
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        # A distribution's Chromium, or else the one that `playwright install chromium` gets.
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=path, args=quiet)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Open a page and return it; what it complains of or asks from elsewhere is in `.told`."""
    contexts = []

    def visit(address, *, width=1280, theme="light", script=True, permissions=()):
        context = chromium.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=theme,
            java_script_enabled=script,
            permissions=permissions,
            reduced_motion="reduce",
        )
        contexts.append(context)
        page = context.new_page()
        page.told = []
        own = ("data:", "blob:", address[: address.find("/", 8)])
        page.on("console", lambda m: m.type in ("error", "warning") and page.told.append(m.text))
        page.on("pageerror", lambda error: page.told.append(str(error)))
        page.on("requestfailed", lambda request: page.told.append(f"failed: {request.url}"))
        page.on(
            "request",
            lambda r: r.url.startswith(own) or page.told.append(f"external: {r.url}"),
        )
        page.goto(address, wait_until="load")
        return page

    yield visit
    for context in contexts:
        context.close()


def wide(page):
    """Return how many pixels the page is wider than its window, and what sticks out."""
    return page.evaluate(
        """() => {
            const over = document.documentElement.scrollWidth - innerWidth;
            const scrolls = e => getComputedStyle(e).overflowX !== "visible";
            const inside = e => e.parentElement &&
                (scrolls(e.parentElement) || inside(e.parentElement));
            return over <= 0 ? [] : [over, ...[...document.body.querySelectorAll("*")]
                .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !inside(e))
                .map(e => e.tagName + "." + e.className).slice(0, 5)];
        }"""
    )


class Links(HTMLParser):
    """The ids of a page, and where it links to."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links = set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids |= {attributes[key] for key in ("id", "name") if attributes.get(key)}
        self.links |= {attributes[key] for key in ("href", "src") if attributes.get(key)}


@functools.cache
def links_of(path):
    return Links(path)


@every_page
def test_links_lead_somewhere(page):
    broken = []
    for link in links_of(SITE / page).links:
        address = urllib.parse.urlsplit(link)
        if address.scheme or address.netloc or link == "#":
            continue
        target = SITE / page
        if address.path.startswith("/"):
            target = SITE / urllib.parse.unquote(address.path).lstrip("/")
        elif address.path:
            target = (target.parent / urllib.parse.unquote(address.path)).resolve()
        fragment = urllib.parse.unquote(address.fragment)
        if not target.is_file() or (
            fragment and target.suffix == ".html" and fragment not in links_of(target).ids
        ):
            broken.append(link)
    assert not broken


# The server sends 404.html for any address, however deep, so its links start at the root.
@pytest.mark.parametrize("page", [page for page in PAGES if page != "404.html"])
@pytest.mark.parametrize("origin", ["disk", "server"])
def test_a_page_loads_quietly(page, origin, visit, server):
    shown = visit(f"{SITE.as_uri() if origin == 'disk' else server}/{page}", width=320)
    assert shown.told == []
    assert wide(shown) == []
    assert shown.title()
    assert shown.locator("h1").count() == 1


@every_page
def test_accessibility(page, visit, server):
    from axe_playwright_python.sync_playwright import Axe

    shown = visit(f"{server}/{page}")
    for width in WIDTHS:
        shown.set_viewport_size({"width": width, "height": 900})
        shown.wait_for_timeout(400)  # the theme waits 300 ms to make what scrolls a tab stop
        for theme in ("light", "dark"):
            shown.emulate_media(color_scheme=theme)
            shown.wait_for_function(f"document.documentElement.dataset.theme == '{theme}'")
            found = Axe().run(shown).response["violations"]
            bad = [(v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in found]
            assert bad == [], (theme, width)


@kinds
def test_the_keyboard_reaches_everything(page, visit, server):
    shown = visit(f"{server}/{page}")
    shown.evaluate(
        """() => {
            const can = "a[href], button, input, select, textarea, summary, [tabindex='0']";
            window.wanted = new Set([...document.querySelectorAll(can)].filter(
                e => e.checkVisibility({visibilityProperty: true}) && !e.disabled
                    && e.tabIndex >= 0 && !e.closest("dialog:not([open])")));
            document.addEventListener("focusin", e => window.wanted.delete(e.target));
        }"""
    )
    for _ in range(shown.evaluate("window.wanted.size") + 20):
        shown.keyboard.press("Tab")
    left = shown.evaluate("[...window.wanted].map(e => e.outerHTML.slice(0, 120))")
    assert left == []


def test_focus_can_be_seen(visit, server):
    shown = visit(f"{server}/index.html")
    for _ in range(6):
        shown.keyboard.press("Tab")
        style = shown.evaluate(
            """() => { const s = getComputedStyle(document.activeElement);
                       return [s.outlineStyle, s.boxShadow]; }"""
        )
        assert style[0] != "none" or style[1] != "none"


def test_formulas_are_drawn_with_their_font(visit, server):
    shown = visit(f"{server}/tutorials/derive_lecun_xavier_and_he.html")
    assert shown.locator("math").count() > 20
    shown.evaluate("document.fonts.ready")
    loaded = shown.evaluate(
        "[...document.fonts].filter(f => f.status == 'loaded').map(f => f.family)"
    )
    assert any("STIX" in family for family in loaded)
    flat = "m => m.getBoundingClientRect().height < 5 || m.getBoundingClientRect().width < 2"
    assert shown.evaluate(f"[...document.querySelectorAll('math')].filter({flat}).length") == 0


def test_figures_follow_the_theme(visit, server):
    import io

    from PIL import Image

    shown = visit(f"{server}/index.html")
    figure = shown.locator(".bd-article img[src$='.svg']").first
    figure.scroll_into_view_if_needed()

    def paper():
        image = Image.open(io.BytesIO(figure.screenshot())).convert("L")
        return image.getpixel((4, 4))

    light = paper()
    shown.locator("button.theme-switch-button:visible").click()
    shown.get_by_text("Dark", exact=True).locator("visible=true").click()
    shown.wait_for_timeout(200)
    assert light > 200 and paper() < 80


def luminance(color):
    r, g, b = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (r, g, b)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("figure", sorted(path.name for path in (SITE / "_images").glob("*.svg")))
def test_lines_stand_out_from_both_grounds(figure):
    svg = (SITE / "_images" / figure).read_text(encoding="utf-8")
    grounds = re.findall(r"--background:(#\w{6})", svg)
    assert len(grounds) == 2
    if re.search("QuadMesh|QuadContourSet|<image", svg):
        return  # what is drawn upon a field of colours has its own ground
    for color in set(re.findall(r"stroke: ?(#\w{6})", svg)):
        for ground in grounds:
            dark, light = sorted([luminance(color), luminance(ground)])
            assert (light + 0.05) / (dark + 0.05) > 2, (color, ground)


def test_copied_code_has_no_prompt(visit, server):
    shown = visit(f"{server}/about.html", permissions=["clipboard-read", "clipboard-write"])
    block = shown.locator("div.highlight-console").first
    block.hover()
    block.locator("button.copybtn").click()
    copied = shown.evaluate("navigator.clipboard.readText()")
    assert copied.strip() == "nox -s docs"


@kinds
@pytest.mark.parametrize("width", WIDTHS)
def test_it_reads_without_scripts(page, width, visit, server):
    shown = visit(f"{server}/{page}", script=False, width=width)
    assert [told for told in shown.told if ".js" not in told] == []
    assert shown.locator("h1").first.is_visible()
    assert shown.locator("article p").first.is_visible()
    for image in shown.locator("article img").all():
        assert image.is_visible()


def test_search_finds_a_scheme_by_any_name(visit, server):
    families = {"he": "he", "he_normal": "he", "kaiming": "he", "msra": "he"}
    families |= {"xavier": "xavier", "glorot": "xavier", "lecun": "lecun"}
    for name, family in families.items():
        shown = visit(f"{server}/search.html?q={name}")
        shown.wait_for_selector("#search-results li", timeout=10_000)
        shown.wait_for_timeout(500)  # results come one by one
        hits = shown.locator("#search-results a").evaluate_all("all => all.map(a => a.href)")
        wanted = ("glossary.html", f"initguide.{family}_", f"initguide.{name}_")
        assert any(part in hit for hit in hits for part in wanted), (name, hits)
        assert shown.told == []


def test_a_word_of_the_glossary_explains_itself(visit, server):
    shown = visit(f"{server}/{TUTORIAL}")
    word = shown.locator("article a:has(> .term)").first
    assert len(word.get_attribute("title")) > 20
    word.click()
    assert "/glossary.html#term-" in shown.url


def test_names_in_code_lead_to_their_reference(visit, server):
    shown = visit(f"{server}/tutorials/compare_initializations_on_mnist.html")
    shown.locator("div.highlight a", has_text=re.compile("^train$")).first.click()
    assert shown.url.startswith(f"{server}/reference/generated/initguide.train.html")


@kinds
def test_a_page_can_be_found_and_cited(page):
    text = (SITE / page).read_text(encoding="utf-8")
    (canonical,) = re.findall(r'<link rel="canonical" href="([^"]+)"', text)
    assert canonical.endswith(f"/{page}")
    for name in ("og:title", "og:description", "og:image", "og:url"):
        assert re.search(rf'<meta property="{name}" content="[^"]+"', text), name
    (card,) = re.findall(r'<meta property="og:image" content="([^"]+)"', text)
    root = canonical.removesuffix(page)
    assert card.startswith(root) and (SITE / card.removeprefix(root)).is_file()
    (facts,) = re.findall(r'<script type="application/ld\+json">(.*?)</script>', text, re.S)
    assert json.loads(facts)["@context"] == "https://schema.org"
    assert f"<loc>{canonical}</loc>" in (SITE / "sitemap.xml").read_text(encoding="utf-8")


@every_page
def test_figures_say_what_they_show(page):
    text = (SITE / page).read_text(encoding="utf-8")
    article = text[text.find("<article") :]
    for image in re.findall(r"<img [^>]*>", article):
        (alt,) = re.findall(r'alt="([^"]*)"', image)
        assert len(alt.split()) > 3 or "avatar" in image, image


@pytest.fixture(scope="session")
def installed(server, tmp_path_factory):
    """Install the package as a tutorial's page says, but from this server; return the folder."""
    text = (SITE / TUTORIAL).read_text(encoding="utf-8")
    (address,) = set(re.findall(r"pip install (http\S+\.whl)", text))
    wheel = f"{server}/{address.split('/', 3)[3]}"
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", folder, wheel]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def run(code, installed, folder):
    environment = os.environ | {"PYTHONPATH": str(installed), "MPLBACKEND": "agg"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def download(server, kind):
    (link,) = [k for k in links_of(SITE / TUTORIAL).links if "_downloads" in k and kind in k]
    with urllib.request.urlopen(urllib.parse.urljoin(f"{server}/{TUTORIAL}", link)) as reply:
        return reply.read()


def test_a_downloaded_script_runs_on_the_wheel_that_the_site_serves(installed, server, tmp_path):
    (tmp_path / "script.py").write_bytes(download(server, ".py"))
    code = "import runpy, initguide; print(initguide.__file__); runpy.run_path('script.py')"
    done = run(code, installed, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed))


def test_a_downloaded_notebook_runs_on_it_too(installed, server, tmp_path):
    notebook = json.loads(download(server, ".ipynb"))
    first = "".join(notebook["cells"][0]["source"])
    assert re.fullmatch(r"%pip install http\S+\.whl", first)
    notebook["cells"][0]["source"] = "import initguide; print(initguide.__file__)"
    (tmp_path / "notebook.ipynb").write_text(json.dumps(notebook))
    done = run(EXECUTE, installed, tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(installed) in done.stdout
