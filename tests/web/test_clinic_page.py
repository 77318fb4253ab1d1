"""The clinic page in a real browser: every step with real clicks, keys and drops, offline."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import polars as pl
import pytest
import uvicorn

from fertiray.data.synthetic import synth_crops
from fertiray.scoring.engine import EAGER, choose_engines
from fertiray.scoring.shards import score_locally
from fertiray.serving import tokens
from fertiray.serving.api import create_app
from fertiray.serving.bulk import Workers
from fertiray.serving.interactive import Networks
from fertiray.serving.settings import Settings, prepare, service_of, work_of

pytestmark = pytest.mark.browser

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PATIENTS, CROPS = 3, 40
T = TypeVar("T")


class Page:
    """A service of its own and a browser that looks at it."""

    def __init__(self, driver, url: str, token: str, folder: Path) -> None:
        self.driver, self.url, self.token, self.folder = driver, url, token, folder

    def find(self, selector: str):
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str):
        return self.driver.find_elements("css selector", selector)

    def until(self, condition: Callable[[], T], what: str, seconds: float = 60) -> T:
        """What ``condition`` returns, once it holds; the page may redraw itself in between."""
        from selenium.common.exceptions import (
            NoSuchElementException,
            StaleElementReferenceException,
            TimeoutException,
        )
        from selenium.webdriver.support.ui import WebDriverWait

        redrawn = (NoSuchElementException, StaleElementReferenceException)
        wait = WebDriverWait(self.driver, seconds, 0.05, ignored_exceptions=redrawn)
        try:
            return wait.until(lambda _: condition())
        except TimeoutException:
            page = self.find("main").text
            raise AssertionError(f"{what} never came; the page says: {page}") from None

    def seen(self, selector: str):
        """The element, once it is visible."""

        def visible():
            return next((each for each in self.all(selector) if each.is_displayed()), None)

        return self.until(visible, selector)

    def text(self, selector: str) -> str:
        """What the element says, once it is visible."""
        return self.until(lambda: self.seen(selector).text, selector)

    def sign_in(self, token: str) -> None:
        self.seen("#token").send_keys(token)
        self.find("#token-form button").click()

    def drop(self, selector: str, path: Path) -> None:
        """Drops a file or folder of the disk on an element, as a person does."""
        box = self.find(selector).rect
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            command = {"type": kind, **place, "data": data}
            self.driver.execute_cdp_cmd("Input.dispatchDragEvent", command)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("upload") / "Monday"
    synth_crops(folder, patients=PATIENTS, crops=CROPS, seed=7)
    for path in sorted(folder.rglob("*.png"))[::30]:
        path.write_bytes(path.read_bytes()[:80])
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory, zona_checkpoint):
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    state = tmp_path_factory.mktemp("service")
    text, _ = tokens.add(state / "tokens.json", "clinic-a")
    settings = Settings(
        *(str(state / "state"), str(state / "tokens.json"), (zona_checkpoint,)),
        engine=EAGER,
        keep_days=30,
    )
    prepare(settings)
    app = create_app(service_of(settings, Networks("cpu", threads=1)))
    workers = Workers(work_of(settings, score_locally, choose_engines), 1)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--window-size=1200,1000")
    options.add_experimental_option("prefs", {"download.default_directory": str(state)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield Page(driver, f"http://127.0.0.1:{port}", text, state)
    finally:
        driver.quit()
        server.should_exit = True
        workers.stop()
        thread.join(10)


def test_from_sign_in_to_the_report(page, cohort):
    page.driver.get(page.url)
    page.sign_in("frt_000000000000_wrong")
    assert "not valid" in page.text("#problem")
    page.sign_in(page.token)
    assert page.text("#no-jobs") == "None yet."

    page.find("#folder").send_keys(str(cohort))
    page.seen("#start")
    rows = [row.text.split() for row in page.all("#preview tbody tr")]
    assert rows == [[f"P00{n}", str(CROPS)] for n in range(1, PATIENTS + 1)]
    assert page.find("#preview caption").text == f"{PATIENTS} patients, {PATIENTS * CROPS} images"
    label = page.find("#label")
    assert label.get_attribute("value") == "Monday"
    label.clear()
    label.send_keys("Week 7 <b>")
    page.find("#start").click()

    assert page.text("#job-title") == "Week 7 <b>"
    page.seen("table.patients tbody tr")
    assert "done" in page.find("#job-state").text
    assert page.find("#job-expires").text.startswith("Deleted on ")
    (run,) = (page.folder / "state" / "jobs").glob("*/run/*")
    known = pl.read_parquet(run / "patients.parquet").to_dicts()
    shown = [
        [cell.text for cell in row.find_elements("css selector", "th, td")]
        for row in page.all("table.patients tbody tr")
    ]
    assert [row[:3] for row in shown] == [
        [row["patient_id"], str(row["n_scored"]), str(row["n_rejected"])] for row in known
    ]
    for cells, row in zip(shown, known, strict=True):
        assert f"{100 * row['fraction']:.1f}%" in cells[3]
        assert row["verdict"] in cells[6]
    assert "truncated" in page.find("#cohort").text  # what was left out, and why
    check_accessibility(page)

    page.find("#get-html").click()
    page.until((page.folder / "report.html").exists, "the report")
    report = (page.folder / "report.html").read_text()
    assert all(row["patient_id"] in report for row in known)


def test_a_patient_with_pictures_and_heatmaps(page):
    page.find("table.patients tbody tr:nth-child(2) a").click()
    assert page.text("#patient h1") == "P002"
    assert "P002" not in page.driver.current_url  # no patient identifier in an address
    text = page.find("#patient").text
    for part in ("95% interval", "Classes", "unbound", "Slides", "Surest: bound", "Least sure"):
        assert part in text
    assert page.find("#patient svg.against").get_attribute("aria-label").startswith("Corrected")
    check_accessibility(page)

    picture = page.find("#patient button.crop")
    page.driver.execute_script("arguments[0].focus()", picture)
    picture.send_keys("\ue007")  # the Enter key
    page.seen("#zoom-heat")
    wide = "return document.getElementById(arguments[0]).naturalWidth"
    assert page.driver.execute_script(wide, "zoom-image") > 0
    assert page.driver.execute_script(wide, "zoom-heat") == 64  # the network's own size
    before = page.find("#zoom-heat").get_attribute("src")
    page.find("#method option[value='saliency']").click()
    page.until(lambda: page.find("#zoom-heat").get_attribute("src") != before, "the other map")
    check_accessibility(page)
    page.find("#zoom-close").send_keys("\ue00c")  # Escape
    assert not page.find("#zoom").is_displayed()
    page.driver.execute_script("scrollTo(0, 0)")
    page.find(".pager a:last-child").click()
    page.until(lambda: page.find("#patient h1").text == "P003", "the next patient")


def test_a_dropped_archive_and_a_dropped_folder(page, cohort, tmp_path):
    wrapped = tmp_path / "wrapped" / "Monday"
    shutil.copytree(cohort, wrapped)
    archive = shutil.make_archive(str(tmp_path / "Tuesday"), "zip", wrapped.parent)
    page.find("#nav a").click()
    page.seen("#drop")
    page.drop("#drop", Path(archive))
    page.seen("#start")
    assert page.find("#chosen").text == "Tuesday.zip"
    assert page.find("#layout").get_attribute("value") == "1"  # the folder inside is left out
    assert "P001" in page.find("#preview").text
    page.find("#layout option[value='0']").click()
    assert page.find("#preview tbody").text == f"Monday {PATIENTS * CROPS}"
    page.find("#layout option[value='1']").click()
    page.find("#start").click()
    page.seen("table.patients tbody tr")
    assert len(page.all("table.patients tbody tr")) == PATIENTS

    page.find("#job-delete").click()
    page.driver.switch_to.alert.accept()
    page.seen("#drop")
    assert "Tuesday" not in page.find("#jobs").text

    page.drop("#drop", cohort / "P001")
    page.seen("#start")
    assert page.find("#layout").get_attribute("value") == "0"
    page.find("#layout option[value='all']").click()
    assert page.find("#preview tbody").text == f"P001 {CROPS}"
    page.find("#forget").click()
    page.seen("#drop")


def test_an_unusable_archive_says_why(page, tmp_path):
    bad = tmp_path / "bad.zip"
    bad.write_bytes(b"PK\3\4" + bytes(100))
    page.find("#archive").send_keys(str(bad))
    page.seen("#start").click()
    message = page.text("#job-message")
    assert message == "the zip has no end, so a part of it is missing; send it again"
    page.find("#sign-out").click()
    page.seen("#token")
    assert page.find("#cohort").text == ""
    page.driver.refresh()
    page.seen("#token")  # the token is gone


def test_nothing_was_asked_of_any_other_machine_and_nothing_failed(page):
    asked = set()
    for entry in page.driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(message["params"]["request"]["url"])
    assert len(asked) > 20
    others = [url for url in asked if not url.startswith((page.url, "data:", "blob:"))]
    assert others == []
    assert not [url for url in asked if page.token in url]
    errors = [entry["message"] for entry in page.driver.get_log("browser")]
    # The one 401 is the wrong token of the first test.
    assert [text for text in errors if "401" not in text] == []


CONTRAST = """
const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 :
  ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const parse = (text) => { const v = text.match(/[\\d.]+/g).map(Number);
  return { rgb: v.slice(0, 3), alpha: v.length > 3 ? v[3] : 1 }; };
const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e)
  .backgroundColor); if (c.alpha > 0.5) return c.rgb; } return [255, 255, 255]; };
const poor = [];
for (const e of document.querySelectorAll("body *:not(svg *):not(script)")) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  const style = getComputedStyle(e);
  if (!own || !e.checkVisibility({ visibilityProperty: true }) || e.disabled) continue;
  const [a, b] = [light(parse(style.color).rgb), light(ground(e))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) poor.push(`${e.tagName} "${e.textContent.trim().slice(0, 30)}" ${ratio}`);
}
return poor;
"""
NAMELESS = """
const named = (e) => e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim() ||
  e.getAttribute("aria-labelledby") || e.alt;
const parts = "input, select, button, a, progress, img, [role=img]";
return [...document.querySelectorAll(parts)].filter((e) => e.checkVisibility() && !named(e))
  .map((e) => e.outerHTML);
"""


def check_accessibility(page) -> None:
    """Text has WCAG AA's contrast of 4.5, controls have names, there is one heading of level 1."""
    assert page.driver.execute_script(CONTRAST) == []
    assert page.driver.execute_script(NAMELESS) == []
    heads = [head for head in page.all("h1") if head.is_displayed()]
    assert len(heads) == 1
    assert page.find("html").get_attribute("lang") == "en"
