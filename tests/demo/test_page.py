"""The page in a real browser: what is typed and uploaded, what is shown and downloaded, and many clients at once."""

import csv
import json
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
from conftest import ROOT
from tables import HOSTILE

from smsa.data.labels import EXAMPLES
from smsa.demo.page import (
    KEPT_SECONDS,
    MAX_CHARS,
    PAGE,
    TAKEN_PREFIX,
    find_columns,
    find_extremes,
    label_file,
    mark_words,
)
from smsa.inference.classifier import SentimentClassifier
from smsa.inference.job import predict_files
from smsa.models.bundled import CLASSIFIER

HTML = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script><b>enak</b> sekali"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1200,1000"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The address of the page, served by the script as a user starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("demo") / "log"
    with log.open("w") as stream:
        server = subprocess.Popen(
            [sys.executable, "scripts/demo.py", "--port", str(port)], cwd=ROOT, stdout=stream, stderr=stream
        )
    address = f"http://127.0.0.1:{port}/"
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=5)
            break
        except OSError:
            time.sleep(0.5)
    yield address
    (folder,) = Path(tempfile.gettempdir()).glob(f"smsa-demo-*-{port}")
    assert list(folder.rglob("*.csv"))  # uploads and results: of the last ten minutes
    server.terminate()
    server.wait(20)
    assert not folder.exists()


@pytest.fixture(scope="module")
def classifier():
    return SentimentClassifier.from_pretrained(CLASSIFIER, device="cpu")


@pytest.fixture
def browser(request, page, tmp_path):
    """Chromium at the page, in English unless a test asks for another language; it downloads to tmp_path/downloads."""
    language = getattr(request, "param", "en")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    wanted = {"download.default_directory": str(tmp_path / "downloads"), "intl.accept_languages": language}
    options.add_experimental_option("prefs", wanted)
    found = webdriver.Chrome(options=options, service=Service(driver))
    found.get(page)
    wait_for(lambda: text_of(found, "#ask") == PAGE[language[:2]]["ask"])
    yield found
    found.quit()


def wait_for(condition, seconds: float = 60):
    """Return what `condition` returns once it is true; elements come and go meanwhile."""
    from selenium.common.exceptions import WebDriverException

    until = time.monotonic() + seconds
    while True:
        try:
            if found := condition():
                return found
        except WebDriverException:
            pass
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.05)


def find(browser, selector: str):
    return browser.find_element("css selector", selector)


def text_of(browser, selector: str) -> str:
    return find(browser, selector).text


def is_hidden(browser, selector: str) -> bool:
    return not any(element.is_displayed() for element in browser.find_elements("css selector", selector))


def ask(browser, text: str) -> list[tuple[str, int]]:
    """Type a text, and return each label and its percentage once the words of this text are marked."""
    box = find(browser, "#text textarea")
    box.clear()
    box.send_keys(text)
    find(browser, "#ask").click()
    wait_for(lambda: "".join(text_of(browser, "#why").split()).endswith("".join(text.split())))
    lines = text_of(browser, "#answer").splitlines()[2:]
    return [(label, int(share.rstrip("%"))) for label, share in zip(lines[::2], lines[1::2], strict=True)]


def shades(browser) -> list[tuple[str, float]]:
    """Return the words that are marked, and how: from -1, which is purple, to 1, which is red."""
    found = []
    for element in browser.find_elements("css selector", "#why .score-token.highlighted"):
        red, *_, alpha = map(float, re.findall(r"[\d.]+", element.value_of_css_property("background-color")))
        found.append((element.text.strip(), alpha if red > 200 else -alpha))
    return found


def error_of(browser) -> str:
    """Wait for an error, return its text, and close it."""
    shown = wait_for(lambda: text_of(browser, "[data-testid=toast-text]"))
    find(browser, "[data-testid=toast-close]").click()
    wait_for(lambda: not browser.find_elements("css selector", "[data-testid=toast-text]"))
    return shown


def open_many(browser):
    find(browser, "button[role=tab]:nth-of-type(2)").click()
    wait_for(lambda: find(browser, "#predict").is_displayed())


def upload(browser, path):
    browser.find_element("css selector", "#file input[type=file]").send_keys(str(path))
    wait_for(lambda: path.stem[:8] in text_of(browser, "#file"))


@pytest.mark.slow
@pytest.mark.parametrize("browser, language", [("en-GB,en", "en"), ("id-ID,id", "id")], indirect=["browser"])
def test_a_text_gets_its_label_its_bars_and_its_words_in_two_languages(browser, classifier, language):
    words = PAGE[language]
    for text in EXAMPLES:
        expected = classifier(text)
        shown = ask(browser, text)
        assert shown[0][0] == words.get(expected["label"], expected["label"])
        shares = {words.get(label, label): expected[f"p_{label}"] for label in classifier.labels}
        for label, share in shown:
            assert share == pytest.approx(100 * shares[label], abs=1.5)
        bars = browser.find_elements("css selector", "#answer meter")
        assert [float(bar.get_attribute("value")) for bar in bars] == pytest.approx(
            sorted(shares.values(), reverse=True), abs=0.01
        )
        assert shades(browser) == [
            (part.strip(), pytest.approx(shade, abs=0.05))
            for part, shade in mark_words(text, classifier.explain(text)["words"])
            if shade is not None
        ]
    browser_text = text_of(browser, "body")
    assert all(words[name].lstrip("# ") in browser_text for name in ("title", "one", "many", "why_hint", "footer"))
    find(browser, "#text textarea").clear()
    find(browser, "#text textarea").send_keys("  ")
    find(browser, "#ask").click()
    assert error_of(browser) == words["empty"]
    open_many(browser)
    assert text_of(browser, "#predict") == words["predict"]


@pytest.mark.slow
@pytest.mark.parametrize("width, theme", [(360, "dark"), (1200, "light")])
def test_the_page_fits_a_phone_and_a_desk_in_light_and_dark(browser, page, width, theme):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(f"{page}?__theme={theme}")
    wait_for(lambda: "Label it" in text_of(browser, "#ask"))
    title = browser.title
    ask(browser, HTML)
    assert browser.title == title and not browser.find_elements("css selector", "#why img, #why b, #why script")
    open_many(browser)
    find(browser, "#lines textarea").send_keys("makanannya enak sekali, pelayanannya juga ramah\nkecewa")
    find(browser, "#predict").click()
    wait_for(lambda: "kecewa" in text_of(browser, "#doubtful"))
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    background = find(browser, "#lines textarea").value_of_css_property("background-color")
    brightness = sum(map(int, re.findall(r"\d+", background)[:3]))
    assert (brightness < 200) == (theme == "dark")


@pytest.mark.slow
def test_a_file_of_hostile_texts_comes_back_as_predict_writes_it(browser, tmp_path):
    draw = random.Random(0)
    texts = [*HOSTILE, HTML, *EXAMPLES]
    rows = [[str(number), draw.choice(texts), "=1+1"] for number in range(1000)]
    path = tmp_path / "ulasan.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["id", "pesan_warga", "catatan"], *rows])
    command = [sys.executable, "scripts/predict.py", "--input", path, "--output", tmp_path / "by_predict.csv"]
    subprocess.run([*command, "--text_column", "pesan_warga"], cwd=ROOT, check=True, capture_output=True)
    expected = (tmp_path / "by_predict.csv").read_bytes()

    open_many(browser)
    upload(browser, path)
    wait_for(lambda: find(browser, "#column input").is_displayed())
    find(browser, "#predict").click()  # no column is called anything known
    assert error_of(browser) == PAGE["en"]["choose"]
    find(browser, "#column input").click()
    wait_for(
        lambda: [e for e in browser.find_elements("css selector", "[role=option]") if e.text.strip() == "pesan_warga"]
    )[0].click()
    browser.execute_script(  # the progress is gone before one could look
        """window.said = [];
        const look = () => document.querySelectorAll('.progress-text, .progress-level').forEach(
            element => window.said.push(element.textContent));
        new MutationObserver(look).observe(document.body, {childList: true, subtree: true, characterData: true});
        """
    )
    find(browser, "#predict").click()
    wait_for(lambda: find(browser, "#download").is_displayed())
    assert any("1000" in said for said in browser.execute_script("return window.said"))
    wait_for(lambda: find(browser, "#certain").text)
    find(browser, "#download").click()
    wait_for(lambda: list((tmp_path / "downloads").glob("*.csv")))
    (found,) = (tmp_path / "downloads").glob("*.csv")
    assert found.name == "ulasan.csv" and found.read_bytes() == expected
    assert not browser.find_elements("css selector", "#certain img, #doubtful img")
    with found.open(encoding="utf-8", newline="") as stream:
        scores = sorted(float(row["score"]) for row in csv.DictReader(stream) if row["label"])
    for name, expected_scores in (("certain", scores[:-9:-1]), ("doubtful", scores[:8])):
        shown = re.findall(r"\b[01]\.\d{3}\b", text_of(browser, f"#{name}"))
        assert [float(score) for score in shown[:3]] == pytest.approx(expected_scores[:3], abs=6e-4)


@pytest.mark.slow
def test_bars_are_as_high_as_the_counts_of_their_labels(browser, classifier):
    """A small count beside large ones, of which an axis that does not begin at zero shows nothing."""
    open_many(browser)
    texts = [EXAMPLES[0]] * 30 + [EXAMPLES[1]] * 12 + [EXAMPLES[2]] * 24
    assert [classifier(text)["label"] for text in EXAMPLES] == ["positive", "neutral", "negative"]
    browser.execute_script(
        """const box = document.querySelector('#lines textarea');
        box.value = arguments[0]; box.dispatchEvent(new Event('input', {bubbles: true}));""",
        "\n".join(texts),
    )
    find(browser, "#predict").click()
    bars = wait_for(lambda: browser.find_elements("css selector", "#counts svg .mark-rect path"))
    heights = [bar.rect["height"] for bar in bars]
    assert [height / heights[0] for height in heights] == pytest.approx([1, 12 / 30, 24 / 30], abs=0.03)


@pytest.mark.slow
def test_pasted_lines_are_labelled_and_a_broken_file_gets_the_error_of_predict(browser, tmp_path):
    open_many(browser)
    find(browser, "#predict").click()
    assert error_of(browser) == PAGE["en"]["nothing"]
    find(browser, "#lines textarea").send_keys("makanannya enak sekali\nkecewa, kotor dan lambat\n")
    find(browser, "#predict").click()
    wait_for(lambda: "makanannya enak sekali" in text_of(browser, "#certain"))

    path = tmp_path / "rusak.csv"
    path.write_bytes(b'text,n\n"<b>enak</b>",1\n"kotor",2,3\n')
    command = [sys.executable, "scripts/predict.py", "--input", path.name, "--output", "out.csv"]
    done = subprocess.run(command[:1] + [ROOT / command[1]] + command[2:], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    upload(browser, path)
    find(browser, "#predict").click()
    shown = error_of(browser)
    assert shown.split() == done.stderr.split("error: ")[1].split() and "rusak.csv:3" in shown
    wait_for(lambda: is_hidden(browser, "#download") and is_hidden(browser, "#certain"))


def test_every_word_of_the_page_stands_in_both_languages():
    for words, n_chars in ((PAGE["id"], "5.000"), (PAGE["en"], "5,000")):
        assert n_chars in words["too_long"] and f"{KEPT_SECONDS // 60} men" in words["footer"].replace(
            "minutes", "menit"
        )
    assert MAX_CHARS == 5_000
    assert set(PAGE["id"]) - set(PAGE["en"]) == {"positive", "neutral", "negative"} and set(PAGE["en"]) < set(
        PAGE["id"]
    )


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


def test_extremes_are_the_rows_that_predict_wrote(classifier, tmp_path):
    texts = [text for text in HOSTILE if text.strip()] + list(EXAMPLES)
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(texts)))
    predict_files(classifier, str(path), str(tmp_path / "out.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    rows = sorted((row for row in rows if row["label"]), key=lambda row: row["score"])
    certain, doubtful = find_extremes(tmp_path / "out.jsonl", "text")
    assert [row[1] for row in doubtful] == [f"{row['score']:.3f}" for row in rows[:8]]
    assert [row[1] for row in certain] == [f"{row['score']:.3f}" for row in rows[:-9:-1]]
    assert {row[0] for row in certain} <= set(classifier.labels)


def test_extremes_of_a_sheet_have_the_texts_as_they_were(classifier, tmp_path):
    """Column and texts that a spreadsheet would run, a column called as one that is added, other keys by row."""
    (tmp_path / "in.csv").write_text('"@ulasan",label\n"=1+1 enak",x\n"kotor",y\n')
    output, labels, (certain, doubtful) = label_file(classifier, tmp_path / "in.csv", "@ulasan")
    assert f"{TAKEN_PREFIX}label" in output.read_text() and sum(labels.values()) == 2
    assert sorted(row[2] for row in certain) == ["=1+1 enak", "kotor"] and len(doubtful) == 2
    (tmp_path / "in.jsonl").write_text('{"text": "enak"}\n{"text": "kotor", "n": 1}\n')
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
        client, draw = Client(page, verbose=False), random.Random(number)
        for text in draw.choices(texts, k=5):
            answer, _ = client.predict(text, api_name="/label")
            shares = {share["label"]: share["confidence"] for share in answer["confidences"]}
            for label in classifier.labels:
                assert shares[label] == pytest.approx(expected[text][f"p_{label}"], abs=0.02), text
        with pytest.raises(AppError, match="more than 5,000 characters"):
            client.predict("a" * (MAX_CHARS + 1), api_name="/label")
        return 5

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(visit, range(20))) == 100


@pytest.mark.slow
def test_a_port_that_is_taken_and_a_model_that_is_not_there_are_errors(page):
    for options, named in (
        (("--port", page.split(":")[2].strip("/")), "port"),
        (("--model", "no/such-folder"), "no/such"),
        (("--port", "70000"), "70000"),
    ):
        done = subprocess.run(
            [sys.executable, "scripts/demo.py", *options], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert named in done.stderr.split("error: ")[1]
