"""The page in a real browser, with a predictor whose every figure is known."""

from __future__ import annotations

import base64
import io
import shutil
import socket
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from panoptic_segformer.data.synthetic import compose_scene
from results_to_show import halves

pytest.importorskip("gradio", reason="the page needs gradio, of the extra `page`")
pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")

from playwright.sync_api import sync_playwright

from panoptic_segformer.web_page.building import build_page
from panoptic_segformer.web_page.serving import HOST, launch_page, write_examples

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LONGEST_WAIT = 120_000  # Milliseconds; nothing waits for it where all is well.

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no chromium, chromium-browser or google-chrome"),
]


class Predictor:
    """Gives halves, counts its pictures and how many of them it had at the same time."""

    thing_name = "ball"

    def __init__(self):
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.calls = self.running = self.most_running = 0
        self.lock = threading.Lock()

    def __call__(self, image):
        with self.lock:
            self.calls += 1
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        time.sleep(0.3)
        self.may_go_on.wait()
        with self.lock:
            self.running -= 1
        if (image == 255).all():
            raise ValueError("the picture is as white as snow: take another one")
        return halves(image, thing_name=self.thing_name)

    @contextmanager
    def held(self):
        """Let no picture get done before the end."""
        self.may_go_on.clear()
        try:
            yield
        finally:
            self.may_go_on.set()

    def wait_until_asked(self, tab):
        """Wait for a picture that is not done yet."""
        end = time.monotonic() + LONGEST_WAIT / 1000
        while not self.running:
            assert time.monotonic() < end, "no picture came"
            tab.wait_for_timeout(50)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor()


@pytest.fixture(scope="module")
def contacted() -> set[str]:
    """Machines that this process has contacted."""
    return set()


@pytest.fixture(scope="module")
def address(predictor, contacted, tmp_path_factory):
    """The served page's."""
    connect = socket.socket.connect

    def recorded_connect(self, target):
        contacted.add(target if isinstance(target, str) else target[0])
        return connect(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", recorded_connect)
        folder = tmp_path_factory.mktemp("page")
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        patch.setenv("HTTP_PROXY", f"http://{HOST}:9")  # Where nobody answers: it is not to be asked.
        for name in ("no_proxy", "NO_PROXY"):
            patch.setenv(name, "")
        with socket.socket() as trial:
            trial.bind((HOST, 0))
            port = trial.getsockname()[1]
        page = build_page(predictor, title="Halves", examples=write_examples(folder / "examples"))
        yield launch_page(page, port)
        page.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(browser, address):
    """The opened page; at the end, nothing was asked of another machine, and the console shows no error."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.set_default_timeout(LONGEST_WAIT)
    requests, errors = [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(address)
    tab.wait_for_selector("#picture input[type=file]", state="attached")
    yield tab
    tab.close()
    assert len(requests) > 10
    assert [url for url in requests if not url.startswith((f"http://{HOST}:", "data:", "blob:"))] == []
    assert errors == []


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    file = tmp_path_factory.mktemp("scene") / "scene.png"
    Image.fromarray(compose_scene(np.random.default_rng(3), (192, 256)).image).save(file)
    return file


@pytest.fixture(scope="module")
def snow(tmp_path_factory):
    """A picture that the predictor refuses."""
    file = tmp_path_factory.mktemp("snow") / "snow.png"
    Image.new("RGB", (64, 64), "white").save(file)
    return file


def upload(tab, file) -> None:
    tab.set_input_files("#picture input[type=file]", str(file))


def point_at(tab, across: float, down: float) -> None:
    """Move the pointer to a place of the picture, given as shares of its width and height."""
    frame = tab.locator("#view svg").bounding_box()
    tab.mouse.move(frame["x"] + across * frame["width"], frame["y"] + down * frame["height"], steps=3)


def marked_rows(tab) -> list[str]:
    return tab.locator("#view tr.marked td:first-child").all_inner_texts()


def test_uploaded_picture_is_segmented_and_tells_what_is_under_the_pointer(tab, scene, contacted, tmp_path):
    upload(tab, scene)
    tab.wait_for_selector("#view tr[data-segment]")
    cells = [row.split("\t") for row in tab.locator("#view tbody").inner_text().splitlines()]
    assert cells == [
        ["sky", "stuff", "0.90", "24,576", "0, 0, 256, 96"],
        ["ball", "thing", "0.40", "12,288", "0, 96, 128, 192"],
    ]
    tip = tab.locator("#view .tip")
    assert not tip.is_visible()
    for across, down, words in ((0.5, 0.25, "sky 0.90"), (0.02, 0.97, "ball 0.40"), (0.25, 0.6, "ball 0.40")):
        point_at(tab, across, down)
        tip.filter(has_text=words).wait_for()
        assert marked_rows(tab) == [words.split()[0]]
    tab.screenshot(path=tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 1000
    point_at(tab, 0.75, 0.75)  # void
    tip.wait_for(state="hidden")
    assert marked_rows(tab) == []
    tab.locator("#view tr[data-segment]").first.hover()
    assert marked_rows(tab) == ["sky"]
    assert tab.locator("#view path.marked").count() == 1
    tab.mouse.move(1, 1)
    tab.wait_for_function("!document.querySelector('#view .marked')")
    assert contacted <= {HOST}


def test_settings_redraw_without_a_second_prediction(tab, scene, predictor):
    upload(tab, scene)
    tab.wait_for_selector("#view tr[data-segment]")
    calls, picture = predictor.calls, tab.locator("#view img").get_attribute("src")
    tab.locator("#drawing input[value=picture]").check()
    tab.wait_for_function("(before) => document.querySelector('#view img').src !== before", arg=picture)
    tab.locator("#least-score input[type=number]").fill("0.5")
    tab.locator("#least-score input[type=number]").press("Enter")
    tab.locator("#view caption").filter(has_text="1 of 2 segments").wait_for()
    assert tab.locator("#view tr[data-segment]").count() == 1
    point_at(tab, 0.5, 0.25)
    tab.locator("#view .tip").filter(has_text="sky 0.90").wait_for()
    assert predictor.calls == calls


def test_setting_changed_while_the_network_runs_is_obeyed(tab, scene, predictor):
    with predictor.held():
        upload(tab, scene)
        predictor.wait_until_asked(tab)
        tab.locator("#drawing input[value=picture]").check()
        tab.wait_for_timeout(500)  # What the page does with it at once comes before the result.
    tab.wait_for_selector("#view tr[data-segment]")
    data = tab.locator("#view img").get_attribute("src").removeprefix("data:image/jpeg;base64,")
    with Image.open(scene) as plain, Image.open(io.BytesIO(base64.b64decode(data))) as shown:
        assert shown.size == plain.size
        assert np.abs(np.asarray(shown).astype(int) - np.asarray(plain)).mean() < 3


def test_result_of_a_picture_that_was_replaced_is_not_shown(tab, scene, snow, predictor):
    with predictor.held():
        upload(tab, scene)
        predictor.wait_until_asked(tab)
        tab.get_by_label("Remove Image").click()
        upload(tab, snow)
        tab.wait_for_timeout(500)
    tab.get_by_text("the picture is as white as snow: take another one").wait_for()
    assert tab.locator("#view tr[data-segment]").count() == 0


def test_picture_that_comes_while_another_one_is_waited_for_is_segmented(tab, scene, predictor, tmp_path):
    Image.new("RGB", (40, 80), "navy").save(tmp_path / "night.png")
    with predictor.held():
        upload(tab, scene)
        predictor.wait_until_asked(tab)
        tab.get_by_label("Remove Image").click()
        upload(tab, tmp_path / "night.png")
        tab.wait_for_timeout(500)
    tab.locator("#view td").filter(has_text="0, 0, 40, 40").wait_for()
    assert tab.locator("#view tr[data-segment]").count() == 2


def test_names_of_classes_become_neither_markup_nor_code(tab, scene, predictor, monkeypatch):
    name = "<img src=x onerror=\"document.title='taken'\"> ${document.title='taken'} {{value}}"
    monkeypatch.setattr(predictor, "thing_name", name)
    upload(tab, scene)
    tab.wait_for_selector("#view tr[data-segment]")
    assert tab.locator("#view td:first-child").all_inner_texts() == ["sky", name]
    point_at(tab, 0.25, 0.75)
    tab.locator("#view .tip").filter(has_text=f"{name} 0.40").wait_for()
    assert tab.locator("#view img").count() == 1
    assert tab.title() == "Halves"


def test_error_stands_in_plain_words_and_the_next_picture_works(tab, scene, snow):
    upload(tab, scene)
    tab.wait_for_selector("#view tr[data-segment]")
    tab.get_by_label("Remove Image").click()
    tab.wait_for_selector("#view tr[data-segment]", state="detached")
    upload(tab, snow)
    tab.get_by_text("the picture is as white as snow: take another one").wait_for()
    assert tab.locator("#view tr[data-segment]").count() == 0
    tab.get_by_label("Remove Image").click()
    upload(tab, scene)
    tab.wait_for_selector("#view tr[data-segment]")


def test_example_is_segmented(tab):
    tab.get_by_role("button").filter(has=tab.locator("img[src*=scene_]")).first.click()
    tab.wait_for_selector("#view tr[data-segment]")


def test_users_at_the_same_time_wait_for_each_other(tab, browser, address, scene, predictor):
    others = [browser.new_page() for _ in range(2)]
    for other in others:
        other.set_default_timeout(LONGEST_WAIT)
        other.goto(address)
        other.wait_for_selector("#picture input[type=file]", state="attached")
    for each in (tab, *others):
        upload(each, scene)
    for each in (tab, *others):
        each.wait_for_selector("#view tr[data-segment]")
    assert predictor.most_running == 1
    for other in others:
        other.close()
