"""A page to try a model on: one text and why, or many texts at once.

Gradio makes the page. Files are labelled by `predict_files`, as scripts/predict.py does, so the results are the same
bytes. A single text is never written to disk. Pasted lines, files and their results are, and are deleted soon.
"""

import html
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr
import pandas as pd

from smsa.data.labels import EXAMPLES
from smsa.data.reader import Source
from smsa.errors import UserError
from smsa.inference.classifier import SentimentClassifier
from smsa.inference.job import pair_outputs, predict_files

MAX_CHARS = 5_000  # of one text
KEPT_SECONDS = 600  # how long an uploaded file and its result are kept
ROWS_SHOWN = 8  # most confident rows, and as many least confident ones

# The page's texts by language and name. The browser's language chooses; Gradio's settings, below, offer the others.
PAGE = {name: json.loads(Path(__file__).with_name(f"{name}.json").read_text("utf-8")) for name in ("id", "en")}
WORD = gr.I18n(**PAGE)


def build_page(classifier: SentimentClassifier, folder: Path) -> gr.Blocks:
    """Return the page; it labels with `classifier`, and puts files of each request into a new folder in `folder`."""
    with gr.Blocks(title="smsa", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)) as page:
        gr.Markdown(WORD("title"))
        with gr.Tab(WORD("one")):
            text = gr.Textbox(
                label=WORD("text"), placeholder=WORD("text_hint"), lines=3, max_lines=12, max_length=MAX_CHARS,
                elem_id="text",
            )  # fmt: skip
            ask = gr.Button(WORD("ask"), variant="primary", elem_id="ask")
            with gr.Row():
                answer = gr.Label(label=WORD("answer"), elem_id="answer")
                with gr.Column():
                    why = gr.HighlightedText(label=WORD("why"), show_whitespaces=True, elem_id="why")
                    gr.Markdown(WORD("why_hint"))
            gr.Examples([[example] for example in EXAMPLES], text, label=WORD("examples"))
        with gr.Tab(WORD("many")):
            lines = gr.Textbox(
                label=WORD("lines"), placeholder=WORD("lines_hint"), lines=4, max_lines=8, elem_id="lines"
            )
            file = gr.File(label=WORD("upload"), elem_id="file", height=180)
            column = gr.Dropdown([], label=WORD("column"), visible=False, elem_id="column")
            with gr.Row():
                predict = gr.Button(WORD("predict"), variant="primary", scale=3, elem_id="predict")
                stop = gr.Button(WORD("stop"), elem_id="stop")
            download = gr.DownloadButton(WORD("download"), visible=False, elem_id="download")
            counts = gr.BarPlot(  # without the limit, the axis may begin above the smallest count
                x="label", y="n", y_lim=[0, None], title=WORD("counts"), visible=False, height=240, elem_id="counts"
            )
            table = {"datatype": "str", "column_widths": ["29%", "29%", "42%"], "wrap": True, "max_chars": 300}
            certain, doubtful = (
                gr.Dataframe(label=WORD(name), visible=False, elem_id=name, **table) for name in ("certain", "doubtful")
            )
        gr.Markdown(WORD("footer"))
        running: set[str] = set()  # sessions whose lines or file are being labelled, and not stopped

        def label_text(text: str, request: gr.Request) -> Iterator[tuple]:
            """Label one text; yield what `answer` and `why` show, first without and then with weights of words."""
            words = _words(request)
            if len(text) > MAX_CHARS:
                raise _error(words["too_long"])
            found = classifier(text)
            if found["empty"]:
                raise _error(words["empty"])
            shown = {words.get(label, label): found[f"p_{label}"] for label in classifier.labels}
            yield shown, None
            yield shown, mark_words(text, classifier.explain(text, found["label"])["words"])

        def label_many(
            lines: str, path: str | None, column: str | None, request: gr.Request, progress=gr.Progress(track_tqdm=True)
        ) -> Iterator[list]:
            """Label lines or a file; yield what `download`, `counts`, `certain` and `doubtful` show."""
            words = _words(request)
            yield [gr.update(visible=False)] * 4
            running.add(request.session_hash)

            def advance(n: int) -> None:  # called after each chunk: Gradio cannot stop a function
                if request.session_hash not in running:
                    raise _error(words["stopped"])
                gr.Progress.update(progress, n)

            progress.update = advance
            if not path and not lines.strip():
                raise _error(words["nothing"])
            # Deleted once Gradio has cached the result. The upload is copied, as Gradio may delete it meanwhile.
            with TemporaryDirectory(dir=folder) as job:
                source = Path(job, Path(path).name if path else "texts.txt")
                try:
                    if path:
                        shutil.copy(path, source)
                    else:
                        source.write_text(lines.strip("\n") + "\n", encoding="utf-8")
                    output, labels, extremes = label_file(classifier, source, column if path else None)
                except (UserError, OSError) as error:  # as scripts/predict.py
                    message = f"{words['cause']} {error} {words['options']}".replace(f"{job}{os.sep}", "")
                    raise _error(words["choose"] if getattr(error, "candidates", None) else message) from error
                names = [words.get(label, label) for label in labels]
                bars = pd.DataFrame({"label": names, "n": labels.values()})
                titles = [words["answer"].lower(), words["probability"], words["text"].lower()]
                tables = [table.replace({"label": words}).set_axis(titles, axis=1) for table in extremes]
                yield [
                    gr.update(value=str(output), visible=True),
                    gr.update(value=bars, x_title=titles[0], y_title=words["rows"], sort=names, visible=True),
                    *(gr.update(value=table, visible=True) for table in tables),
                ]

        def end(request: gr.Request) -> None:
            running.discard(request.session_hash)

        private = {"api_visibility": "private"}  # programs may call /label only
        gr.on([ask.click, text.submit], label_text, text, [answer, why], api_name="label")
        shown = [download, counts, certain, doubtful]  # hidden while labelling, so `file` shows the progress
        file.change(find_columns, file, column, **private)
        file.change(lambda: [gr.update(visible=False)] * 4, None, shown, **private)  # results of another file
        predict.click(label_many, [lines, file, column], shown, show_progress_on=file, **private)
        stop.click(end, queue=False, **private)
        page.unload(end)  # closed or reloaded: others would wait for a result that nobody sees
    return page


def _words(request: gr.Request) -> dict[str, str]:
    """Return the texts in the language that the browser asks for, which Gradio uses in the page, too."""
    return PAGE["id" if request.headers.get("accept-language", "").lower().startswith("id") else "en"]


def _error(message: str) -> gr.Error:
    """Return an error that the page shows until it is closed; it is escaped, as Gradio would render HTML."""
    return gr.Error(html.escape(message, quote=False), duration=None, print_exception=False)


def find_columns(path: str | None) -> dict:
    """Offer the columns of an uploaded file; errors in it are reported when it is labelled."""
    try:
        source = Source(Path(path or ""))
        choices, found = source.candidates, source.text_column
    except (UserError, OSError) as error:
        choices, found = getattr(error, "candidates", []), None  # if no column is clearly the texts
    return gr.update(visible=len(choices) > 1, choices=choices, value=found)


def label_file(
    classifier: SentimentClassifier, source: Path, column: str | None = None
) -> tuple[Path, dict[str, int], tuple[pd.DataFrame, pd.DataFrame]]:
    """Label one file into a folder beside it.

    Returns:
        The result, as scripts/predict.py writes it; the number of rows of each label; and two tables of `label`,
        `score` and `text`, with the most and the least confident rows, equal texts once.
    """
    ((_, output),) = pair_outputs([source], f"{source.parent}/labelled/")
    (summary,) = predict_files(classifier, str(source), str(output), text_column=column)
    prefix = summary["job"]["prefix"]
    text_column = summary["job"]["inputs"][0]["text_column"] or f"{prefix}label"  # an empty file may have none
    names, found = ["label", "score"], pd.DataFrame(columns=["label", "score", "text"])
    for chunk in Source(output, text_column=text_column, keep_lines=True).chunks():
        rows = chunk.table.to_pylist()
        if chunk.table.column_names == ["line"]:  # JSONL: its rows may have different keys
            rows = [json.loads(row["line"]) for row in rows]
        rows = pd.DataFrame(rows, columns=[f"{prefix}{name}" for name in names]).set_axis(names, axis=1)
        rows = rows.assign(text=chunk.texts.to_pylist())[rows["label"].replace("", None).notna()]
        found = pd.concat([found, rows.astype({"score": float})]).drop_duplicates("text")
        found = found.sort_values("score", ignore_index=True)
        found = found.drop(found.index[ROWS_SHOWN:-ROWS_SHOWN])  # keep the extremes of all chunks so far
    found["score"] = found["score"].map("{:.3f}".format)
    return output, summary["labels"], (found[::-1][:ROWS_SHOWN], found[:ROWS_SHOWN])


def mark_words(text: str, words: list[dict]) -> dict[str, object]:
    """Return a text and its words as gr.HighlightedText takes them; the largest weight gets 1 or -1.

    Gradio paints negative shades purple and positive ones red, so signs are inverted.
    """
    largest = max(abs(word["weight"]) for word in words) or 1.0
    return {"text": text, "entities": [word | {"entity": -word["weight"] / largest} for word in words]}


def serve(classifier: SentimentClassifier, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve the page until Ctrl-C or SIGTERM; its files are in a temporary folder, which is then deleted.

    Host 0.0.0.0 lets other machines in. Port 0 takes a free port from 7860 on; a port in use is an OSError.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TemporaryDirectory(prefix="smsa-demo-", suffix=f"-{port}") as folder:
        os.environ["GRADIO_TEMP_DIR"] = f"{folder}/cache"  # read when components are built
        Path(folder, "jobs").mkdir()
        page = build_page(classifier, Path(folder, "jobs"))
        page.launch(
            server_name=host,
            server_port=port or None,  # Gradio never serves a page on port 0
            max_file_size="200mb",
            run_history=False,
            share=False,
            footer_links=["settings"],  # where the language can be chosen
            i18n=WORD,
            # No fonts from a CDN.
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            show_error=True,
            ssr_mode=False,
        )
