"""The report in a real browser: everything is drawn, nothing is complained of, nothing too wide."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from figures import Figure
from made_up_sweeps import METRIC, large_sweep, sweep, trial

from tintlab.sweep.html_report import write_report
from tintlab.sweep.records import SweepRecord

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

WIDTH_PX = 1280

SWEEPS = {
    "nothing begun": sweep(ended=None),
    "one trial": sweep(trial(0, {"model.depth": 2}, [0.8])),
    "40 trials, three objectives": large_sweep(
        40, objectives={METRIC: "min", "val/psnr_db": "max", "val/colorfulness_ratio": "max"}
    ),
    "500 trials": large_sweep(500),
}

# Put before the page's own scripts: keeps what goes wrong, and says at the end what became of it.
WATCH = """<script>
const wrong = [];
addEventListener("error", (event) => wrong.push(event.message), true);
addEventListener("securitypolicyviolation", (event) => wrong.push(event.violatedDirective));
for (const kind of ["error", "warn"]) console[kind] = (...told) => wrong.push(told.join(" "));
addEventListener("load", () => {
  const look = setInterval(() => {
    const root = document.documentElement;
    if (!root.dataset.drawn) return;
    clearInterval(look);
    const drawn = [...document.querySelectorAll(".plot")].filter((p) => p.querySelector("svg"));
    const tooWide = root.scrollWidth - root.clientWidth;
    const seen = { wrong, drawn: drawn.length, tooWide, width: root.clientWidth };
    document.body.setAttribute("data-seen", JSON.stringify(seen));
  }, 50);
});
</script>"""


def seen(browser: str, page: Path) -> dict[str, object]:
    """What a browser makes of a page: what went wrong, and how many figures it drew."""
    watched = page.with_name("watched.html")
    watched.write_text(page.read_text().replace("<body>", f"<body>{WATCH}", 1))
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--window-size={WIDTH_PX},900", "--virtual-time-budget=60000"]
    command += [f"--user-data-dir={page.parent}/profile", "--enable-logging=stderr"]
    done = subprocess.run(
        [*command, watched.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    said = re.findall(r"CONSOLE.*", done.stderr)
    told = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert told, done.stderr
    found: dict[str, object] = json.loads(html.unescape(told[1]))
    return {**found, "said": said}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_browser_draws_all_and_complains_of_nothing(
    name: str, tmp_path: Path, figure: Figure
) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium here")
    record: SweepRecord = SWEEPS[name]
    page = write_report(record, tmp_path)
    places = page.read_text().count('<div class="plot"')
    found = seen(browser, page)
    complaints = [*found["wrong"], *found["said"]]  # type: ignore[misc]
    figure(
        "Sweep",
        f"report of {name} in a browser {WIDTH_PX} px wide",
        f"{found['drawn']} of {places} figures, {len(complaints)} console errors",
        f"{places} of {places}, 0",
    )
    assert complaints == []
    assert found["drawn"] == places
    assert found["tooWide"] == 0
