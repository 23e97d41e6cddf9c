"""The page and its REST API: drop images, get verdicts. Gradio, on this machine alone unless it is told otherwise, without network.

    open_page(Judge(models), "127.0.0.1", 7860)

The file itself is judged, as the shell does it: Gradio's image widget would encode it anew, and lose its score and its metadata.
What comes in is checked by detector.web.guard; what is shown is made by detector.web.views.
"""
import base64
import contextlib
import ctypes
import errno
import io
import os
import signal
import socket
import sys
import tempfile
from html import escape

from detector.console import InputError
from detector.inference import predictor
from detector.web import views
from detector.web.guard import MAX_FILE, MAX_IMAGES, Guard, Uploads

MAX_PIXELS = 50_000_000  # of one image: decoded it takes 150 MB, and several are judged at once
AT_ONCE = 4  # requests that are judged at the same time; the network itself uses all cores
WAITING = 200  # requests that may wait for their turn
MAPS, SHOWN_ANEW = 24, 8  # heat maps made for one request, and after how many the page is shown anew
SESSIONS = 64  # Gradio keeps the last answer of so many visitors
OWN_PAGES = 1 << 20  # bytes from which on a piece of memory goes back to the system as soon as it is free
HEAPS = 2  # that all threads share; of large images 199 MB stay after 250 requests, 236 MB where glibc makes one for each
SYSTEM_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
SETTINGS = {  # read by Gradio when it is imported: no report to its makers, no memory of calls
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_ANALYTICS_MAX_EVENTS": "100",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
NOT_KNOWN = (
    "It has seen nothing else: other generators, other sizes, images that were edited, scaled or strongly compressed, screenshots "
    "and drawings can mislead it.",
    "A verdict is a measurement, not a proof. Do not accuse anybody on its ground alone.",
)


def open_page(judge, host, port, share=False):
    """Serve the page until it is interrupted.

    Args:
        judge: detector.inference.predictor.Judge.
        host, port: where to serve it.
        share: whether to make it reachable by anyone through a tunnel of Gradio's makers; needs a network.

    Raises:
        InputError: Gradio is not installed, or the port is taken.
    """
    _check_free(host, port)
    _share_memory()
    os.environ.update(SETTINGS)
    with tempfile.TemporaryDirectory(prefix="real-or-fake-", ignore_cleanup_errors=True) as folder:
        uploads = Uploads(folder)
        os.environ["GRADIO_TEMP_DIR"] = os.fspath(uploads.folder)
        try:
            import gradio as gr
            from starlette.middleware import Middleware
        except ModuleNotFoundError:
            raise InputError("the page needs the package gradio; run: pip install -r requirements-app.txt") from None
        page = build_page(judge, uploads)
        guard = Middleware(
            Guard, uploads=uploads, functions=lambda: {number: function.inputs for number, function in page.fns.items()},
            parameters=PARAMETERS, own=not share,
        )  # fmt: skip
        uploads.sweep_forever(lambda: [files.clear() for files in page.temp_file_sets])
        theme = gr.themes.Soft(
            primary_hue="blue", neutral_hue="slate", text_size="lg", font=SYSTEM_FONTS, font_mono=["ui-monospace", "monospace"]
        )
        page.launch(
            server_name=host, server_port=port, inbrowser=True, share=share, quiet=True, prevent_thread_lock=True, theme=theme,
            css=views.STYLE, head=views.SCRIPT, footer_links=["api", "settings"], run_history=False, allowed_paths=[],
            max_file_size=MAX_FILE, enable_monitoring=False, ssr_mode=False, mcp_server=False, pwa=False,
            state_session_capacity=SESSIONS, app_kwargs={"middleware": [guard]},
        )  # fmt: skip
        with contextlib.suppress(ValueError):  # in a thread; ended by the system the page removes its uploads, too
            signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        print(f"The page is open at {page.share_url or page.local_url} (Ctrl + C ends it).", flush=True)
        page.block_thread()


def _check_free(host, port):
    """Raise InputError where no server can be started; before Gradio is imported, which takes seconds."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if getattr(error, "errno", None) in errno.errorcode else error
        found = f"expected a free address, found one that fails ({reason})"
        raise InputError(f"{host}:{port}: {found}; try another --host or --port") from None


def _share_memory():
    """Keep glibc from holding the memory of decoded images for later; other systems know no such call, and need none.

    Of itself it lets each thread have a heap of its own, and raises the size from which on a piece goes back to the system to that
    of the largest one ever freed: after some large images each thread keeps tens of megabytes.
    """
    with contextlib.suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).mallopt(-3, OWN_PAGES)  # M_MMAP_THRESHOLD
        ctypes.CDLL(None).mallopt(-8, HEAPS)  # M_ARENA_MAX


def _give_memory_back():
    """Give the system what is free between pieces in use, too."""
    with contextlib.suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

# --- what Gradio is told -------------------------------------------------------------------------------------------------
PARAMETERS = {  # of the REST API's functions, in order
    "judge": ("images", "detector", "force", "threshold", "provenance"),
    "explain": ("image", "detector"),
}


def build_page(judge, uploads):
    """Return the Gradio page and its REST API.

    Args:
        judge: detector.inference.predictor.Judge.
        uploads: detector.web.guard.Uploads.
    """
    import gradio as gr

    in_turn = {"concurrency_limit": AT_ONCE, "concurrency_id": "judge"}
    with gr.Blocks(title="Real or Fake?", analytics_enabled=False) as page:
        images, options, result = _lay_out(gr, judge)
        images.upload(
            _shown(gr, judge, uploads), [images, *options], [result, images], preprocess=False, api_visibility="private",
            js="(...given) => { window.showResult(); return given; }", **in_turn,
        )  # fmt: skip
        for option in options:
            option.input(None, js="() => window.judgeAgain()")
        gr.api(_judging(gr, judge, uploads), api_name="judge", **in_turn)
        gr.api(_explaining(gr, judge, uploads), api_name="explain", **in_turn)
    page.queue(max_size=WAITING)
    return page


def _lay_out(gr, judge):
    """Put the components on the page; return (the file field, [options], the result)."""
    gr.HTML(views.INTRODUCTION, apply_default_css=False)
    images = gr.File(
        label="Images", file_count="multiple", file_types=["image"], type="filepath", elem_id="rf-images", height=190
    )
    gr.HTML(views.CAMERA.format(MAX_IMAGES, MAX_FILE >> 20), apply_default_css=False)
    with gr.Group(elem_id="rf-options"):
        names = [one.name for one in judge.detectors]
        detector = gr.Radio(  # of a Dropdown the keyboard reaches the first choice alone
            [("the one made for the image's size", ""), *((name, name) for name in names)], value="", label="Detector",
            visible=len(names) > 1,
        )  # fmt: skip
        force = gr.Checkbox(label="Judge images unlike any that the detector has seen, too", elem_id="rf-forced")
        heat = gr.Checkbox(label=f"Heat maps also for several images (slower; the first {MAPS})")
    result = gr.HTML(views.welcome(limits(judge.detectors)), elem_id="rf-result", apply_default_css=False)
    return images, [detector, force, heat], result


def _shown(gr, judge, uploads):
    """Return what the page calls when images come: it yields (HTML, what the file field then holds)."""

    def show(images, detector, force, heat):
        if not images:
            yield gr.skip(), gr.skip()
            return
        with _told(gr, escape), _taken(uploads, images) as (paths, names):
            _check_options(detector, force, None, heat)
            answer = Answer(judge, paths, names, detector or None, force, heat or len(paths) == 1)
            yield answer.html(), None
            for _ in answer.add_heat_maps():
                yield answer.html(), gr.skip()

    return show


def _judging(gr, judge, uploads):
    """Return the REST API's `judge`; Gradio shows its docstring on the page."""

    def judge_files(
        images: list[gr.FileData], detector: str | None = None, force: bool = False, threshold: float | None = None,
        provenance: bool = False,
    ) -> list[dict]:  # fmt: skip
        """Judge images.

        Args:
            images: the uploaded files.
            detector: name of the one to ask; the one made for the image's size where it is None.
            force: judge also images unlike any that the detector has seen.
            threshold: P(Fake) from which on an image is called Fake, below it Real, in place of the detector's own two.
            provenance: tell also what each file says of itself.

        Returns:
            an object for each image, in order: name, verdict (Fake, Real, uncertain or null), p_fake, detector, width, height,
            note, provenance, error.
        """
        with _told(gr), _taken(uploads, images) as (paths, names):
            _check_options(detector, force, threshold, provenance)
            options = {"detector": detector or None, "force": force, "threshold": threshold, "provenance": provenance}
            return [as_json(row) for row in judge_within_limits(judge, paths, names, **options)]

    return judge_files


def _explaining(gr, judge, uploads):
    """Return the REST API's `explain`."""

    def explain_file(image: gr.FileData, detector: str | None = None) -> dict:
        """Make the heat map of an image: where in it its score comes from.

        Args:
            image: the uploaded file.
            detector: name of the one to ask; the one made for the image's size where it is None.

        Returns:
            an object: name, p_fake, detector, png (the image with the heat map laid over it, in base64, or null), error.
        """
        with _told(gr), _taken(uploads, [image]) as (paths, names):
            _check_options(detector, True, None, False)
            (row,) = judge_within_limits(judge, paths, names, detector=detector or None, force=True)
            png = None if row["error"] else as_png(heat_map(judge, row, paths[0]))
            return {"name": names[0], "p_fake": row["p_fake"], "detector": row["detector"], "png": png, "error": row["error"]}

    return explain_file


@contextlib.contextmanager
def _told(gradio, as_shown=str):
    """Make errors Gradio's own: a message for the one who asked, through `as_shown`, and at most a line in the server's log."""
    try:
        yield
    except Exception as error:
        message = str(error)
        if not isinstance(error, InputError):
            print(f"error: {type(error).__name__}: {' '.join(message.split())[:200]}", file=sys.stderr, flush=True)
            message = "this could not be judged: something is wrong in the program; its log tells more"
        raise gradio.Error(as_shown(message), print_exception=False, title="Not judged") from None


@contextlib.contextmanager
def _taken(uploads, images):
    """Give ([paths], [names]) of the uploads that a request names, and remove them at its end.

    Raises:
        InputError: it names none, too many, or something else.
    """
    if not isinstance(images, list) or not images or not all(isinstance(file, dict) for file in images):
        raise InputError("expected images as a list of uploaded files, found none; upload some")
    paths = [uploads.find(file.get("path")) for file in images]
    try:
        if len(images) > MAX_IMAGES:
            raise InputError(f"expected at most {MAX_IMAGES} images at once, found {len(images):,}; give fewer, or use the shell")
        yield paths, [str(file.get("orig_name") or path.name)[:255] for file, path in zip(images, paths, strict=True)]
    finally:
        uploads.remove(paths)
        _give_memory_back()


def _check_options(detector, force, threshold, other):
    """Raise InputError unless the options are of their kind: they come from the network."""
    if not (detector is None or isinstance(detector, str)):
        raise InputError("detector: expected a name or null, found another value")
    if not (isinstance(force, bool) and isinstance(other, bool)):
        raise InputError("force and provenance: expected true or false, found another value")
    if threshold is not None and (isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1):
        raise InputError("threshold: expected a number from 0 to 1 or null, found another value")


# --- what is answered ----------------------------------------------------------------------------------------------------
def judge_within_limits(judge, paths, names, **options):
    """Yield what Judge.judge does, but refuse images of more than MAX_PIXELS before they are decoded."""
    refused = [_too_large(path) for path in paths]
    taken = [i for i, reason in enumerate(refused) if reason is None]
    rows = judge.judge([paths[i] for i in taken], names=[names[i] for i in taken], **options)
    for path, name, reason in zip(paths, names, refused, strict=True):
        if reason is None:
            yield next(rows)
            continue
        found = predictor.read_provenance(path, judge.trust_list) if options.get("provenance") else None
        yield {**dict.fromkeys(predictor.COLUMNS), "path": name, "provenance": found, "error": f"{name}: {reason}"}


def _too_large(path):
    from detector.images.pixels import image_size

    try:
        width, height = image_size(path)
    except (InputError, OSError):
        return None  # Judge says what is wrong with it
    if width * height > MAX_PIXELS:
        return f"expected at most {MAX_PIXELS:,} pixels, found {width:,} x {height:,}; scale it down, or judge it in the shell"
    return None


def as_json(row):
    """Return a row for the REST API.

    Gradio takes every object with a `path` for a file: its Python client would fetch it, and Gradio itself what metadata names.
    So an image's name is called `name`, and no object in the metadata of a file, which come from strangers, has such a key.
    """
    return {"name": row["path"], **_without_files({name: value for name, value in row.items() if name != "path"})}


def _without_files(value):
    if isinstance(value, dict):
        return {f"{name}_" if name in ("path", "url", "meta") else name: _without_files(item) for name, item in value.items()}
    return [_without_files(item) for item in value] if isinstance(value, list) else value


def heat_map(judge, row, path):
    """Return the image of a row with the heat map laid over it: (h, w, 3) uint8."""
    from detector.inference import attribution

    image = _read(path)
    return attribution.overlay(image, attribution.explain(judge.find_detector(row["detector"]).open(), image))


def as_png(image):
    """Return an image, (h, w, 3) uint8, as PNG in base64."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


class Answer:
    """The verdicts on the images of one request, and how they are shown.

    Args:
        judge: detector.inference.predictor.Judge.
        paths, names: of the images.
        detector, force: as for Judge.judge.
        explained: whether heat maps are to be made.
    """

    def __init__(self, judge, paths, names, detector, force, explained):
        self.judge, self.paths, self.force = judge, paths, force
        self.rows = list(judge_within_limits(judge, paths, names, detector=detector, force=force, provenance=True))
        self.shown = [self._preview(row, path) for row, path in zip(self.rows, paths, strict=True)]
        told = [i for i, row in enumerate(self.rows) if row["p_fake"] is not None and (force or not row["note"])]
        self.heat = [views.PENDING if explained and i in told[:MAPS] else None for i in range(len(paths))]

    def _preview(self, row, path):
        """Return the image no larger than it is shown, or None where it could not be read."""
        if row["error"]:
            return None
        longer = views.PREVIEW if len(self.paths) == 1 else views.THUMBNAIL
        return views.scaled(_read(path), longer)

    def add_heat_maps(self):
        """Make the heat maps that are pending, each beside its image; yield from time to time, for the page to be shown anew."""
        pending = [i for i, heat in enumerate(self.heat) if heat is views.PENDING]
        for i in pending:
            self.heat[i] = views.scaled(heat_map(self.judge, self.rows[i], self.paths[i]), views.PREVIEW)
            if i == pending[-1] or i % SHOWN_ANEW == 0:
                yield

    def html(self):
        """Return what the page shows."""
        asked = {row["detector"]: self.judge.find_detector(row["detector"]) for row in self.rows if row["detector"]}
        metadata = {name: one.metadata for name, one in asked.items()}
        known = limits(asked.values()) if asked else []
        told = [_provenance(row) for row in self.rows]
        if len(self.rows) == 1:
            row = self.rows[0]
            return views.card(row, metadata.get(row["detector"]), known, self.shown[0], self.heat[0], told[0], self.force)
        for_csv = [{**row, "provenance": "; ".join(lines)} for row, lines in zip(self.rows, told, strict=True)]
        link = views.csv_link(for_csv, predictor.COLUMNS)
        return views.table(self.rows, metadata, known, self.shown, self.heat, told, self.force, link)


def _read(path):
    from detector.images.pixels import read_image

    return read_image(path)


def _provenance(row):
    return predictor.origin(row["provenance"]) if row["provenance"] is not None else []


def limits(candidates):
    """Return lines on what detectors know, and what they do not."""
    return [*(f"{(line := predictor.about(one))[0].upper()}{line[1:]}" for one in candidates), *NOT_KNOWN]
