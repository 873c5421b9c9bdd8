"""A page to try a model on: one text and why, or many texts at once. Nothing that is typed is kept.

Gradio makes the page. What is scored is scored by the classes behind scripts/predict.py, so files are the same bytes.
"""

import os
from collections.abc import Iterator
from heapq import nlargest, nsmallest
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr
import pandas as pd

from smsa.card import EXAMPLES
from smsa.scoring.classifier import SentimentClassifier
from smsa.scoring.paths import pair_outputs, score_paths
from smsa.scoring.tables import INPUT_FORMATS, ManyColumns, Source, find_layout

MAX_CHARS = 5_000  # of one text
MAX_UPLOAD = "200mb"
KEPT_SECONDS = 600  # after which a file that was uploaded, and its result, are deleted
ROWS_SHOWN = 8  # of the most certain and of the most doubtful
_READ_ROWS = 1024

PAGE = {
    "id": {
        "title": "## Sentimen teks Indonesia",
        "one": "Satu teks",
        "many": "Banyak teks",
        "text": "Teks",
        "text_hint": "Ketik atau tempel satu teks, misalnya ulasan atau cuitan",
        "ask": "Beri label",
        "examples": "Contoh",
        "answer": "Label",
        "why": "Kata yang mendorong",
        "why_hint": "Ungu mendorong ke label ini, merah menjauhkan darinya; makin pekat makin kuat. Ini yang dibaca "
        "model, bukan alasan seorang manusia.",
        "lines": "Satu teks per baris",
        "lines_hint": "Tempel beberapa baris di sini, atau unggah berkas di bawah",
        "file": "Berkas: .csv, .tsv, .jsonl, .parquet, .txt",
        "column": "Kolom berisi teks",
        "score": "Beri label semuanya",
        "error": "Tidak berhasil",
        "shares": "Jumlah baris per label",
        "rows": "baris",
        "certain": "Paling yakin",
        "doubtful": "Paling ragu",
        "headers": ["label", "peluang", "teks"],
        "download": "Unduh hasil",
        "footer": "Teks dan berkas tidak disimpan: berkas yang diunggah dan hasilnya dihapus setelah "
        f"{KEPT_SECONDS // 60} menit.",
        "labels": {"positive": "positif", "neutral": "netral", "negative": "negatif"},
        "empty": "Teksnya kosong: tulis setidaknya satu kata.",
        "nothing": "Tempel teks atau unggah berkas dahulu.",
        "choose": "Pilih kolom yang berisi teks, lalu coba lagi.",
        "too_long": f"Teksnya lebih dari {MAX_CHARS:,} karakter: unggah sebagai berkas.",
    },
    "en": {
        "title": "## Sentiment of Indonesian texts",
        "one": "One text",
        "many": "Many texts",
        "text": "Text",
        "text_hint": "Type or paste one Indonesian text, such as a review or a tweet",
        "ask": "Label it",
        "examples": "Examples",
        "answer": "Label",
        "why": "Words that pushed",
        "why_hint": "Purple pushes towards this label, red away from it; the stronger, the deeper. It is what the "
        "model reads, not a person's reasons.",
        "lines": "One text a line",
        "lines_hint": "Paste some lines here, or upload a file below",
        "file": "File: .csv, .tsv, .jsonl, .parquet, .txt",
        "column": "Column of texts",
        "score": "Label them all",
        "error": "That did not work",
        "shares": "Rows by label",
        "rows": "rows",
        "certain": "Most certain",
        "doubtful": "Most doubtful",
        "headers": ["label", "probability", "text"],
        "download": "Download the result",
        "footer": "Texts are not kept: files that are uploaded, and their results, are deleted after "
        f"{KEPT_SECONDS // 60} minutes.",
        "labels": {},
        "empty": "The text is empty: write at least one word.",
        "nothing": "Paste some texts or upload a file first.",
        "choose": "Choose the column that holds the texts, and try again.",
        "too_long": f"The text has more than {MAX_CHARS:,} characters: upload it as a file.",
    },
}


def build_page(classifier: SentimentClassifier) -> gr.Blocks:
    """Get the page, whose functions label with `classifier`."""
    words = PAGE["id"]
    by_name = {"concurrency_limit": 1}  # the engine uses all cores for one; programs may call these two
    one_at_a_time = {"concurrency_limit": 1, "api_visibility": "private"}
    with gr.Blocks(title="smsa", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)) as page:
        with gr.Row(equal_height=True):
            title = gr.Markdown(words["title"])
            language = gr.Radio(
                [("Indonesia", "id"), ("English", "en")],
                value="id",
                show_label=False,
                container=False,
                elem_id="language",
            )
        with gr.Tab(words["one"]) as one:
            text = gr.Textbox(
                label=words["text"],
                placeholder=words["text_hint"],
                lines=3,
                max_lines=12,
                max_length=MAX_CHARS,
                elem_id="text",
            )
            ask = gr.Button(words["ask"], variant="primary", elem_id="ask")
            with gr.Row():
                answer = gr.Label(label=words["answer"], elem_id="answer")
                with gr.Column():
                    why = gr.HighlightedText(label=words["why"], show_whitespaces=True, elem_id="why")
                    why_hint = gr.Markdown(words["why_hint"])
            problem = gr.Textbox(label=words["error"], visible=False, interactive=False, elem_id="problem")
            examples = gr.Examples([[example] for example in EXAMPLES], text, label=words["examples"])
        with gr.Tab(words["many"]) as many:
            lines = gr.Textbox(
                label=words["lines"], placeholder=words["lines_hint"], lines=4, max_lines=8, elem_id="lines"
            )
            file = gr.File(label=words["file"], elem_id="file", height=140)
            column = gr.Dropdown([], label=words["column"], visible=False, elem_id="column")
            score = gr.Button(words["score"], variant="primary", elem_id="score")
            fault = gr.Textbox(label=words["error"], visible=False, interactive=False, lines=3, elem_id="fault")
            download = gr.DownloadButton(words["download"], visible=False, elem_id="download")
            shares = gr.BarPlot(x="label", y="n", title=words["shares"], visible=False, height=240, elem_id="shares")
            tables = {
                name: gr.Dataframe(
                    headers=words["headers"],
                    datatype="str",
                    column_widths=["25%", "27%", "48%"],
                    label=words[name],
                    visible=False,
                    wrap=True,
                    elem_id=name,
                )
                for name in ("certain", "doubtful")
            }
        footer = gr.Markdown(words["footer"])

        # What is written in a language, and under which name of `PAGE`.
        written = [
            (title, "value", "title"),
            (one, "label", "one"),
            (many, "label", "many"),
            (text, "label", "text"),
            (text, "placeholder", "text_hint"),
            (ask, "value", "ask"),
            (examples.dataset, "label", "examples"),
            (answer, "label", "answer"),
            (why, "label", "why"),
            (why_hint, "value", "why_hint"),
            (problem, "label", "error"),
            (lines, "label", "lines"),
            (lines, "placeholder", "lines_hint"),
            (file, "label", "file"),
            (column, "label", "column"),
            (score, "value", "score"),
            (fault, "label", "error"),
            (download, "label", "download"),
            (shares, "title", "shares"),
            *((table, "label", name) for name, table in tables.items()),
            *((table, "headers", "headers") for table in tables.values()),
            (footer, "value", "footer"),
        ]
        translated = list(dict.fromkeys(component for component, _, _ in written))

        def translate(language: str) -> list[dict]:
            changes: dict = {component: {} for component in translated}
            for component, attribute, name in written:
                changes[component][attribute] = PAGE[language][name]
            return [gr.update(**change) for change in changes.values()]

        def greet(request: gr.Request) -> str:
            wanted = request.headers.get("accept-language", "")
            return "en" if wanted.lower().startswith("en") else "id"

        def label_text(text: str, language: str) -> tuple:
            """Label one text: what `answer`, `why` and `problem` show; `explain_text` fills `why` then."""
            words = PAGE[language]
            reason = "too_long" if len(text) > MAX_CHARS else None if text.strip() else "empty"
            found = None if reason else classifier(text)
            if found and found["empty"]:
                reason = "empty"
            if reason:
                return None, None, gr.update(value=words[reason], visible=True)
            shown = {words["labels"].get(label, label): found[f"p_{label}"] for label in classifier.labels}
            return shown, None, gr.update(visible=False)

        def explain_text(text: str) -> list[tuple[str, float | None]] | None:
            if not text.strip() or len(text) > MAX_CHARS or classifier(text)["empty"]:
                return None
            return mark_words(text, classifier.explain(text)["words"])

        def look_into(path: str | None) -> dict:
            """Offer the columns of a file that has been uploaded; what is wrong with it is said when it is scored."""
            if path is None:
                return gr.update(visible=False, value=None, choices=[])
            try:
                layout = find_layout(Path(path), INPUT_FORMATS)
                source = Source(Path(path), layout, "csv")
                choices, value = source.candidates, source.text_column
            except ManyColumns as error:
                choices, value = error.candidates, None
            except ValueError:
                choices, value = [], None
            return gr.update(visible=len(choices) > 1, choices=choices, value=value)

        def label_many(
            lines: str, path: str | None, column: str | None, language: str, progress=gr.Progress(track_tqdm=True)
        ) -> Iterator[list]:
            """Score lines or a file: what `fault`, `download`, `shares` and the tables show."""
            hidden = gr.update(visible=False)
            words = PAGE[language]
            try:
                with TemporaryDirectory(prefix="smsa-") as folder:  # gone when the result has been taken into the cache
                    if path is None and not lines.strip():
                        raise ValueError(words["nothing"])
                    if path is None:
                        path, column = str(Path(folder, "texts.txt")), None
                        Path(path).write_text(lines.strip("\n") + "\n", encoding="utf-8")
                    ((_, output),) = pair_outputs([Path(path)], f"{folder}/scored/")
                    (summary,) = score_paths(classifier, [path], str(output), text_column=column)
                    counts = {words["labels"].get(label, label): n for label, n in summary["labels"].items()}
                    text_column = summary["job"]["inputs"][0]["text_column"]
                    certain, doubtful = find_extremes(output, text_column, words["labels"])
                    yield [
                        hidden,
                        gr.update(value=str(output), visible=True),
                        gr.update(
                            value=pd.DataFrame({"label": list(counts), "n": list(counts.values())}),
                            y_title=words["rows"],
                            sort=list(counts),
                            visible=True,
                        ),
                        gr.update(value=certain, visible=True),
                        gr.update(value=doubtful, visible=True),
                    ]
            except ManyColumns:
                yield [gr.update(value=words["choose"], visible=True), *[hidden] * 4]
            except (ValueError, OSError, FloatingPointError) as error:  # as scripts/predict.py
                said = str(error).replace(f"{Path(path or '').parent}{os.sep}", "")
                yield [gr.update(value=said, visible=True), *[hidden] * 4]

        page.load(greet, None, language, api_visibility="private").then(
            translate, language, translated, api_visibility="private"
        )
        language.change(translate, language, translated, api_visibility="private")
        asked = gr.on(
            [ask.click, text.submit], label_text, [text, language], [answer, why, problem], api_name="label", **by_name
        )
        asked.then(explain_text, text, why, api_name="explain", **by_name)
        file.change(look_into, file, column, **one_at_a_time)
        score.click(
            label_many, [lines, file, column, language], [fault, download, shares, *tables.values()], **one_at_a_time
        )
    return page


def mark_words(text: str, words: list[dict]) -> list[tuple[str, float | None]]:
    """Cut a text into words with their shade, 1 or -1 for the heaviest, and what is between them with None.

    Gradio paints what is below 0 purple and what is above it red, so shades are weights with their sign turned round.
    """
    largest = max(abs(word["weight"]) for word in words) or 1.0
    parts, position = [], 0
    for word in words:
        parts += [(text[position : word["start"]], None), (word["word"], -word["weight"] / largest)]
        position = word["end"]
    return [part for part in [*parts, (text[position:], None)] if part[0]]


def find_extremes(scored: Path, text_column: str, names: dict[str, str]) -> tuple[list[list[str]], list[list[str]]]:
    """Get label, probability and text of the most certain rows of a scored file, and of the most doubtful.

    Args:
        scored: the file.
        text_column: its column of texts.
        names: how labels are called; a label that is not there is called by its own name.
    """
    source = Source(scored, find_layout(scored, INPUT_FORMATS), "csv", text_column)

    def rows() -> Iterator[tuple[float, str, str]]:
        for window in source.windows(_READ_ROWS):
            columns = (window.table[name].to_pylist() for name in ("score", "label"))
            for score, label, text in zip(*columns, window.texts.to_pylist(), strict=True):
                if label:
                    yield float(score), names.get(label, label), text

    def shown(chosen: list[tuple[float, str, str]]) -> list[list[str]]:
        return [
            [label, f"{score:.3f}", text if len(text) <= 300 else f"{text[:300]}…"] for score, label, text in chosen
        ]

    def by_score(row: tuple[float, str, str]) -> float:
        return row[0]

    return shown(nlargest(ROWS_SHOWN, rows(), by_score)), shown(nsmallest(ROWS_SHOWN, rows(), by_score))


def serve(classifier: SentimentClassifier, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve the page until Ctrl-C; its files lie in a temporary folder, which is gone then.

    Args:
        classifier: what labels.
        host: address to bind to; 0.0.0.0 lets other machines in.
        port: where.

    Raises:
        OSError: if the port is taken.
    """
    with TemporaryDirectory(prefix="smsa-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # read when components are built
        page = build_page(classifier)
        fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none from a CDN
        page.launch(
            server_name=host,
            server_port=port,
            max_file_size=MAX_UPLOAD,
            run_history=False,
            share=False,
            footer_links=[],
            theme=gr.themes.Default(**fonts),
            show_error=True,
            ssr_mode=False,
        )
