"""The page in a real browser: what is typed and uploaded, what is shown and downloaded, and many clients at once."""

import csv
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import PROXIES, ROOT, run_here
from tables import HOSTILE

from smsa.data.labels import EXAMPLES, LABELS
from smsa.demo.page import KEPT_SECONDS, MAX_CHARS, PAGE, find_columns, label_file, mark_words
from smsa.inference.classifier import SentimentClassifier
from smsa.models.loading import CLASSIFIER

HTML = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script><b>enak</b> sekali"
PHONE = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The address of the page, served by the script as a user starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log, command = tmp_path_factory.mktemp("demo") / "log", [sys.executable, "scripts/demo.py", "--port", str(port)]
    with log.open("w") as stream:
        server = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream, env=os.environ | PROXIES)
    address = f"http://127.0.0.1:{port}/"

    def is_served() -> bool:
        assert server.poll() is None, log.read_text()
        with urllib.request.urlopen(address, timeout=5):
            return True

    wait_for(is_served, 120)
    yield address
    (folder,) = Path(tempfile.gettempdir()).glob(f"smsa-demo-*-{port}")
    assert list(folder.rglob("*.csv"))  # uploads and results: of the last ten minutes
    server.terminate()
    server.wait(20)
    assert not folder.exists()


@pytest.fixture(scope="module")
def classifier():
    return SentimentClassifier.from_pretrained(CLASSIFIER, device="cpu")


@pytest.fixture(scope="module")
def chromium(request, tmp_path_factory):
    """Chromium in English, or in the language of a test's parameter; it downloads to its attribute `downloads`."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    from selenium import webdriver

    folder, options = tmp_path_factory.mktemp("browser"), webdriver.ChromeOptions()
    options.binary_location = program
    for flag in [*FLAGS.split(), "--window-size=1200,1000", f"--user-data-dir={folder / 'profile'}"]:
        options.add_argument(flag)
    languages = {"intl.accept_languages": getattr(request, "param", "en")}
    options.add_experimental_option("prefs", {"download.default_directory": str(folder / "downloads"), **languages})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    found.downloads = folder / "downloads"
    yield found
    found.quit()


@pytest.fixture
def browser(chromium, page):
    """Chromium at the page as one opens it."""
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.get(page)
    wait_for(lambda: text_of(chromium, "#ask"))
    return chromium


def wait_for(condition, seconds: float = 60):
    """Return what `condition` returns once it is true; elements and servers come and go meanwhile."""
    from selenium.common.exceptions import WebDriverException

    until = time.monotonic() + seconds
    while True:
        try:
            if found := condition():
                return found
        except (WebDriverException, OSError):
            pass
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.05)


def find(browser, selector: str):
    return browser.find_element("css selector", selector)


def find_all(browser, selector: str) -> list:
    return browser.find_elements("css selector", selector)


def text_of(browser, selector: str) -> str:
    return find(browser, selector).text


def ask(browser, text: str) -> None:
    """Type a text, ask for its label, and wait until its words are marked."""
    find(browser, "#text textarea").clear()
    find(browser, "#text textarea").send_keys(text)
    find(browser, "#ask").click()
    if text.strip():
        wait_for(lambda: "".join(text_of(browser, "#why").split()).endswith("".join(text.split())))


def shades(browser) -> list[tuple[str, float]]:
    """Return the words that are marked, and how: from -1, which is purple, to 1, which is red."""
    found = []
    for element in find_all(browser, "#why .score-token.highlighted"):
        red, *_, alpha = map(float, re.findall(r"[\d.]+", element.value_of_css_property("background-color")))
        found.append((element.text.strip(), alpha if red > 200 else -alpha))
    return found


def error_of(browser) -> str:
    """Wait for an error, return its text, and close it."""
    shown = wait_for(lambda: text_of(browser, "[data-testid=toast-text]"))
    find(browser, "[data-testid=toast-close]").click()
    wait_for(lambda: not find_all(browser, "[data-testid=toast-text]"))
    return shown


def label_many(browser, lines: str = "", path: Path | None = None) -> None:
    """Paste lines or upload a file on the second tab, and ask for labels."""
    find(browser, "button[role=tab]:nth-of-type(2)").click()
    wait_for(lambda: find(browser, "#predict").is_displayed())
    paste = """const box = document.querySelector('#lines textarea');
        box.value = arguments[0]; box.dispatchEvent(new Event('input', {bubbles: true}));"""
    browser.execute_script(paste, lines)
    if path:
        find(browser, "#file input[type=file]").send_keys(str(path))
        wait_for(lambda: path.stem[:8] in text_of(browser, "#file"))
    find(browser, "#predict").click()


@pytest.mark.slow
@pytest.mark.parametrize("chromium, language", [("en-GB,en", "en"), ("id-ID,id", "id")], indirect=["chromium"])
def test_a_text_gets_its_label_its_bars_and_its_words_in_two_languages(browser, classifier, language):
    words = PAGE[language]
    wait_for(lambda: text_of(browser, "#ask") == words["ask"])
    for text in EXAMPLES:
        expected = classifier(text)
        ask(browser, text)
        shares = {words.get(label, label): expected[f"p_{label}"] for label in classifier.labels}
        title, _, *lines = text_of(browser, "#answer").splitlines()
        shown = {label: int(share.rstrip("%")) / 100 for label, share in zip(lines[::2], lines[1::2], strict=True)}
        assert title == words["answer"] and shown == pytest.approx(shares, abs=0.015)
        assert next(iter(shown)) == max(shares, key=shares.get)
        bars = [float(bar.get_attribute("value")) for bar in find_all(browser, "#answer meter")]
        assert bars == pytest.approx(sorted(shares.values(), reverse=True), abs=0.01)
        marked = mark_words(text, classifier.explain(text)["words"])
        assert shades(browser) == [(part.strip(), pytest.approx(shade, abs=0.05)) for part, shade in marked if shade]
    shown = text_of(browser, "body")
    assert all(words[name].lstrip("# ") in shown for name in ("title", "one", "many", "why_hint", "footer"))
    title = browser.title
    ask(browser, HTML)
    assert browser.title == title and not find_all(browser, "#why img, #why b, #why script")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE["width"]
    ask(browser, "  ")
    assert error_of(browser) == words["empty"]
    label_many(browser)
    assert error_of(browser) == words["nothing"] and text_of(browser, "#predict") == words["predict"]
    assert words["upload"] in text_of(browser, "#file") and words["lines"] in text_of(browser, "#lines")


@pytest.mark.slow
def test_a_file_of_hostile_texts_comes_back_as_predict_writes_it(browser, tmp_path):
    draw, texts = random.Random(0), [*HOSTILE, HTML, *EXAMPLES]
    rows = [[str(number), draw.choice(texts), draw.choice(texts)] for number in range(1000)]
    path = tmp_path / "ulasan.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["id", "kolom_a", "kolom_b"], *rows])
    words = ["--input", path, "--output", tmp_path / "by_predict.csv", "--text_column", "kolom_a"]
    status, text = run_here("scripts/predict.py", *words)
    assert status == 0, text

    label_many(browser, path=path)  # neither by name nor by content is one the texts
    assert error_of(browser) == PAGE["en"]["choose"]
    find(browser, "#column input").click()
    options = wait_for(lambda: [e for e in find_all(browser, "[role=option]") if e.text.strip() == "kolom_a"])
    options[0].click()
    find(browser, "#predict").click()
    wait_for(lambda: find(browser, "#download").is_displayed() and text_of(browser, "#certain"))
    find(browser, "#download").click()
    (found,) = wait_for(lambda: list(browser.downloads.glob("*.csv")))
    assert found.name == "ulasan.csv" and found.read_bytes() == (tmp_path / "by_predict.csv").read_bytes()
    assert not find_all(browser, "#certain img, #doubtful img")


@pytest.mark.slow
def test_pasted_lines_are_counted_in_bars_and_a_broken_file_gets_the_error_of_predict(
    browser, classifier, tmp_path, monkeypatch
):
    """A small count beside large ones, of which an axis that does not begin at zero shows nothing."""
    assert [classifier(text)["label"] for text in EXAMPLES] == ["positive", "neutral", "negative"]
    label_many(browser, "\n".join([EXAMPLES[0]] * 30 + [EXAMPLES[1]] * 12 + [EXAMPLES[2]] * 24))
    bars = "#counts svg .mark-rect path"
    heights = wait_for(lambda: [bar.rect["height"] for bar in find_all(browser, bars)])
    assert [height / heights[0] for height in heights] == pytest.approx([1, 12 / 30, 24 / 30], abs=0.03)

    path = tmp_path / "rusak.csv"
    path.write_bytes(b'text,n\n"<b>enak</b>",1\n"kotor",2,3\n')
    monkeypatch.chdir(tmp_path)
    status, text = run_here("scripts/predict.py", "--input", path.name, "--output", "out.csv")
    label_many(browser, path=path)
    shown = error_of(browser)
    expected = f"{PAGE['en']['cause']} {text.removeprefix('error: ')} {PAGE['en']['options']}"
    assert status == 1 and shown.split() == expected.split()
    assert "rusak.csv:3" in shown
    wait_for(lambda: not any(element.is_displayed() for element in find_all(browser, "#download, #certain")))


@pytest.mark.slow
def test_nothing_is_labelled_any_more_once_it_is_stopped_or_the_page_is_closed(browser, page):
    (jobs,) = Path(tempfile.gettempdir()).glob(f"smsa-demo-*-{page.split(':')[-1].strip('/')}/jobs")
    for end in (lambda: find(browser, "#stop").click(), lambda: browser.get("about:blank")):
        label_many(browser, "\n".join(f"enak nomor {number}" for number in range(100_000)))  # minutes
        wait_for(lambda: list(jobs.rglob("part-*.arrow")))
        end()
        wait_for(lambda: not any(jobs.iterdir()), 30)


def test_every_word_of_the_page_stands_in_both_languages():
    minutes = f"{KEPT_SECONDS // 60} men"
    assert f"{MAX_CHARS:,}" in PAGE["en"]["too_long"] and f"{MAX_CHARS:,}".replace(",", ".") in PAGE["id"]["too_long"]
    assert minutes in PAGE["en"]["footer"].replace("minutes", "menit") and minutes in PAGE["id"]["footer"]
    assert all("Excel" in words["upload"] and "JSON" in words["upload"] for words in PAGE.values())
    assert set(PAGE["id"]) - set(PAGE["en"]) == {*LABELS} and set(PAGE["en"]) < set(PAGE["id"])


def test_words_are_marked_by_their_weights():
    words = [{"word": "a", "start": 1, "end": 2, "weight": -4.0}, {"word": "b", "start": 3, "end": 4, "weight": 2.0}]
    assert mark_words(" a b.", words) == [(" ", None), ("a", 1.0), (" ", None), ("b", -0.5), (".", None)]


def test_the_columns_of_a_file_are_offered_where_there_is_a_choice(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("judul,tulisan\na,b\n")
    offered = find_columns(str(path))
    assert offered["visible"] and offered["choices"] == ["judul", "tulisan"] and offered["value"] is None
    path.write_text("judul,ulasan\na,b\n")
    assert find_columns(str(path))["value"] == "ulasan"
    path.write_text("")
    assert not find_columns(str(path))["visible"] and not find_columns(None)["visible"]


def test_extremes_of_a_sheet_have_the_texts_as_they_were(classifier, tmp_path):
    """Column and texts that a spreadsheet would run, a column called as one that is added, other keys by row."""
    (tmp_path / "in.csv").write_text('"@ulasan",label\n"=1+1 enak",x\n"kotor",y\n')
    output, labels, (certain, doubtful) = label_file(classifier, tmp_path / "in.csv", "@ulasan")
    assert "smsa_label" in output.read_text() and sum(labels.values()) == 2
    found = {text: classifier(text) for text in ("=1+1 enak", "kotor")}
    assert {row[2]: row[:2] for row in certain} == {t: [f["label"], f"{f['score']:.3f}"] for t, f in found.items()}
    assert certain[0][1] >= certain[1][1] and doubtful == certain[::-1]
    (tmp_path / "in.jsonl").write_text('{"text": "enak"}\n{"text": "kotor", "n": 1}\n{"text": "enak"}\n')
    certain, _ = label_file(classifier, tmp_path / "in.jsonl")[2]
    assert sorted(row[2] for row in certain) == ["enak", "kotor"]
    (tmp_path / "empty.txt").write_text("")
    assert label_file(classifier, tmp_path / "empty.txt")[2] == ([], [])


@pytest.mark.slow
def test_many_clients_at_once_get_their_own_answers_and_errors(page, classifier):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    texts = [line.split("\t")[0] for line in (ROOT / "data/sample/valid_preprocess.tsv").read_text().splitlines()]
    expected = {text: answer for text, answer in zip(texts, classifier(texts), strict=True)}

    def visit(number: int) -> int:
        client = Client(page, verbose=False)
        for text in random.Random(number).choices(texts, k=3):
            answer, _ = client.predict(text, api_name="/label")
            shares = {f"p_{share['label']}": share["confidence"] for share in answer["confidences"]}
            assert shares == pytest.approx({name: expected[text][name] for name in shares}, abs=0.02), text
            assert len(shares) == 3
        with pytest.raises(AppError, match="more than 5,000 characters"):
            client.predict("a" * (MAX_CHARS + 1), api_name="/label")
        return number

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(visit, range(12))) == [*range(12)]


@pytest.mark.parametrize("option, value", [("--port", "70000"), ("--port", "taken"), ("--model", "no/such")])
def test_a_port_or_a_model_that_cannot_be_is_an_error(option, value):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        value = str(taken.getsockname()[1]) if value == "taken" else value
        status, text = run_here("scripts/demo.py", option, value)
    assert status == 1 and text.startswith("error: ") and value in text and (option == "--model" or "--port" in text)
