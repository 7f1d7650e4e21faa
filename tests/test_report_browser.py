"""What a browser makes of the page of a report: on a wide screen and a phone, light and dark, without a network."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest

from ckptkit.report.page import chart_library, page
from tests.report_cases import EVENTS, event, facts, measured, saved

pytest.importorskip("plotly", reason="plotly draws the charts: pip install plotly")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium to look with: apt-get install chromium"),
]

VIEWS = {"wide": (1280, "light"), "phone": (390, "light"), "dark phone": (390, "dark")}
LIGHT = ["rgb(255, 255, 255)", "rgb(31, 35, 40)"]
DARK = ["rgb(13, 17, 23)", "rgb(230, 237, 243)"]
HOSTILE = "long" * 40 + "<img src=x onerror=console.log(1)><b>bold</b>"

# The page several times in one browser, as it is on different screens; what each has become is written down at the end.
FRAMES = """<!DOCTYPE html><meta charset="utf-8"><body><pre id="seen"></pre><script>
const views = VIEWS, page = PAGE, seen = {};
const look = (view, frame) => {
  const page = frame.contentDocument, root = page.documentElement;
  const style = (element, name) => frame.contentWindow.getComputedStyle(element)[name];
  const colours = () => [style(page.body, "backgroundColor"), style(page.querySelector(".chart .xtitle"), "fill")];
  const texts = (selector) => [...page.querySelectorAll(selector)].map((element) => element.textContent);
  const charts = [...page.querySelectorAll(".chart")];
  const said = charts.map((chart, at) => {
    if (at === 0) {
      const area = chart.querySelector(".nsewdrag"), box = area.getBoundingClientRect();
      const where = { clientX: box.right - 45, clientY: box.top + 20, bubbles: true };
      area.dispatchEvent(new frame.contentWindow.MouseEvent("mousemove", where));
    } else {
      const curveNumber = at === 2 ? 2 : 0, pointNumber = chart.data[curveNumber].x.length - 1;
      frame.contentWindow.Plotly.Fx.hover(chart, [{ curveNumber, pointNumber }]);
    }
    return chart.querySelector(".hoverlayer").textContent;
  });
  seen[view] = {
    width: root.scrollWidth,
    charts: charts.map((chart) => ({
      svgs: chart.querySelectorAll("svg.main-svg").length,
      lines: chart.querySelectorAll(".scatterlayer .js-line").length,
      bars: chart.querySelectorAll(".barlayer .point").length,
      points: chart.querySelectorAll(".scatterlayer .point").length,
      width: chart.querySelector("svg.main-svg")?.getBoundingClientRect().width,
      room: chart.getBoundingClientRect().width,
    })),
    colours: colours(),
    ticks: texts(".chart .xtick text"),
    said,
    images: page.querySelectorAll("img").length,
    fetched: frame.contentWindow.performance.getEntriesByType("resource").map((entry) => entry.name),
    bold: page.querySelectorAll(".chart tspan[style*=bold]").length,
  };
  frame.contentWindow.dispatchEvent(new Event("beforeprint"));
  seen[view].printed = colours();
  frame.contentWindow.dispatchEvent(new Event("afterprint"));
  frame.style.colorScheme = "dark"; // in the evening
  setTimeout(() => {
    seen[view].later = colours();
    document.getElementById("seen").textContent = JSON.stringify(seen);
  }, 500);
};
for (const [view, [width, scheme]] of Object.entries(views)) {
  const frame = document.createElement("iframe");
  frame.style = `width: ${width}px; height: 3000px; border: 0; color-scheme: ${scheme}`;
  frame.onload = () => look(view, frame);
  frame.srcdoc = page;
  document.body.append(frame);
}
</script>"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """What the browser has seen of a page in each view, and what it has said."""
    events = [
        *EVENTS,
        event("begun", 6000, "d", step=400, resumed_from="ckpt-400"),
        saved(6100, 500, "d", name=HOSTILE, metrics={HOSTILE: 0.1}),
        *(measured(6100 + step, 500 + step, "d", loss=0.3, val_loss=0.6) for step in range(50)),
    ]
    content = page(facts(events), chart_library())
    script = json.dumps(content).replace("<", "\\u003c")
    folder = tmp_path_factory.mktemp("browser")
    frames = folder / "frames.html"
    frames.write_text(FRAMES.replace("VIEWS", json.dumps(VIEWS), 1).replace("PAGE", script, 1))
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",  # tests may be run by root
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={folder / 'profile'}",
        "--enable-logging=stderr",
        "--hide-scrollbars",
        "--virtual-time-budget=5000",
        "--window-size=1300,1000",
        "--dump-dom",
        frames.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr
    assert found[1], done.stderr
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {**json.loads(html.unescape(found[1])), "said": said}


@pytest.mark.parametrize("view", VIEWS)
def test_every_chart_is_drawn_in_the_room_that_it_has(browser, view):
    charts = browser[view]["charts"]
    assert len(charts) == 5
    for chart in charts:
        assert chart["svgs"] > 0
        assert chart["width"] == pytest.approx(chart["room"], abs=1)
    metrics, hostile, turns, times, sizes = charts
    assert metrics["lines"] == 4, "loss and val_loss, each with what was lost"
    assert hostile["points"] > 0
    assert turns["bars"] == 4 + 1, "four turns, and what one of them lost"
    assert turns["points"] > 4
    assert times["bars"] == sizes["bars"] == 2 * 6, "two colours of a bar for each of six saves"


@pytest.mark.parametrize("view", VIEWS)
def test_the_page_is_never_wider_than_the_screen(browser, view):
    assert browser[view]["width"] == VIEWS[view][0]


@pytest.mark.parametrize("view", VIEWS)
def test_what_is_pointed_at_is_told(browser, view):
    metrics, *others = browser[view]["said"]
    assert re.fullmatch(r"step 50\dloss : 0\.3val_loss : 0\.6", metrics)
    assert [HOSTILE in told for told in others] == [True] * 4, "as it is, and not as markup"


def test_page_and_charts_are_dark_where_that_is_preferred(browser):
    assert browser["phone"]["colours"] == LIGHT
    assert browser["dark phone"]["colours"] == DARK
    assert [browser[view]["later"] for view in VIEWS] == [DARK] * 3, "the page follows when the preference changes"


def test_on_paper_page_and_charts_are_light(browser):
    assert [browser[view]["printed"] for view in VIEWS] == [LIGHT] * 3


def test_what_names_hold_becomes_no_element(browser):
    for view in VIEWS:
        assert (browser[view]["images"], browser[view]["bold"]) == (0, 0)
    assert any("</b>" in tick for tick in browser["wide"]["ticks"]), "the end of the name is shown as it is"


def test_the_browser_complains_of_nothing_and_asks_nobody_for_anything(browser):
    assert browser["said"] == []
    assert [browser[view]["fetched"] for view in VIEWS] == [[]] * len(VIEWS)
