"""The page in a real browser: what is typed and uploaded, what is shown and downloaded, and many clients at once."""

import csv
import random
import re
import shutil
import socket
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import pytest
from conftest import PROXIES, ROOT
from processes import Program, find_free_port, run_here
from tables import HOSTILE

from smsa.data.labels import EXAMPLES, LABELS
from smsa.demo.page import MAX_CHARS, PAGE, find_columns, label_file, mark_words
from smsa.inference.classifier import SentimentClassifier
from smsa.models.loading import DEFAULT

HTML = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script><b>enak</b> sekali"
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"


@pytest.fixture(scope="module")
def page():
    """The address of the page, served by the script as a user starts it."""
    port = find_free_port()
    address, server = f"http://127.0.0.1:{port}/", Program(sys.executable, "scripts/demo.py", "--port", port, **PROXIES)
    wait_for(lambda: urllib.request.urlopen(address, timeout=5).close() is None, 120)
    yield address
    (folder,) = Path(tempfile.gettempdir()).glob(f"smsa-demo-*-{port}")
    assert list(folder.rglob("*.csv"))  # uploads and results: of the last ten minutes
    server.terminate()
    server.end(20, status=None)
    assert not folder.exists()


@pytest.fixture(scope="module")
def classifier():
    return SentimentClassifier.from_pretrained(DEFAULT, device="cpu")


@pytest.fixture
def browser(request, page, tmp_path):
    """Chromium at the page, in English or the language of a test's parameter; it downloads into `tmp_path`."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in [*FLAGS.split(), "--window-size=1200,1000", f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(flag)
    languages = {"intl.accept_languages": getattr(request, "param", "en")}
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads"), **languages})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as found:
        found.get(page)
        wait_for(lambda: find(found, "#ask").text)
        yield found


def wait_for(condition, seconds: float = 60):
    """Return what `condition` returns once it is true; elements and servers come and go meanwhile."""
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(None, seconds, 0.05, [WebDriverException, OSError]).until(lambda _: condition(), "not in time")


def find(browser, selector: str):
    return browser.find_element("css selector", selector)


def find_all(browser, selector: str) -> list:
    return browser.find_elements("css selector", selector)


def ask(browser, text: str) -> None:
    """Type a text, ask for its label, and wait until its words are marked."""
    find(browser, "#text textarea").clear()
    find(browser, "#text textarea").send_keys(text)
    find(browser, "#ask").click()
    if text.strip():
        wait_for(lambda: "".join(find(browser, "#why").text.split()).endswith("".join(text.split())))


def error_of(browser) -> str:
    """Wait for an error, return its text, and close it."""
    shown = wait_for(lambda: find(browser, "[data-testid=toast-text]").text)
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
        wait_for(lambda: path.stem[:8] in find(browser, "#file").text)
    find(browser, "#predict").click()


@pytest.mark.slow
@pytest.mark.parametrize("browser, language", [("en-GB,en", "en"), ("id-ID,id", "id")], indirect=["browser"])
def test_a_text_gets_its_label_and_its_words_in_two_languages(browser, classifier, language):
    words, title = PAGE[language], browser.title
    wait_for(lambda: find(browser, "#ask").text == words["ask"])
    for text in EXAMPLES:
        ask(browser, text)
        shown = find(browser, "#answer").text.splitlines()[2:]
        shares = {label: int(share.rstrip("%")) / 100 for label, share in zip(shown[::2], shown[1::2], strict=True)}
        expected = {words.get(label, label): classifier(text)[f"p_{label}"] for label in LABELS}
        assert shares == pytest.approx(expected, abs=0.015)
        words_marked = mark_words(text, classifier.explain(text)["words"])["entities"]
        shades = [shade for word in words_marked if (shade := word["entity"])]
        marked = find_all(browser, "#why .score-token.highlighted")
        for element, shade in zip(marked, shades, strict=True):  # purple below 0, red above
            red, *_, alpha = map(float, re.findall(r"[\d.]+", element.value_of_css_property("background-color")))
            assert (alpha if red > 200 else -alpha) == pytest.approx(shade, abs=0.05)
    ask(browser, HTML)
    assert browser.title == title and not find_all(browser, "#why img, #why b, #why script")
    ask(browser, "  ")
    assert error_of(browser) == words["empty"]
    label_many(browser)
    assert error_of(browser) == words["nothing"] and find(browser, "#predict").text == words["predict"]


@pytest.mark.slow
def test_a_file_of_hostile_texts_comes_back_as_predict_writes_it(browser, tmp_path):
    draw, texts, path = random.Random(0), [*HOSTILE, HTML, *EXAMPLES], tmp_path / "ulasan.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        rows = [[str(number), draw.choice(texts), draw.choice(texts)] for number in range(1000)]
        csv.writer(stream).writerows([["id", "kolom_a", "kolom_b"], *rows])
    words = ["--input", path, "--output", tmp_path / "by_predict.csv", "--text_column", "kolom_a"]
    run_here("scripts/predict.py", *words)

    label_many(browser, path=path)  # neither by name nor by content is one the texts
    assert error_of(browser) == PAGE["en"]["choose"]
    find(browser, "#column input").click()
    options = wait_for(lambda: [e for e in find_all(browser, "[role=option]") if e.text.strip() == "kolom_a"])
    options[0].click()
    find(browser, "#predict").click()
    wait_for(lambda: find(browser, "#download").is_displayed() and find(browser, "#certain").text)
    find(browser, "#download").click()
    (found,) = wait_for(lambda: list((tmp_path / "downloads").glob("*.csv")))
    assert found.name == "ulasan.csv" and found.read_bytes() == (tmp_path / "by_predict.csv").read_bytes()
    assert not find_all(browser, "#certain img, #doubtful img")


@pytest.mark.slow
def test_bars_begin_at_zero_and_a_broken_file_gets_the_error_of_predict(browser, tmp_path, monkeypatch):
    label_many(browser, "\n".join([EXAMPLES[0]] * 30 + [EXAMPLES[1]] * 12 + [EXAMPLES[2]] * 24))
    bars = "#counts svg .mark-rect path"
    heights = wait_for(lambda: [bar.rect["height"] for bar in find_all(browser, bars)])
    assert [height / heights[0] for height in heights] == pytest.approx([1, 12 / 30, 24 / 30], abs=0.03)

    path = tmp_path / "rusak.csv"
    path.write_bytes(b'text,n\n"<b>enak</b>",1\n"kotor",2,3\n')
    monkeypatch.chdir(tmp_path)
    text = run_here("scripts/predict.py", "--input", path.name, "--output", "out.csv", status=1)
    label_many(browser, path=path)
    shown = error_of(browser)
    assert "rusak.csv:3" in shown and " ".join(text.removeprefix("error: ").split()) in shown
    wait_for(lambda: not any(element.is_displayed() for element in find_all(browser, "#download, #certain")))


@pytest.mark.slow
def test_nothing_is_labelled_any_more_once_it_is_stopped_or_the_page_is_closed(browser, page):
    (jobs,) = Path(tempfile.gettempdir()).glob(f"smsa-demo-*-{page.split(':')[-1].strip('/')}/jobs")
    for end in (lambda: find(browser, "#stop").click(), lambda: browser.get("about:blank")):
        label_many(browser, "\n".join(f"enak nomor {number}" for number in range(100_000)))  # minutes
        wait_for(lambda: list(jobs.rglob("part-*.arrow")))
        end()
        wait_for(lambda: not any(jobs.iterdir()), 30)


def test_every_word_of_the_page_stands_in_both_languages_and_those_of_a_text_are_marked_by_their_weights():
    assert PAGE["id"].keys() == PAGE["en"].keys() | {*LABELS}
    words = [{"word": "a", "start": 1, "end": 2, "weight": -4.0}, {"word": "b", "start": 3, "end": 4, "weight": 2.0}]
    shown = gr.HighlightedText().postprocess(mark_words(" a b.", words)).model_dump()
    tokens = [(part["token"], part["class_or_confidence"]) for part in shown]
    assert tokens == [(" ", None), ("a", 1.0), (" ", None), ("b", -0.5), (".", None)]


def test_the_columns_of_a_file_are_offered_where_there_is_a_choice(tmp_path):
    path = tmp_path / "a.csv"
    for content, *offered in (
        ("judul,tulisan\na,b\n", True, ["judul", "tulisan"], None),
        ("judul,ulasan\na,b\n", True, ["judul", "ulasan"], "ulasan"),
        ("", False, [], None),
    ):
        path.write_text(content)
        found = find_columns(str(path))
        assert [found["visible"], found["choices"], found["value"]] == offered
    assert not find_columns(None)["visible"]


def test_extremes_of_a_sheet_have_the_texts_as_they_were(classifier, tmp_path):
    """Column and texts that a spreadsheet would run, a column called as one that is added, other keys by row."""
    (tmp_path / "in.csv").write_text('"@ulasan",label\n"=1+1 enak",x\n"kotor",y\n')
    output, labels, (certain, doubtful) = label_file(classifier, tmp_path / "in.csv", "@ulasan")
    assert "smsa_label" in output.read_text() and sum(labels.values()) == 2
    answers = {text: classifier(text) for text in ("=1+1 enak", "kotor")}
    rows = [[found["label"], f"{found['score']:.3f}", text] for text, found in answers.items()]
    rows.sort(key=lambda row: row[1])
    assert doubtful.to_numpy().tolist() == rows and certain.to_numpy().tolist() == rows[::-1]
    (tmp_path / "in.jsonl").write_text('{"text": "enak"}\n{"text": "kotor", "n": 1}\n{"text": "enak"}\n')
    (tmp_path / "empty.csv").write_text("")
    for name, texts in (("in.jsonl", ["enak", "kotor"]), ("empty.csv", [])):
        assert sorted(label_file(classifier, tmp_path / name)[2][0]["text"]) == texts


@pytest.mark.slow
def test_many_clients_at_once_get_their_own_answers_and_errors(page, classifier):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    texts = [line.split("\t")[0] for line in (ROOT / "data/sample/valid_preprocess.tsv").read_text().splitlines()]

    def visit(number: int) -> None:
        client = Client(page, verbose=False)
        for text in random.Random(number).choices(texts, k=3):
            answer, _ = client.predict(text, api_name="/label")
            shares = {f"p_{share['label']}": share["confidence"] for share in answer["confidences"]}
            expected = classifier(text)
            assert shares == pytest.approx({f"p_{label}": expected[f"p_{label}"] for label in LABELS}, abs=0.02), text
        with pytest.raises(AppError, match="more than 5,000 characters"):
            client.predict("a" * (MAX_CHARS + 1), api_name="/label")

    with ThreadPoolExecutor(12) as pool:
        assert len([*pool.map(visit, range(12))]) == 12


def test_a_port_that_cannot_be_is_an_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for port in ("70000", str(taken.getsockname()[1])):
            text = run_here("scripts/demo.py", "--port", port, status=1)
            assert text.startswith(f"error: no page at 127.0.0.1:{port} ") and "another --port" in text
