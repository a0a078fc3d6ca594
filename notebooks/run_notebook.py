"""Run a notebook from its first cell to its last, tell how far it is, and keep it as a page: what `make run` calls.

    python notebooks/run_notebook.py notebooks/00_start_here.ipynb results     run it
    python notebooks/run_notebook.py --scores results                          print results/summary.json
    python notebooks/run_notebook.py --refresh NOTEBOOK ...                    run each, keep its outputs in itself

The folder gets NAME.ipynb and NAME.html, whole or not at all. A notebook that fails ends with its error, exit status 1
and what it had done so far in NAME.failed.ipynb. The notebook finds the folder in WEAKSEG_RESULTS.
"""

import argparse
import asyncio
import hashlib
import html
import json
import logging
import os
import queue
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter

from weakseg_lib.data.files import atomic_path
from weakseg_lib.errors import InputError

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
WIDGET = "application/vnd.jupyter.widget-view+json"
SAVED_DPI = 75  # of pictures, so that files stay small; on a screen they are sharper
QUIET_SECONDS = 15  # the longest silence where the output is a file
REDRAW_SECONDS = 0.5  # and on a terminal, whose last line is rewritten


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "paths", type=Path, nargs="+", help="the notebook to run, and the folder of the results"
    )
    parser.add_argument("--scores", action="store_true", help="only print the scores that are in the folder")
    parser.add_argument(
        "--refresh", action="store_true", help="all paths are notebooks: keep the outputs in them"
    )
    options = parser.parse_args(arguments)
    if options.scores:
        return print_scores(options.paths[-1])
    if len(options.paths) != 2 and not options.refresh:
        parser.error("give a notebook and a folder")
    try:
        if options.refresh:
            return max(refresh(path) for path in options.paths)
        return run(*options.paths)
    except KeyboardInterrupt:
        print("\nstopped; earlier results are as they were", file=sys.stderr)
        return 130
    except InputError as error:
        print(error, file=sys.stderr)
        return 2


def run(path: Path, folder: Path) -> int:
    """Run the notebook `path`, write its two copies to `folder`; returns the exit status."""
    notebook = nbformat.read(path, as_version=4)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["WEAKSEG_RESULTS"] = str(folder.resolve())
    os.environ.setdefault("WEAKSEG_DPI", str(SAVED_DPI))
    client = Client(notebook, timeout=None, resources={"metadata": {"path": str(path.parent)}})
    client.extra_arguments = ["--log-level=CRITICAL"]  # the kernel's remarks are about itself
    started = time.monotonic()
    with Progress(notebook.cells) as progress:
        client.progress = progress
        try:
            client.execute()
        except (CellExecutionError, DeadKernelError) as error:
            failed = error
        else:
            failed = None
    if failed is not None:
        save(folder / f"{path.stem}.failed.ipynb", nbformat.writes(notebook))
        return report_failure(failed, progress.title, folder / f"{path.stem}.failed.ipynb")
    freeze_widgets(notebook, client.widget_state)
    save(folder / f"{path.stem}.ipynb", nbformat.writes(notebook))
    save(folder / f"{path.stem}.html", as_page(notebook, path.stem))
    (folder / f"{path.stem}.failed.ipynb").unlink(missing_ok=True)
    print(f"{path.name} took {(time.monotonic() - started) / 60:.1f} minutes")
    return 0


def refresh(path: Path) -> int:
    """Run the notebook `path` and put what it shows into it, in the one form that all are kept in."""
    with TemporaryDirectory() as folder:
        status = run(path, Path(folder))
        if status == 0:
            notebook = nbformat.read(Path(folder) / path.name, as_version=4)
            save(path, nbformat.writes(canonical(notebook)))
    return status


def canonical(notebook):
    """The notebook without what differs from run to run and from machine to machine, and with a mark of its code."""
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "weakseg": {"code": code_mark(notebook)}})
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        for output in cell.get("outputs", ()):
            output.pop("metadata", None)
            if output.output_type != "stream":
                output["metadata"] = nbformat.from_dict({})
    return notebook


def code_mark(notebook) -> str:
    """Changes where code changes: it tells whether the outputs are of this code."""
    return hashlib.sha256(
        "\0".join(c.source for c in notebook.cells if c.cell_type == "code").encode()
    ).hexdigest()


class Client(NotebookClient):
    """nbclient, which also tells a `Progress` which cell it is at and what that cell last said."""

    progress = None

    async def async_start_new_kernel_client(self, **options):
        # Widgets send on the socket that a cell's end is awaited on, and the news of its arrival can be lost with that
        # (nbclient issue 312): asked again every few seconds, the answer is there.
        client = await super().async_start_new_kernel_client(**options)
        client.shell_channel.get_msg = asking_again(client.shell_channel.get_msg)
        return client

    async def async_execute_cell(self, cell, cell_index, **options):
        # nbclient's own handler would make a failed cell of Ctrl-C. (Windows has neither.)
        with suppress(NotImplementedError):
            asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        if cell.cell_type == "code":
            self.progress.enter(cell_index)
        return await super().async_execute_cell(cell, cell_index, **options)

    def process_message(self, msg, cell, cell_index):
        result = super().process_message(msg, cell, cell_index)
        if msg["msg_type"] == "stream":
            self.progress.say(msg["content"]["text"])
        elif msg["msg_type"] == "update_display_data":
            self.progress.say(self._shown_text(msg["content"]["data"]))
        elif msg["msg_type"] in ("comm_open", "comm_msg"):
            self.progress.say(self._bar_text(msg["content"]["comm_id"]))
        return result

    @staticmethod
    def _shown_text(data) -> str:
        """The text that a cell renews in place, as live training curves do; a picture's is only its type."""
        return data["text/plain"] if list(data) == ["text/plain"] else ""

    def _bar_text(self, comm_id) -> str:
        """What a tqdm bar says whose part `comm_id` has changed: in a notebook it is text, bar, text in one box."""
        for box in self.widget_state.values():
            parts = [str(name).removeprefix("IPY_MODEL_") for name in box.get("children", ())]
            if comm_id in parts:
                texts = [self.widget_state.get(part, {}) for part in parts]
                texts = [part.get("value") for part in texts if part.get("_model_name") == "HTMLModel"]
                return html.unescape(re.sub("<.*?>", "", " ".join(map(str, texts))))
        return ""


def asking_again(get_msg, every=3.0):
    """`get_msg` of a channel, which looks again after `every` seconds where it was told to wait for ever."""

    async def get(timeout=None):
        while timeout is None:
            with suppress(queue.Empty):
                return await get_msg(timeout=every)
        return await get_msg(timeout=timeout)

    return get


class Progress:
    """Lines on the terminal: a heading as each part of the notebook begins, and below it how the cell is doing."""

    def __init__(self, cells, out=sys.stdout):
        self.out, self.live = out, out.isatty()
        self.code = [i for i, cell in enumerate(cells) if cell.cell_type == "code"]
        self.titles = list(_titles(cells))
        self.title, self.place, self.text = "", "", ""
        self.began = self.spoke = time.monotonic()
        self.lock, self.done = threading.Lock(), threading.Event()
        self.beat = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self):
        self.beat.start()
        return self

    def __exit__(self, *error):
        self.done.set()
        self.beat.join()
        self._wipe()

    def enter(self, index):
        """Cell `index` of the notebook begins."""
        with self.lock:
            self._wipe()
            title = self.titles[index]
            self.place = f"cell {self.code.index(index) + 1} of {len(self.code)}"
            if title != self.title or not self.live:
                print(f"[{self.place}] {title}", file=self.out, flush=True)
            self.title, self.text, self.spoke = title, "", time.monotonic()
            self.began = self.spoke

    def say(self, text):
        """The running cell printed `text`; its last line is kept for the next sign of life."""
        lines = [line.strip() for line in re.split(r"[\r\n]", re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", text))]
        self.text = next((line for line in reversed(lines) if line), self.text)

    def _beat(self):
        while not self.done.wait(REDRAW_SECONDS):
            with self.lock:
                now = time.monotonic()
                line = f"  {self.place}  {minutes(now - self.began)}  {self.text}"
                if self.live:
                    width = os.get_terminal_size(self.out.fileno()).columns
                    print(f"\r{line[: width - 1]:{width - 1}}", end="", file=self.out, flush=True)
                elif now - self.spoke > QUIET_SECONDS:
                    print(line, file=self.out, flush=True)
                    self.spoke = now

    def _wipe(self):
        if self.live:
            print("\r\x1b[K", end="", file=self.out, flush=True)


def _titles(cells):
    """The heading that each cell stands under."""
    title = "beginning"
    for cell in cells:
        headings = re.findall(r"^#+ +(.*)", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else []
        title = headings[-1].strip(" #*") if headings else title
        yield title


def freeze_widgets(notebook, state):
    """Replace each widget by what it shows: a page has no kernel to draw it, and hosts refuse its state.

    That is its own still picture, or the outputs in it (an `interact` shows its first setting), or nothing (a bar).
    """
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        frozen = []
        for output in cell.outputs:
            view = output.get("data", {}).pop(WIDGET, None)
            still = view is None or any(kind.startswith("image/") for kind in output.data)
            frozen += [output] if still else _widget_outputs(view["model_id"], state)
        cell.outputs = frozen


def _widget_outputs(model_id, state):
    """The outputs inside a widget and the widgets in it, in order."""
    widget = state.get(model_id, {})
    outputs = [nbformat.from_dict(output) for output in widget.get("outputs", ())]
    for child in widget.get("children", ()):
        outputs += _widget_outputs(str(child).removeprefix("IPY_MODEL_"), state)
    return outputs


def as_page(notebook, name) -> str:
    logging.getLogger("traitlets").setLevel(logging.ERROR)  # pictures are described in the text beside them
    return HTMLExporter().from_notebook_node(notebook, {"metadata": {"name": name}})[0]


def save(path: Path, text: str):
    with atomic_path(path) as tmp:
        tmp.write_text(text, "utf-8")


def report_failure(error, title, kept) -> int:
    if isinstance(error, DeadKernelError):
        text = "Its Python process ended by itself; most often the machine has run out of memory."
    else:
        text = error.traceback if sys.stderr.isatty() else re.sub(r"\x1b\[[\d;]*m", "", error.traceback)
    print(f'{text}\n\nA cell under "{title}" failed, see above. What came before it: {kept}', file=sys.stderr)
    return 1


def print_scores(folder: Path) -> int:
    """Print every number of summary.json, and where to look further."""
    summary = folder / "summary.json"
    if summary.is_file():
        print(f"\n{summary}:")
        for name, value in _flat(json.loads(summary.read_text("utf-8"))):
            print(f"  {name:44} {value:.4g}" if isinstance(value, float) else f"  {name:44} {value}")
    for page in sorted(folder.glob("*.html")):
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(page.stat().st_mtime))
        print(f"{page} shows it (made {made}; `make again` makes it anew, `make lab` lets you play with it)")
    return 0


def _flat(value, name=""):
    """(name, value) for every leaf of nested dicts; lists, which are long, are left to the file."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name} {key}".strip())
    elif not isinstance(value, list):
        yield name, value


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


if __name__ == "__main__":
    sys.exit(main())
