"""What stands between the network and the page: which requests pass, what may be uploaded, how long it lies there.

Gradio can do more than the page needs: download an image that a request names by URL, serve files by path, proxy. A request
passes only where it is on the short list below, and a file that it names must be one that was uploaded and not judged yet. An
upload lies in a folder of its own with a random name, so that nobody can guess another one's, and is removed once it was judged.
"""
import contextlib
import json
import math
import os
import re
import secrets
import shutil
import threading
import time
from functools import partial
from pathlib import Path

from detector.console import InputError

MAX_FILE = 50 * 2**20  # bytes of one image
MAX_IMAGES = 200  # of one request
MAX_WAITING = 2 * 2**30  # bytes of all uploads that wait to be judged
MAX_BODY = 2**20  # bytes of a request that is no upload
KEPT = 600  # seconds after which an upload goes that nobody asks a verdict for
SWEEP = 30  # seconds between two looks for such uploads
API = "/gradio_api"
PASSES = {  # method -> paths, as regular expressions; HEAD as GET
    "GET": rf"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/(?:assets|static)/.*|/login_check/?|{API}/(?:"
    r"info/?|openapi\.json|startup-events|app_id/?|theme\.css|heartbeat/\w+|queue/(?:data|status)|call/(?:v2/)?(?:judge|explain)/\w+)",
    "POST": rf"{API}/(?:queue/join|call/(?:v2/)?(?:judge|explain)/?|cancel|reset/?)",
}
ONLY_FROM_HERE = (  # the browser itself sees to it that nothing is loaded from elsewhere
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "media-src 'self' blob: mediastream:; object-src 'none'; base-uri 'self'; form-action 'self'"
)


class Refused(Exception):
    """A request that is answered with a message and a status, and goes no further."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Uploads:
    """The folder of the images that were uploaded and not judged yet.

    Attributes:
        folder: Path; each upload lies in a folder of its own in it.
        coming: bytes that are being uploaded now.
    """

    def __init__(self, folder):
        self.folder, self.coming, self._sizes = Path(folder).resolve(), 0, {}

    def keep(self, file, name):
        """Copy a binary file into the folder under (nearly) the name that it was sent with; return its path."""
        name = re.sub(r"[^\w.() -]", "_", re.split(r"[/\\]", name or "")[-1])[-80:].strip(". ") or "image"
        path = self.folder / secrets.token_hex(16) / name
        path.parent.mkdir(parents=True)
        with path.open("wb") as copy:
            shutil.copyfileobj(file, copy, 2**20)
            self._sizes[path.parent] = copy.tell()
        return path

    def find(self, path):
        """Return the Path of an upload that a request names.

        Raises:
            InputError: it names anything else; whether there is such a file elsewhere is not told.
        """
        known = isinstance(path, str) and re.fullmatch(r"[0-9a-f]{32}[/\\][^/\\\0]+", path.removeprefix(f"{self.folder}{os.sep}"))
        found = self.folder / known[0] if known else None
        if found is None or found.name in (".", "..") or not found.is_file():
            raise InputError("expected an image that was uploaded and not judged yet, found another path; upload the image again")
        return found

    def remove(self, paths):
        """Remove uploads that were judged."""
        for path in paths:
            self._remove(path.parent)

    def _remove(self, folder):
        shutil.rmtree(folder, ignore_errors=True)
        self._sizes.pop(folder, None)

    def waiting(self):
        """Return the bytes of all uploads, those included that are coming now."""
        return self.coming + sum(list(self._sizes.values()))

    def sweep(self, older_than):
        """Remove uploads that have lain there for more than `older_than` seconds."""
        before = time.time() - older_than
        for folder in self.folder.iterdir():
            try:
                if folder.stat().st_mtime < before:
                    self._remove(folder)
            except OSError:  # judged and removed meanwhile
                continue

    def sweep_forever(self, also):
        """Start a thread that removes what nobody asks a verdict for, and calls the function `also` each time."""

        def run():
            with contextlib.suppress(FileNotFoundError):  # the server ends, and its folder is gone
                while True:
                    self.sweep(KEPT)
                    also()
                    time.sleep(SWEEP)

        threading.Thread(target=run, daemon=True, name="sweep").start()


class Guard:
    """ASGI middleware: lets pass what the page needs, takes the uploads itself, answers all else with a message.

    Args:
        app: the application behind it.
        uploads: Uploads.
        functions: function () -> {number: list of Gradio's input components} of the page's functions.
        parameters: {name of a function of the REST API: names of its parameters, in order}.
        own: whether everything that the page loads comes from this server (Gradio's share page does not).
    """

    def __init__(self, app, uploads, functions, parameters, own=True):
        self.app, self.uploads, self.functions, self.parameters, self.own = app, uploads, functions, parameters, own

    async def __call__(self, scope, receive, send):
        """Handle a request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send) if scope["type"] == "lifespan" else None
        from starlette.responses import JSONResponse, PlainTextResponse

        try:
            answer = await self._answer(scope, receive, send)
        except Refused as refused:
            answer = JSONResponse({"detail": str(refused)}, refused.status)
            if scope["path"] == f"{API}/upload":  # the page shows this answer as it is
                answer = PlainTextResponse(str(refused), refused.status)
        if answer is not None:
            await answer(scope, receive, send)

    async def _answer(self, scope, receive, send):
        """Return the response to send, or None where the application behind has sent it."""
        from starlette.responses import JSONResponse, Response

        path, method = scope["path"], "GET" if scope["method"] == "HEAD" else scope["method"]
        if method == "POST" and (b"sec-fetch-site", b"cross-site") in scope["headers"]:
            raise Refused(403, "expected a request of this page, found one that another site's page makes in a visitor's browser")
        if (method, path) == ("POST", f"{API}/upload"):
            return JSONResponse(await self._take(scope, receive))
        if (method, path) == ("GET", f"{API}/upload_progress"):  # the upload is answered when it is over: nothing to tell before
            return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")
        if not re.fullmatch(PASSES.get(method, "(?!)"), path):
            raise Refused(404, "nothing is here; the REST API is described on the page, under Use via API")
        if method == "POST":
            body = await _read(receive, MAX_BODY, f"a request of at most {MAX_BODY:,} bytes")
            self._check(path, body)
            receive = _replay(body, receive)
        sent, sending = [], self._with_policy(send)

        async def noting(message):
            sent.append(message["type"])
            await sending(message)

        try:
            await self.app(scope, receive, noting)
        except RuntimeError as error:  # Starlette's, where Gradio has told within its answer that there is no such call
            if not sent or getattr(error.__cause__, "status_code", None) != 404:
                raise
            await send({"type": "http.response.body"})
        return None

    async def _take(self, scope, receive):
        """Keep the images of an upload; return their paths."""
        import anyio
        from starlette.requests import Request

        headers = dict(scope["headers"])
        if not headers.get(b"content-type", b"").startswith(b"multipart/form-data"):
            raise Refused(400, "expected images as multipart/form-data, found another kind of request")
        length = headers.get(b"content-length", b"")
        if not length.isdigit():
            raise Refused(411, "expected an upload that tells its length, found one without Content-Length")
        length = int(length)
        if length > MAX_WAITING - self.uploads.waiting():
            raise Refused(413, "the server has no room for so many images at once; upload fewer, or try again in a minute")
        kept, more = [], Refused(400, "expected as many bytes as Content-Length says, found more")
        self.uploads.coming += length
        try:
            async with Request(scope, _limited(receive, length, more)).form(max_files=MAX_IMAGES, max_fields=10) as form:
                files = [file for _, file in form.multi_items() if hasattr(file, "filename")]
                for file in files:
                    if file.size > MAX_FILE:
                        megabytes = f"{math.ceil(file.size / 2**20 * 10) / 10:,} MB"
                        raise Refused(413, f"expected images of at most {MAX_FILE >> 20} MB, found one of {megabytes}")
                for file in files:
                    kept.append(await anyio.to_thread.run_sync(partial(self.uploads.keep, file.file, file.filename)))
        except Exception as error:
            self.uploads.remove(kept)
            raise _refusal(error) from None
        finally:
            self.uploads.coming -= length
        return [os.fspath(path) for path in kept]

    def _check(self, path, body):
        """Raise Refused unless the body of a call is sound: files that were uploaded, and as many parameters as there are."""
        try:
            call = json.loads(body or b"{}")
            _check_files(call, self.uploads)
        except (ValueError, RecursionError):
            raise Refused(400, "expected a request in JSON, found something else") from None
        except InputError as error:
            raise Refused(400, str(error)) from None
        if not isinstance(call, dict):
            raise Refused(400, "expected a JSON object, found another value")
        parameters = self.parameters.get(path.rstrip("/").rsplit("/", 1)[1], ())
        if "/call/v2/" in path:
            if parameters[0] not in call or not set(call) <= set(parameters):
                raise Refused(400, f"expected {parameters[0]}, and of {', '.join(parameters[1:])} what is to be set")
        elif "/call/" in path:
            self._check_data(call, parameters)
        elif path.endswith("/join"):
            number, functions = call.pop("fn_index", None), self.functions()
            if not isinstance(number, int) or number not in functions:
                raise Refused(400, "expected a function of this page, found another number")
            self._check_data(call, (), functions[number])

    def _check_data(self, call, parameters, inputs=()):
        """Raise Refused unless there is a value for each parameter, or for each input, of a kind that its component takes."""
        data = call.get("data")
        if "fn_index" in call:
            raise Refused(400, "expected no number of a function, found one")
        wanted = len(parameters or inputs)
        if not isinstance(data, list) or len(data) != wanted:
            found = f"{len(data)} values" if isinstance(data, list) else "none"
            names = f" ({', '.join(parameters)})" if parameters else ""
            raise Refused(400, f"expected data to be a list of {wanted} values{names}, found {found}")
        for component, value in zip(inputs, data, strict=False):
            model = getattr(component, "data_model", None)
            if model is not None and value is not None:
                try:
                    model.model_validate(value, context={"validate_meta": True})
                except ValueError:
                    raise Refused(400, "expected files as this page sends them, found another value") from None

    def _with_policy(self, send):
        """Return a `send` that adds the headers which keep the browser from loading anything from elsewhere."""
        added = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
        if self.own:
            added.append((b"content-security-policy", ONLY_FROM_HERE.encode()))

        async def sending(message):
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        return sending


def _refusal(error):
    """Return the Refused for what went wrong with an upload: Starlette's errors, the disk's, or one of ours already."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, OSError):
        return Refused(507, f"the server cannot keep an upload now ({error.strerror}); try again later")
    reason = getattr(error, "detail", None) or str(error) or type(error).__name__
    if reason.startswith("Too many files"):
        return Refused(400, f"expected at most {MAX_IMAGES} images at once, found more; give fewer, or use the shell")
    return Refused(400, f"expected images as multipart/form-data, found another request: {reason[:120]}")


def _check_files(value, uploads):
    """Raise InputError where a JSON value holds a file that is no upload. Gradio would look for it, or download it."""
    if isinstance(value, list):
        for item in value:
            _check_files(item, uploads)
    elif isinstance(value, dict):
        if "path" in value or "meta" in value:
            uploads.find(value.get("path"))
            if value.get("is_stream"):
                raise InputError("expected an image that was uploaded, found a stream; upload the image")
        for item in value.values():
            _check_files(item, uploads)

async def _read(receive, most, expected):
    """Return the body of a request."""
    body, more = b"", True
    receive = _limited(receive, most, Refused(413, f"expected {expected}, found a larger one"))
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the request was broken off")
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


def _limited(receive, most, refused):
    """Return a `receive` that raises `refused` once more than `most` bytes have come."""
    came = 0

    async def receiving():
        nonlocal came
        message = await receive()
        came += len(message.get("body", b""))
        if came > most:
            raise refused
        return message

    return receiving


def _replay(body, receive):
    """Return a `receive` that gives a body that was read already, then what comes after it."""
    given = False

    async def receiving():
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving
