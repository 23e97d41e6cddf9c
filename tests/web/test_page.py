"""The page in Chromium, served from this process."""

import base64
import csv
import io
import socket
import threading
import time

import pytest
import uvicorn

from detector.web import render
from detector.web.api import create_app
from tests.web.browser import Browser, find_chromium
from tests.web.conftest import HOSTILE


@pytest.fixture(scope="module")
def url(predictor):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(predictor), log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = server.force_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is installed here")
    one = Browser(program, tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


def problems(browser):
    return [event for event in browser.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]


def test_one_image_its_evidence_and_nothing_from_elsewhere(url, browser, pictures, predictor):
    browser.events.clear()
    browser.open(url)
    assert "CIFAKE" in browser.text("#result") and "not a proof" in browser.text("#result")
    browser.give(pictures / "one.png")
    (row,) = predictor.predict([pictures / "one.png"])
    assert render.CONCLUSIONS[row["conclusion"]][2] in browser.text(".conclusion")
    assert browser.text(".score b").replace("\xa0", "&nbsp;") == render.percent(row["p_fake"])
    place = browser.js("document.querySelector('.bar circle').getAttribute('cx')")
    assert float(place.removesuffix("%")) == pytest.approx(100 * row["p_fake"], abs=0.01)
    browser.wait("document.querySelector('[data-heat-map]').naturalWidth > 30")
    card = browser.js("document.querySelector('.card').innerText")
    order = [card.index(part) for part in ("Basis", "Probability", "Where the score", "Provenance", "Limits", "Download")]
    assert order == sorted(order) and "one.png, 32 × 32 pixels" in card
    asked = [event["params"]["request"]["url"] for event in browser.events if event["method"] == "Network.requestWillBeSent"]
    assert len(asked) > 4 and [one for one in asked if not one.startswith((url, "data:", "blob:"))] == []
    assert problems(browser) == []


def test_many_images_are_a_table_a_csv_and_a_report(url, browser, pictures, predictor, tmp_path):
    browser.open(url)
    browser.give(*(pictures / name for name in ("one.png", "two.jpg", "broken.jpg", "bomb.png", HOSTILE)))
    table = browser.text("table")
    assert browser.js("document.querySelectorAll('tbody tr').length") == 5
    assert HOSTILE in table and "300 × 200 pixels" in table and "50,000,000 pixels" in table
    assert browser.js("document.querySelectorAll('img[onerror]').length") == 0
    counts = browser.text(".counts")
    assert "5 images:" in counts and "2 unreadable" in counts
    link = browser.js("document.querySelector('a[download]').href")
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(link.split(",")[1]).decode("utf-8"))))
    expected = predictor.predict([pictures / row["path"] for row in rows])
    assert [row["p_fake"] for row in rows] == ["" if row["p_fake"] is None else str(row["p_fake"]) for row in expected]
    browser.js("document.querySelector('[name=heat]').click()")
    browser.wait("[...document.querySelectorAll('[data-heat-map]')].filter(one => one.naturalWidth > 30).length == 2")
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.js("document.getElementById('report').click()")
    deadline = time.monotonic() + 30
    while not (tmp_path / "report.html").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "Report on 5 images" in (tmp_path / "report.html").read_text("utf-8")


def test_problems_are_messages_and_the_page_goes_on(url, browser, pictures):
    browser.open(url)
    browser.give(pictures / "broken.jpg")
    assert "Unreadable" in browser.text(".conclusion") and browser.text(".note").startswith("broken.jpg: ")
    browser.give(*[pictures / "one.png"] * 201)
    assert "at most 200" in browser.text("#problem")
    browser.js("document.getElementById('form').dataset.maxFile = 10")
    browser.give(pictures / "one.png")
    browser.wait("document.getElementById('problem').innerText.includes('one.png')")
    browser.js("document.getElementById('form').dataset.maxFile = 1e9")
    browser.give(pictures / "two.jpg")  # no detector is made for it
    browser.wait("document.querySelector('.note')?.innerText.includes('300 x 200 pixels')")
    assert not browser.js("document.querySelector('.score')") and browser.js("document.getElementById('problem').hidden")
    browser.js("document.getElementById('force-button').click()")
    assert "Probability" in browser.text(".score")


GIVE = """(async () => {
  const all = new DataTransfer(), data = Uint8Array.from(atob('%s'), c => c.charCodeAt(0));
  all.items.add(new File([data], 'given.png', {type: 'image/png'}));
  document.body.dispatchEvent(new %s('%s', {%s: all, bubbles: true, cancelable: true}));
})()"""


@pytest.mark.parametrize(
    ("event", "name", "holder"), [("paste", "ClipboardEvent", "clipboardData"), ("drop", "DragEvent", "dataTransfer")]
)
def test_pasted_and_dropped_files_are_sent_as_they_are(url, browser, pictures, predictor, event, name, holder):
    browser.open(url)
    browser.js(GIVE % (base64.b64encode((pictures / "one.png").read_bytes()).decode(), name, event, holder))
    assert "given.png, 32 × 32 pixels" in browser.text("figcaption")
    (row,) = predictor.predict([pictures / "one.png"])
    assert browser.text(".score b").replace("\xa0", "&nbsp;") == render.percent(row["p_fake"])


def test_the_camera_gives_an_image(url, browser):
    browser.open(url)
    browser.js("document.getElementById('camera').click()")
    browser.wait("document.getElementById('video').videoWidth > 0")
    browser.js("document.getElementById('shoot').click()")
    assert browser.text("figcaption").startswith("camera.png, ")
    assert not browser.js("document.getElementById('dialog').open")


def test_dark_and_light(url, browser, pictures):
    colours = "getComputedStyle(document.querySelector('%s')).%s.match(/[0-9.]+/g).slice(0, 3).map(Number)"
    for dark in (False, True):
        browser.open(url, dark=dark)
        browser.give(pictures / "one.png")
        browser.text(".conclusion")
        back = sum(browser.js(colours % (".card", "backgroundColor")))
        assert back < 200 if dark else back > 700
        for selector in (".conclusion", "figcaption", ".score"):
            assert abs(sum(browser.js(colours % (selector, "color"))) - back) > 250


def test_a_narrow_window_needs_no_scrolling_sideways(url, browser, pictures):
    many = ["one.png", "two.jpg", "broken.jpg", HOSTILE]
    right = "Math.max(...[...document.querySelectorAll('body *')].map(one => one.getBoundingClientRect().right))"
    for files, shown in (([], "#result"), (many[:1], ".conclusion"), (many, "table")):
        browser.open(url, width=360)
        if files:
            browser.give(*(pictures / name for name in files))
        browser.text(shown)
        assert browser.js("document.documentElement.scrollWidth") <= 360
        assert browser.js(right) <= 361


def test_the_keyboard_reaches_everything(url, browser, pictures):
    browser.open(url)
    browser.give(pictures / "two.jpg")
    browser.text("#force-button")
    browser.js("document.activeElement.blur()")
    reached = []
    for _ in range(10):
        for kind in ("rawKeyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.append(browser.js("(e => e.id || e.name || e.innerText)(document.activeElement)"))
    assert {"images", "camera", "force", "heat", "force-button", "Download CSV", "report", "REST API"} <= set(reached), reached
