"""A page to try a model on: one text and why, or many texts at once.

Gradio makes the page. What is scored is scored by the classes behind scripts/predict.py, so files are the same bytes.
One text is never written to a disk; pasted lines, files and their results are, and are deleted soon.
"""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from heapq import nlargest, nsmallest
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr
import pandas as pd
import pyarrow as pa

from smsa.data.reading import ManyColumns, Source
from smsa.errors import UserError
from smsa.inference.classifier import SentimentClassifier, added_columns
from smsa.inference.paths import pair_outputs, score_paths
from smsa.inference.writers import (
    INPUT_FORMATS,
    escape_formulas,
    find_layout,
    restore_formulas,
)
from smsa.sharing.card import EXAMPLES

MAX_CHARS = 5_000  # of one text
MAX_UPLOAD = "200mb"
KEPT_SECONDS = 600  # after which a file that was uploaded, and its result, are deleted
ROWS_SHOWN = 8  # of the most certain and of the most doubtful
TAKEN_PREFIX = "smsa_"  # of the added columns, where a file has one of their names already
_READ_ROWS = 1024

PAGE = {
    "id": {
        "title": "## Sentimen teks bahasa Indonesia",
        "one": "Satu teks",
        "many": "Banyak teks",
        "text": "Teks",
        "text_hint": "Ketik atau tempel satu teks, misalnya ulasan atau cuitan",
        "ask": "Beri label",
        "examples": "Contoh",
        "answer": "Label",
        "why": "Pengaruh tiap kata",
        "why_hint": "Ungu mendukung label ini, merah melawannya; makin pekat, makin kuat. Ini cara model membaca teks, "
        "bukan alasan manusia.",
        "lines": "Satu teks per baris",
        "lines_hint": "Tempel beberapa baris di sini, atau unggah berkas di bawah",
        "file": "Berkas (menggantikan baris di atas): .csv, .tsv, .jsonl, .parquet, .txt",
        "column": "Kolom berisi teks",
        "score": "Beri label semua teks",
        "error": "Gagal",
        "shares": "Jumlah baris per label",
        "rows": "baris",
        "certain": "Prediksi paling yakin",
        "doubtful": "Prediksi paling ragu",
        "headers": ["label", "probabilitas", "teks"],
        "download": "Unduh hasil",
        "footer": "Satu teks tidak pernah disimpan; beberapa baris, berkas, dan hasilnya dihapus setelah "
        f"{KEPT_SECONDS // 60} menit.",
        "labels": {"positive": "positif", "neutral": "netral", "negative": "negatif"},
        "empty": "Teksnya kosong: tulis setidaknya satu kata.",
        "nothing": "Tempelkan teks atau unggah berkas dulu.",
        "choose": "Pilih kolom yang berisi teks, lalu coba lagi.",
        "too_long": f"Teksnya lebih dari {MAX_CHARS // 1000}.000 karakter: unggah sebagai berkas.",
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
        "file": "File (in place of the lines above): .csv, .tsv, .jsonl, .parquet, .txt",
        "column": "Column of texts",
        "score": "Label them all",
        "error": "That did not work",
        "shares": "Rows by label",
        "rows": "rows",
        "certain": "Most certain",
        "doubtful": "Most doubtful",
        "headers": ["label", "probability", "text"],
        "download": "Download the result",
        "footer": "One text is never stored; pasted lines, files and their results are deleted after "
        f"{KEPT_SECONDS // 60} minutes.",
        "labels": {},
        "empty": "The text is empty: write at least one word.",
        "nothing": "Paste some texts or upload a file first.",
        "choose": "Choose the column that holds the texts, and try again.",
        "too_long": f"The text has more than {MAX_CHARS:,} characters: upload it as a file.",
    },
}


def build_page(classifier: SentimentClassifier, folder: Path) -> gr.Blocks:
    """Get the page, whose functions label with `classifier`, and files in a folder of their own in `folder`."""
    words = PAGE["id"]
    private = {"api_visibility": "private"}  # programs may call /label alone
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
        written = {
            title: {"value": "title"},
            one: {"label": "one"},
            many: {"label": "many"},
            text: {"label": "text", "placeholder": "text_hint"},
            ask: {"value": "ask"},
            examples.dataset: {"label": "examples"},
            answer: {"label": "answer"},
            why: {"label": "why"},
            why_hint: {"value": "why_hint"},
            problem: {"label": "error"},
            lines: {"label": "lines", "placeholder": "lines_hint"},
            file: {"label": "file"},
            column: {"label": "column"},
            score: {"value": "score"},
            fault: {"label": "error"},
            download: {"label": "download"},
            shares: {"title": "shares"},
            **{table: {"label": name, "headers": "headers"} for name, table in tables.items()},
            footer: {"value": "footer"},
        }

        def translate(language: str) -> list[dict]:
            words = PAGE[language]
            return [gr.update(**{place: words[name] for place, name in names.items()}) for names in written.values()]

        def greet(request: gr.Request) -> str:
            wanted = request.headers.get("accept-language", "")
            return "en" if wanted.lower().startswith("en") else "id"

        def label_text(text: str, language: str) -> Iterator[tuple]:
            """Label one text: what `answer`, `why` and `problem` show, first without and then with its words."""
            words = PAGE[language]
            reason = "too_long" if len(text) > MAX_CHARS else None
            if not reason:
                found = classifier(text)
                reason = "empty" if found["empty"] else None
            if reason:
                yield None, None, gr.update(value=words[reason], visible=True)
                return
            shown = {words["labels"].get(label, label): found[f"p_{label}"] for label in classifier.labels}
            fine = gr.update(visible=False)
            yield shown, None, fine
            yield shown, mark_words(text, classifier.explain(text, found["label"])["words"]), fine

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
            words, job = PAGE[language], folder
            try:
                # Gone when the result has been taken into Gradio's cache; there the upload may be deleted meanwhile.
                with TemporaryDirectory(dir=folder) as job:
                    source = Path(job, Path(path).name if path else "texts.txt")
                    if path:
                        shutil.copy(path, source)
                    elif lines.strip():
                        source.write_text(lines.strip("\n") + "\n", encoding="utf-8")
                    else:
                        raise UserError(words["nothing"])
                    output, summary, prefix = score_one(source, f"{job}/scored/", column if path else None)
                    counts = {words["labels"].get(label, label): n for label, n in summary["labels"].items()}
                    text_column = summary["job"]["inputs"][0]["text_column"]
                    certain, doubtful = find_extremes(output, text_column, prefix, words["labels"])
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
                said = str(error).replace(f"{job}{os.sep}", "")
                yield [gr.update(value=said, visible=True), *[hidden] * 4]

        def score_one(source: Path, folder: str, column: str | None) -> tuple[Path, dict, str]:
            """Score one file into a folder; get the file, its summary and the prefix, if one was needed."""
            ((_, output),) = pair_outputs([source], folder)
            names = Source(source, find_layout(source, INPUT_FORMATS), "csv", column).schema.names
            prefix = TAKEN_PREFIX if set(names) & set(added_columns(classifier.labels).names) else ""
            (summary,) = score_paths(classifier, [str(source)], str(output), text_column=column, prefix=prefix)
            return output, summary, prefix

        page.load(greet, None, language, **private)
        language.change(translate, language, list(written), **private)
        gr.on([ask.click, text.submit], label_text, [text, language], [answer, why, problem], api_name="label")
        file.change(look_into, file, column, **private)
        score.click(label_many, [lines, file, column, language], [fault, download, shares, *tables.values()], **private)
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


def find_extremes(
    scored: Path, text_column: str | None, prefix: str, names: dict[str, str]
) -> tuple[list[list[str]], list[list[str]]]:
    """Get label, probability and text of the most certain rows of a scored file, and of the most doubtful.

    Args:
        scored: the file.
        text_column: the column of texts, as it was called in the input; None for a file without anything in it.
        prefix: what the names of the added columns begin with.
        names: how labels are called; a label that is not there is called by its own name.
    """
    if text_column is None:
        return [], []
    layout = find_layout(scored, INPUT_FORMATS)
    is_sheet, is_jsonl = layout.format in ("csv", "tsv"), layout.format == "jsonl"
    if is_sheet:
        text_column = escape_formulas(pa.array([text_column]))[0].as_py()
    certain: list[tuple[float, str, str]] = []
    doubtful: list[tuple[float, str, str]] = []
    for window in Source(scored, layout, "jsonl" if is_jsonl else "csv", text_column).windows(_READ_ROWS):
        rows = [json.loads(line) for line in window.table["line"].to_pylist()] if is_jsonl else window.table.to_pylist()
        texts = (restore_formulas(window.texts) if is_sheet else window.texts).to_pylist()
        found = [
            (float(row[f"{prefix}score"]), row[f"{prefix}label"], text)
            for row, text in zip(rows, texts, strict=True)
            if row[f"{prefix}label"]
        ]
        certain = nlargest(ROWS_SHOWN, certain + found, itemgetter(0))
        doubtful = nsmallest(ROWS_SHOWN, doubtful + found, itemgetter(0))

    def shown(chosen: list[tuple[float, str, str]]) -> list[list[str]]:
        return [
            [names.get(label, label), f"{score:.3f}", text if len(text) <= 300 else f"{text[:300]}…"]
            for score, label, text in chosen
        ]

    return shown(certain), shown(doubtful)


def serve(classifier: SentimentClassifier, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve the page until Ctrl-C or SIGTERM; its files lie in a temporary folder, which is gone then.

    Args:
        classifier: what labels.
        host: address to bind to; 0.0.0.0 lets other machines in.
        port: where.

    Raises:
        OSError: if the port is taken.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TemporaryDirectory(prefix="smsa-demo-", suffix=f"-{port}") as folder:
        os.environ["GRADIO_TEMP_DIR"] = f"{folder}/cache"  # read when components are built
        Path(folder, "jobs").mkdir()
        page = build_page(classifier, Path(folder, "jobs"))
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
