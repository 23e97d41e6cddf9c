import base64
import contextlib
import csv
import errno
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from detector.console import InputError
from detector.inference import predictor
from detector.model import export
from detector.web import guard as guard_module
from detector.web import views
from detector.web.guard import KEPT, MAX_IMAGES, Guard, Uploads
from tests.conftest import ROOT, draw

pytest.importorskip("gradio")
import httpx  # it comes with gradio

MODEL = export.SHIPPED / "compact.h5"
TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6
PARAMETERS = "images, detector, force, threshold, provenance"
NO_UPLOAD = "expected an image that was uploaded and not judged yet, found another path; upload the image again"
HOSTILE = "<img src=x onerror=alert(1)> {{this}} ${alert(2)} =1+1.png"
SERVE = """
import sys
sys.path.insert(0, sys.argv[1])
from detector.web import guard, server
from detector.inference.predictor import Judge
guard.SWEEP, guard.MAX_FILE, server.WAITING, server.AT_ONCE = 0.2, 2**20, 4, 1
server.open_page(Judge(sys.argv[2]), "127.0.0.1", int(sys.argv[3]))
"""


class Server:
    """A page in a process of its own, and a client for it."""

    def __init__(self, folder):
        self.temporary, self.log = folder / "temporary", folder / "log"
        self.temporary.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.api = f"{self.url}/gradio_api"
        names = ("TMPDIR", "TEMP", "TMP")
        environment = {**os.environ, "BROWSER": "true", **dict.fromkeys(names, str(self.temporary))}
        with self.log.open("wb") as log:
            command = [sys.executable, "-c", SERVE, str(ROOT), str(MODEL), str(self.port)]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=folder)
        self.client = httpx.Client(timeout=60)

    def wait(self):
        """Wait until the page is open."""
        deadline = time.monotonic() + 240
        while b"The page is open at" not in self.log.read_bytes():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, "the page did not open"
            time.sleep(0.1)

    def upload(self, *files):
        """Upload (name, bytes) ...; return the response."""
        return self.client.post(f"{self.api}/upload", files=[("files", file) for file in files])

    def call(self, *data, version="", name="judge"):
        """Call judge, or explain, as curl would: (status, what it answers)."""
        body = data[0] if version else {"data": list(data)}
        posted = self.client.post(f"{self.api}/call/{version}{name}", json=body)
        if posted.status_code != 200:
            return posted.status_code, posted.json()["detail"]
        said = self.client.get(f"{self.api}/call/{name}/{posted.json()['event_id']}").text
        event, answer = (line.split(": ", 1)[1] for line in said.strip().splitlines())
        return (200, json.loads(answer)[0]) if event == "complete" else (event, json.loads(answer)["error"])

    def judge(self, *files, options=(None, False, None, False)):
        """Upload (name, bytes) ... and judge them."""
        return self.call([as_file(path) for path in self.upload(*files).json()], *options)

    def kept(self):
        """List all files of uploads that lie on the disk."""
        return [path for path in self.temporary.rglob("*") if path.is_file()]

    def lines(self):
        """Return what the server has printed since it opened the page."""
        return self.log.read_text().split("(Ctrl + C ends it).\n", 1)[1]


def as_file(path):
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb(side=60_000):
    """Return a PNG of a few kilobytes that says to have side x side pixels."""

    def chunk(name, data):
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    one = Server(tmp_path_factory.mktemp("page"))
    try:
        one.wait()
        yield one
    finally:
        one.process.kill()
        one.process.wait()


# --- the REST API --------------------------------------------------------------------------------------------------------


def test_the_api_scores_each_format_as_the_shell_does(server, tmp_path):
    from PIL import features

    kinds = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"] + (["AVIF"] if features.check("avif") else [])
    files = [(f"{kind}.{kind.lower()}", encoded(draw(kind), kind)) for kind in kinds]
    files.append(("turned.jpg", encoded(draw(1, (32, 40)), "JPEG", exif=TURNED)))
    status, rows = server.judge(*files, options=(None, True, None, False))
    for name, data in files:
        (tmp_path / name).write_bytes(data)
    shell = list(predictor.Judge(MODEL).judge([tmp_path / name for name, _ in files], force=True))
    assert status == 200 and [row["name"] for row in rows] == [name for name, _ in files]
    for row, expected in zip(rows, shell, strict=True):
        assert abs(row["p_fake"] - expected["p_fake"]) <= 1e-6
        assert all(row[name] == expected[name] for name in ("verdict", "detector", "width", "height", "note", "error"))
    assert (rows[-1]["width"], rows[-1]["height"]) == (40, 32)


def test_the_python_client_and_both_ways_to_call_say_the_same(server, tmp_path):
    from gradio_client import Client, handle_file

    path = tmp_path / "small image (1).png"
    draw(3).save(path)
    client = Client(server.url, verbose=False)
    said = client.predict(images=[handle_file(str(path))], provenance=True, api_name="/judge")
    paths = server.upload((path.name, path.read_bytes())).json()
    assert (200, said) == server.call({"images": [as_file(paths[0])], "provenance": True}, version="v2/")
    assert (200, said) == server.judge((path.name, path.read_bytes()), options=(None, False, None, True))
    assert said[0]["name"] == path.name and said[0]["provenance"]["says"] == "nothing"
    assert list(said[0]) == ["name", *predictor.COLUMNS[1:]]


@pytest.mark.skipif(not (shutil.which("bash") and shutil.which("curl")), reason="bash or curl is not installed")
def test_readmes_commands_word_for_word(server, tmp_path):
    draw("one").save(tmp_path / "photo.jpg")
    text = (ROOT / "README.md").read_text("utf-8").split("\n### app.py\n")[1].replace("127.0.0.1:7860", f"127.0.0.1:{server.port}")
    shell, client = (text.split(f"```{kind}\n", 1)[1].split("```")[0] for kind in ("sh", "python"))
    client = client.replace("Client(", "answer = Client(")
    row = next(predictor.Judge(MODEL).judge([tmp_path / "photo.jpg"]))
    said = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert json.loads(said.split("data: ", 1)[1])[0][0]["p_fake"] == pytest.approx(row["p_fake"], abs=1e-6)
    assert (tmp_path / "where.png").read_bytes().startswith(b"\x89PNG")
    program = f"{client}\nimport json; print(json.dumps(answer))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert json.loads(done.splitlines()[-1])[0]["p_fake"] == pytest.approx(row["p_fake"], abs=1e-6)


def test_options_of_the_api(server):
    image = ("a.png", encoded(draw(4)))
    p_fake = server.judge(image)[1][0]["p_fake"]
    assert server.judge(image, options=(None, False, 0, False))[1][0]["verdict"] == "Fake"
    assert server.judge(image, options=(None, False, min(p_fake + 1e-3, 1), False))[1][0]["verdict"] in ("Real", "Fake")
    large = ("large.png", encoded(draw(4, (300, 200))))
    assert server.judge(large)[1][0]["verdict"] == "uncertain"
    assert server.judge(large, options=("compact.h5", True, 0, False))[1][0]["verdict"] == "Fake"
    assert server.judge(image, options=("other.h5", False, None, False)) == (
        "error", "other.h5: expected one of the detectors compact.h5"
    )  # fmt: skip
    for options in ((5, False, None, False), (None, "yes", None, False), (None, False, 2, False), (None, False, None, 1)):
        assert server.judge(image, options=options)[0] == "error"


def test_the_api_gives_the_heat_map_that_the_shell_writes(server, tmp_path):
    import numpy as np

    from detector.images import pixels
    from detector.inference import attribution

    path = tmp_path / "one.png"
    draw(3).save(path)

    def upload(content):
        return as_file(server.upload((path.name, content)).json()[0])

    status, said = server.call({"image": upload(path.read_bytes())}, version="v2/", name="explain")
    assert (status, list(said)) == (200, ["name", "p_fake", "detector", "png", "error"])
    (row,) = predictor.Judge(MODEL).judge([path])
    assert abs(said["p_fake"] - row["p_fake"]) <= 1e-6
    assert (said["name"], said["detector"], said["error"]) == ("one.png", "compact.h5", None)
    image = pixels.read_image(path)
    expected = attribution.overlay(image, attribution.explain(export.open_detector(MODEL), image))
    given = pixels.read_image(base64.b64decode(said["png"])).astype(int)
    assert given.shape == expected.shape and np.abs(given - expected).max() <= 1
    assert server.call(upload(path.read_bytes()), "compact.h5", name="explain") == (200, said)
    status, said = server.call(upload(b"no image"), None, name="explain")
    assert (status, said["png"], said["p_fake"]) == (200, None, None)
    assert said["error"].startswith("one.png: expected an image (JPEG,")
    assert server.call(as_file("/etc/passwd"), None, name="explain") == (400, NO_UPLOAD)
    assert server.call(None, None, name="explain")[0] == server.call(upload(b"x"), 5, name="explain")[0] == "error"
    assert server.call(None, name="explain") == (400, "expected data to be a list of 2 values (image, detector), found 1 values")
    assert server.call({"detector": None}, version="v2/", name="explain") == (
        400, "expected image, and of detector what is to be set"
    )  # fmt: skip
    assert server.kept() == []


def test_metadata_cannot_pass_for_a_file(server):
    from PIL.PngImagePlugin import PngInfo

    from detector.web.server import as_json

    text = PngInfo()
    text.add_text("prompt", json.dumps({"1": {"class_type": "KSampler", "inputs": as_file("/etc/passwd")}}))
    text.add_text("parameters", f"a cat\nSteps: 20, path: {ROOT / 'README.md'}, url: http://127.0.0.1/x, Model: m, Seed: 1")
    file = io.BytesIO()
    draw(5).save(file, "PNG", pnginfo=text)
    status, rows = server.judge(("a.png", file.getvalue()), options=(None, False, None, True))
    assert status == 200 and rows[0]["provenance"]["says"] == "made by AI"
    row = dict.fromkeys(predictor.COLUMNS) | {"path": "a", "provenance": {"settings": [as_file("/etc/passwd")]}}
    assert as_json(row)["provenance"] == {"settings": [{"path_": "/etc/passwd", "meta_": {"_type": "gradio.FileData"}}]}


# --- what must not get through -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def witness():
    """A server that counts the requests which reach it: {'url': ..., 'seen': list}."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(encoded(draw(1)))

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield {"url": f"http://127.0.0.1:{one.server_port}", "seen": seen}
        one.shutdown()


def test_no_path_and_no_url_can_be_named(server, witness):
    mine = server.upload(("a.png", encoded(draw(1)))).json()[0]
    folder = os.path.dirname(os.path.dirname(mine))
    named = ["/etc/passwd", str(ROOT / "README.md"), str(MODEL), "README.md", "", ".", "..", 5, None, [mine], {},
             f"{mine}/../../../../../../etc/passwd", f"{folder}/../../../etc/passwd", f"{folder}/{'0' * 32}/..",
             f"{mine}\0", f"{mine}x", os.path.dirname(mine), folder, f"file://{mine}", "file:///etc/passwd",
             f"{witness['url']}/x.png",
             f"{witness['url']}/gradio_api/file={mine}", "https://huggingface.co/x.png", "//127.0.0.1/x.png",
             "data:image/png;base64,iVBORw0KGgo=", "/proc/self/environ", f"{mine}%00.png", "~/.bashrc"]  # fmt: skip
    for path in named:
        for file in (as_file(path), {"path": path}, {**as_file(path), "url": f"{witness['url']}/u.png", "orig_name": "a.png"}):
            assert server.call([file], None, False, None, False) == (400, NO_UPLOAD), path
            assert server.call({"images": [file]}, version="v2/") == (400, NO_UPLOAD), path
            body = {"data": [[file], "", False, False], "fn_index": 0, "session_hash": "abc"}
            joined = server.client.post(f"{server.api}/queue/join", json=body)
            assert (joined.status_code, joined.json()["detail"]) == (400, NO_UPLOAD), path
    assert server.call([{**as_file(mine), "is_stream": True}], None, False, None, False)[0] == 400
    hidden = {**as_file(mine), "url": f"{witness['url']}/u.png", "orig_name": "../../etc/passwd"}
    assert server.call([hidden], None, True, None, True)[1][0]["name"] == "../../etc/passwd"  # a name, nothing more
    assert witness["training_range"] == []


def test_nothing_is_served_but_the_page(server, witness):
    mine = server.upload(("secret.png", encoded(draw(1)))).json()[0]
    page = server.client.get(server.url)
    assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]
    hidden = ["file=/etc/passwd", f"file={ROOT / 'README.md'}", f"file={mine}", f"file={witness['url']}/x", f"file/{mine}",
              "file=README.md", f"proxy={witness['url']}/x", f"proxy={witness['url']}", "stream/a/b/c/playlist.m3u8", "vibe-code",
              "runs", "deep_link", "custom_component/a/client/b/c", "run-history/buckets", "token", "monitoring",
              "../../etc/passwd"]  # fmt: skip
    urls = [f"{server.api}/{path}" for path in hidden]
    urls += [f"{server.url}/{path}" for path in ("monitoring", "docs", "redoc", "login", "README.md", "file=/etc/x")]
    ups = ("/", "../../../../", "%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/")
    urls += [f"{server.url}/{folder}/{up}etc/passwd" for folder in ("static", "assets") for up in ups]
    for url in urls:
        for verb in ("GET", "HEAD"):
            answer = server.client.request(verb, url)
            assert answer.status_code in (403, 404, 405), url
            assert b"root:" not in answer.content and b"PNG" not in answer.content
    for path in ("run/judge", "api/judge", "component_server", "process_recording", "vibe-edit", "call/show", "call/v2/show"):
        assert server.client.post(f"{server.api}/{path}", json={"data": []}).status_code == 404
    for verb in ("PUT", "DELETE", "PATCH", "TRACE"):
        assert server.client.request(verb, server.url).status_code == 404
    foreign = {"headers": {"Origin": "https://example.org", "Sec-Fetch-Site": "cross-site"}, "files": {"files": b"a"}}
    assert server.client.post(f"{server.api}/upload", **foreign).status_code == 403
    assert witness["training_range"] == []
    assert server.call([as_file(mine)], None, False, None, False)[0] == 200


def test_bad_uploads_are_a_message(server):
    rows = server.judge(
        ("broken.jpg", b"\xff\xd8\xff hello"), ("empty.png", b""), ("text.png", b"hello"), ("bomb.png", bomb()),
        ("large.png", bomb(8_000)), ("cut.png", encoded(draw(1))[:900]), ("good.png", encoded(draw(1))),
    )[1]  # fmt: skip
    assert [row["verdict"] is None for row in rows] == [True] * 6 + [False]
    assert all(row["error"].startswith(f"{row['name']}: expected an image") for row in rows[:3])
    assert rows[3]["error"] == "bomb.png: expected at most 178,956,970 pixels, found more; scale the image down"
    assert rows[4]["error"] == (
        "large.png: expected at most 50,000,000 pixels, found 8,000 x 8,000; scale it down, or judge it in the shell"
    )
    assert rows[5]["error"].startswith("cut.png: expected a whole image, found a damaged one (")
    large = server.upload(("large.bmp", bytes(2**20 + 1)))
    assert (large.status_code, large.text) == (413, "expected images of at most 1 MB, found one of 1.1 MB")
    assert all(row["provenance"] for row in server.judge(("large.png", bomb(8_000)), options=(None, False, None, True))[1])
    many = server.upload(*[("a.png", b"a")] * (MAX_IMAGES + 1))
    assert (many.status_code, many.text) == (
        400, "expected at most 200 images at once, found more; give fewer, or use the shell"
    )  # fmt: skip
    for body, kind in ((b"hello", "text/plain"), (b"hello", "multipart/form-data"), (b"hello", "multipart/form-data; boundary=x")):
        answer = server.client.post(f"{server.api}/upload", content=body, headers={"content-type": kind})
        assert answer.status_code == 400 and answer.text.startswith("expected images as multipart/form-data, found another")
    assert server.kept() == []


def test_a_bad_call_is_a_message(server):
    assert server.call() == (400, f"expected data to be a list of 5 values ({PARAMETERS}), found 0 values")
    assert server.call([], None, False, None, False) == (
        "error", "expected images as a list of uploaded files, found none; upload some"
    )  # fmt: skip
    assert server.call({"detector": None}, version="v2/")[0] == server.call({"images": [], "more": 1}, version="v2/")[0] == 400
    wrong = (b"", b"{", b"[" * 200_000, b"[]", b'{"data": 5}', b'{"data": [1], "fn_index": 99}', b'{"data": [], "fn_index": []}',
             b'{"data": []}', b"\xff", b"x" * (2**20 + 1))  # fmt: skip
    for body in wrong:
        for path in ("call/judge", "queue/join", "call/v2/judge"):
            answer = server.client.post(f"{server.api}/{path}", content=body, headers={"content-type": "application/json"})
            assert answer.status_code in (400, 413) and answer.json()["detail"], (path, body[:50])
    body = {"data": [["x"], "", False, False], "fn_index": 0, "session_hash": "abc"}
    assert server.client.post(f"{server.api}/queue/join", json=body).status_code == 400
    mine = server.upload(("a.png", encoded(draw(1)))).json()[0]
    assert server.call([as_file(mine)] * (MAX_IMAGES + 1), None, False, None, False) == (
        "error", "expected at most 200 images at once, found 201; give fewer, or use the shell"
    )  # fmt: skip


def test_a_call_that_was_never_made_is_told_so_and_no_traceback(server):
    for path in ("call/judge/5", "call/explain/5", "queue/data?session_hash=5"):
        answer = server.client.get(f"{server.api}/{path}")
        assert answer.status_code == 200 and "404: Not Found" in answer.text, path
    assert "Traceback" not in server.lines()


def test_uploads_are_not_kept(server):
    path = server.upload(("../../up.png", encoded(draw(1)))).json()[0]
    assert [os.fspath(kept) for kept in server.kept()] == [path] and os.path.basename(path) == "up.png"
    assert server.call([as_file(path)], None, False, None, False)[0] == 200
    assert server.kept() == []
    assert server.call([as_file(path)], None, False, None, False) == (400, NO_UPLOAD)
    left = server.upload(("left.png", encoded(draw(1)))).json()[0]
    before = time.time() - KEPT - 1
    os.utime(os.path.dirname(left), (before, before))
    deadline = time.monotonic() + 10
    while server.kept():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with socket.create_connection(("127.0.0.1", server.port)) as broken:  # an upload that is broken off
        head = "POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 900000"
        head += "\r\nContent-Type: multipart/form-data; boundary=x"
        part = '--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        broken.sendall(f"{head}\r\n\r\n{part}".encode() + bytes(500_000))
    time.sleep(0.3)
    assert server.kept() == []


def test_too_many_requests_at_once_are_told_so(server):
    heavy = encoded(draw(1, (5_000, 5_000)).convert("L"), compress_level=1)[: 2**20]  # decoding takes a while, then fails
    paths = [server.upload(("a.png", heavy)).json()[0] for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda path: server.call([as_file(path)], None, False, None, False), paths))
    assert {status for status, _ in answers} == {200, 503}
    assert {said for status, said in answers if status == 503} == {"Queue is full. Max size is 4 and size is 4."}
    assert server.judge(("a.png", encoded(draw(1))))[0] == 200
    for folder in server.temporary.glob("real-or-fake-*"):  # those that were refused
        Uploads(folder).sweep(-1)


def test_the_room_for_uploads_is_limited(tmp_path, monkeypatch):
    import asyncio

    guard = Guard(None, Uploads(tmp_path), dict, {})
    monkeypatch.setattr(guard_module, "MAX_WAITING", 1000)
    headers = [(b"content-type", b"multipart/form-data; boundary=x"), (b"content-length", b"999")]
    sent = []

    async def send(message):
        sent.append(message)

    async def post(receive):
        sent.clear()
        await guard({"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": headers}, receive, send)
        return sent[0]["status"], sent[1]["body"].decode()

    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + bytes(500)

    async def endless():
        return {"type": "http.request", "body": head, "more_body": True}

    async def whole():
        return {"type": "http.request", "body": head + b"\r\n--x--\r\n", "more_body": False}

    told = "the server has no room for so many images at once; upload fewer, or try again in a minute"
    status, paths = asyncio.run(post(whole))
    assert status == 200 and os.path.getsize(json.loads(paths)[0]) == 500
    assert asyncio.run(post(whole)) == (413, told)  # the first one still lies there
    guard.uploads.sweep(-1)
    assert asyncio.run(post(endless)) == (400, "expected as many bytes as Content-Length says, found more")
    assert asyncio.run(post(whole))[0] == 200
    headers.pop()
    assert asyncio.run(post(whole))[0] == 411
    guard.uploads.sweep(-1)
    assert guard.uploads.waiting() == 0 and list(tmp_path.iterdir()) == []


def test_an_upload_is_found_by_its_own_path_alone(tmp_path):
    uploads = Uploads(tmp_path / "mine")
    path = uploads.keep(io.BytesIO(b"image"), "C:\\x\\..\\ä b:c\n.png")
    assert path.name == "ä b_c_.png" and uploads.find(os.fspath(path)) == path and uploads.waiting() == 5
    (tmp_path / "mine" / ("0" * 32)).mkdir()
    (tmp_path / "mine" / ("0" * 32) / "link").symlink_to(path)
    for other in (os.fspath(path.parent), f"{path.parent}/../{path.parent.name}/{path.name}", "x", f"{path}\0", None,
                  f"{tmp_path}/mine/{'0' * 32}/."):  # fmt: skip
        with pytest.raises(InputError, match="not judged yet, found another path"):
            uploads.find(other)
    uploads.sweep(60)
    assert path.is_file()
    uploads.remove([path])
    assert not path.parent.exists()
    names = [uploads.keep(io.BytesIO(b""), name).name for name in ("", None, "..", "a/..", "x" * 300, ".png")]
    assert names == ["image", "image", "image", "image", "x" * 80, "png"]


# --- what is shown -------------------------------------------------------------------------------------------------------


def row_of(**values):
    nothing = {"says": "nothing", "signed": False}
    return {**dict.fromkeys(predictor.COLUMNS), "path": "a.png", "provenance": nothing, "width": 32, "height": 32, **values}


def test_html_of_strangers_is_shown_not_run():
    import numpy as np

    metadata = {"thresholds": {"fake": 0.9, "real": 0.1}}
    image = np.zeros((8, 8, 3), np.uint8)
    evil = "<script>alert(1)</script>\x07\"'"
    row = row_of(path=evil, verdict="Fake", p_fake=0.95, detector="d")
    rows = [row, row_of(path=evil, error=evil), row_of(path=evil, verdict="uncertain", p_fake=0.5, note=evil, detector="d")]
    lines = [[evil]] * 3
    shown = [views.card(one, metadata, [evil], image, image, [evil], False) for one in rows]
    shown.append(views.table(rows, {"d": metadata}, [evil], [image] * 3, [None] * 3, lines, False, "data:,"))
    for html in shown:
        assert "<script" not in html and "&lt;script&gt;" in html and "\x07" not in html and "\\x07&quot;&#x27;" in html


def test_what_the_file_says_stands_beside_the_verdict_too():
    metadata = {"thresholds": {"fake": 0.9, "real": 0.1}}
    row = row_of(verdict="uncertain", p_fake=0.5)
    kinds = [(False, False, "not signed"), (True, False, "signed, but by whom is open"), (True, True, "signed")]
    for signed, trusted, words in kinds:
        said = {"says": "made by AI", "signed": signed, "c2pa": {"trusted": trusted}}
        html = views.card({**row, "provenance": said}, metadata, [], None, None, ["x"], False)
        assert f"Apart from the score, the file says: <b>made by AI, {words}</b>" in html
    assert "Apart from the score" not in views.card(row, metadata, [], None, None, ["x"], False)


def test_the_verdict_is_told_in_words_and_its_probability_never_overstated():
    assert [views.percent(p).replace("\N{NO-BREAK SPACE}", " ") for p in (0, 0.0009, 0.001, 0.5, 0.999, 0.9995, 1, 2)] == [
        "below 0.1 %", "below 0.1 %", "0.1 %", "50.0 %", "99.9 %", "above 99.9 %", "above 99.9 %", "more than 100 %"
    ]  # fmt: skip
    for verdict, words in views.HEADLINES.items():
        assert words[0] in views.headline(verdict) and views.MARKS[verdict] in views.headline(verdict)
    metadata = {"thresholds": {"fake": 0.9, "real": 0.1}}
    unlike = row_of(verdict="uncertain", p_fake=0.99, note="it is too large")
    assert "99" not in views.reasons(unlike, metadata, False) and "it is too large" in views.reasons(unlike, metadata, False)
    assert "99.0" in views.reasons(unlike, metadata, True) and "Do not rely on it" in views.reasons(unlike, metadata, True)
    html = views.bar(0.25, metadata["thresholds"])
    assert '<u style="left:10.00%">' in html and '<u style="left:90.00%">' in html and '<b style="left:25.00%">' in html


def test_a_spreadsheet_shows_the_csv_and_runs_nothing():
    names = ["=1+1.png", "+1", "-1", "@x", "a,b.png", 'a"b.png', "ü.png", "=HYPERLINK(1)"]
    link = views.csv_link([row_of(path=name, p_fake=0.123456789012) for name in names], predictor.COLUMNS)
    text = base64.b64decode(link.removeprefix("data:text/csv;charset=utf-8;base64,")).decode("utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["path"] for row in rows] == ["'=1+1.png", "'+1", "'-1", "'@x", "a,b.png", 'a"b.png', "ü.png", "'=HYPERLINK(1)"]
    assert {row["p_fake"] for row in rows} == {"0.123456789012"} and list(rows[0]) == predictor.COLUMNS


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it looks at this process as Linux tells of it")
def test_the_memory_of_large_images_goes_back_to_the_system():
    """Without it, 40 images in four threads leave some hundred megabytes behind."""
    program = (
        "import io, sys, threading, numpy as np; from PIL import Image\n"
        "from detector.images import pixels; from detector.web import server\n"
        "if sys.argv[1] == 'page': server._share_memory()\n"
        "files = []\n"
        "for i in range(8):\n"
        "    file = io.BytesIO(); Image.new('RGB', (2000 + 200 * i, 2500), (i, 9, 99)).save(file, 'JPEG')\n"
        "    files.append(file.getvalue())\n"
        "memory = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096 >> 20\n"
        "def work(i):\n"
        "    for k in range(10): pixels.read_image(files[(i * 3 + k) % 8])\n"
        "before = memory()\n"
        "threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]\n"
        "[one.start() for one in threads]; [one.join() for one in threads]\n"
        "if sys.argv[1] == 'page': server._give_memory_back()\n"
        "print(memory() - before)"
    )
    grown = [
        int(subprocess.run([sys.executable, "-c", program, how], cwd=ROOT, capture_output=True, text=True, check=True).stdout)
        for how in ("page", "alone")
    ]
    if grown[1] < 30:
        pytest.skip(f"the C library here keeps no memory of its own (it grew by {grown[1]} MB)")
    assert grown[0] < 20, grown


def test_detectors_can_be_chosen_where_there_are_several(tmp_path):
    from detector.web.server import build_page

    for number in (1, 2):
        models = [shutil.copy(MODEL, tmp_path / f"model{i}.h5") for i in range(number)]
        page = build_page(predictor.Judge(models), Uploads(tmp_path / "uploads"))
        choice = next(block for block in page.blocks.values() if getattr(block, "label", None) == "Detector")
        assert choice.visible == (number > 1)
        assert choice.get_block_name() == "radio"  # of a Dropdown's list the keyboard reaches what is chosen already, and no more
        assert [value for _, value in choice.choices] == ["", *(f"model{i}.h5" for i in range(number))]
        assert not page.analytics_enabled


# --- in a browser --------------------------------------------------------------------------------------------------------


class Browser:
    """Chromium without a window, driven by the DevTools protocol over two pipes: no further package is needed."""

    def __init__(self, program, folder):
        to_it, from_it = os.pipe(), os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe",
                   "--disable-background-networking", "--disable-component-update", "--use-fake-device-for-media-stream",
                   "--use-fake-ui-for-media-stream", f"--user-data-dir={folder}", "about:blank"]  # fmt: skip
        place = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
        command = [sys.executable, "-c", place, str(to_it[0]), str(from_it[1]), program, *options]
        nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, pass_fds=(to_it[0], from_it[1]), start_new_session=True, **nowhere)
        os.close(to_it[0])
        os.close(from_it[1])
        self.out, self.input = os.fdopen(to_it[1], "wb", buffering=0), os.fdopen(from_it[0], "rb", buffering=0)
        self.number, self.session, self.answers, self.events, self.came = 0, None, {}, [], threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()
        page = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "DOM", "Log"):
            self.call(f"{domain}.enable")

    def _listen(self):
        rest = b""
        while chunk := self.input.read(1 << 16):
            *messages, rest = (rest + chunk).split(b"\0")
            with self.came:
                for message in map(json.loads, messages):
                    if "id" in message:
                        self.answers[message["id"]] = message
                    else:
                        self.events.append(message)
                self.came.notify_all()

    def call(self, method, **parameters):
        self.number += 1
        number, message = self.number, {"id": self.number, "method": method, "params": parameters}
        self.out.write(json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        with self.came:
            assert self.came.wait_for(lambda: number in self.answers, 60), f"no answer to {method}"
            answer = self.answers.pop(number)
        assert "error" not in answer, answer
        return answer["result"]

    def js(self, expression):
        """Evaluate JavaScript in the page; None where it fails."""
        return self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)["result"].get("value")

    def wait(self, expression, seconds=40):
        deadline = time.monotonic() + seconds
        while not (value := self.js(expression)):
            assert time.monotonic() < deadline, f"waited in vain for {expression} on {self.js('document.body.innerText')}"
            time.sleep(0.05)
        return value

    def open(self, url, width=1200, dark=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.call("Page.navigate", url=url)
        self.wait("!!document.querySelector('#rf-images input[type=file]')")

    def give(self, *files):
        """Choose files in the page's file field."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        field = self.call("DOM.querySelector", nodeId=root, selector="#rf-images input[type=file]")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=field, files=[os.fspath(file) for file in files])

    def text(self, selector):
        """Return the text of an element once it is there."""
        return self.wait(f"document.querySelector({json.dumps(selector)})?.innerText")

    def close(self):
        with contextlib.suppress(AssertionError, OSError):
            self.session = None
            self.call("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next(filter(None, map(shutil.which, names)), None) if os.name == "posix" else None
    if program is None:
        pytest.skip("no Chromium is installed here")
    one = Browser(program, tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    draw("one").save(folder / "one.png")
    draw("two", (300, 200)).save(folder / "two.jpg")
    draw("one").save(folder / HOSTILE)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff hello")
    (folder / "bomb.png").write_bytes(bomb(8_000))
    return folder


PASTE = """(async () => {
  const all = new DataTransfer(), data = Uint8Array.from(atob('%s'), c => c.charCodeAt(0));
  all.items.add(new File([data], 'given.png', {type: 'image/png'}));
  document.body.dispatchEvent(new %s('%s', {%s: all, bubbles: true, cancelable: true}));
})()"""


def test_a_verdict_its_reasons_and_nothing_from_elsewhere(server, browser, pictures):
    browser.events.clear()
    browser.open(server.url)
    assert "CIFAKE" in browser.text("#rf-result") and "not a proof" in browser.text("#rf-result")
    browser.give(pictures / "one.png")
    said = browser.text(".rf-verdict")
    row = next(predictor.Judge(MODEL).judge([pictures / "one.png"]))
    assert {"Fake": "Fake", "Real": "Real", "uncertain": "Uncertain"}[row["verdict"]] in said
    assert browser.text(".rf-p b") == views.percent(row["p_fake"])
    left = browser.js("parseFloat(document.querySelector('.rf-bar b').style.left)")
    assert abs(left - 100 * row["p_fake"]) < 0.01 and browser.js("document.querySelectorAll('.rf-bar u').length") == 2
    browser.wait("document.querySelector('img[alt=\"the image with the heat map\"]')?.naturalWidth > 30")
    card = browser.js("document.querySelector('.rf-card').innerText")
    order = [card.index(part) for part in ("Probability", "Where the verdict", "What the file says", "What this detector knows")]
    assert order == sorted(order) and "one.png, 32 × 32 pixels" in card
    assert server.kept() == []
    asked = [event["params"]["request"]["url"] for event in browser.events if event["method"] == "Network.requestWillBeSent"]
    assert len(asked) > 20 and [url for url in asked if not url.startswith((server.url, "data:", "blob:"))] == []
    assert [event for event in browser.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")] == []


def test_many_images_are_a_table_and_a_csv(server, browser, pictures):
    browser.open(server.url)
    browser.give(*(pictures / name for name in ("one.png", "two.jpg", "broken.jpg", "bomb.png", HOSTILE)))
    table = browser.text(".rf table")
    assert browser.js("document.querySelectorAll('.rf tbody tr').length") == 5
    assert HOSTILE in table and "300 × 200 pixels" in table and "found another kind of file" in table
    assert "expected at most 50,000,000 pixels" in table
    assert "5 images:" in browser.text(".rf-counts") and "2 not judged" in browser.text(".rf-counts")
    link = browser.js("document.querySelector('a[download=\"verdicts.csv\"]').href")
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(link.split(",")[1]).decode("utf-8"))))
    expected = predictor.Judge(MODEL).judge([pictures / row["path"] for row in rows])
    assert [row["path"] for row in rows] == ["one.png", "two.jpg", "broken.jpg", "bomb.png", HOSTILE]
    assert [row["p_fake"] for row in rows] == ["" if row["p_fake"] is None else str(row["p_fake"]) for row in expected]
    browser.js("document.querySelectorAll('#rf-options input')[1].click()")
    browser.wait("document.querySelectorAll('img[alt=\"the image with the heat map\"]').length == 2")


def test_hostile_names_are_shown_and_not_run(server, browser, pictures):
    browser.events.clear()
    browser.open(server.url)
    browser.give(pictures / HOSTILE)
    assert f"{HOSTILE}, 32 × 32 pixels" in browser.text(".rf figcaption")
    assert browser.js("document.querySelectorAll('img[onerror]').length") == 0
    assert [event for event in browser.events if event["method"] == "Page.javascriptDialogOpening"] == []


def test_a_broken_file_is_a_message_on_the_page(server, browser, pictures):
    browser.open(server.url)
    browser.give(pictures / "broken.jpg")
    assert "Not judged" in browser.text(".rf-verdict")
    assert browser.text(".rf-note").startswith("broken.jpg: expected an image (JPEG, PNG,")
    (pictures / "notes.txt").write_text("hello")
    (pictures / "large.png").write_bytes(bytes(2**20 + 1))
    for wrong in ([pictures / "notes.txt"], [pictures / "large.png"], [pictures / "one.png"] * 201):
        browser.give(*wrong)
        told = browser.text("[data-testid=toast-body]")
        assert any(part in told for part in ("Invalid file type", "found one of 1.1 MB", "at most 200 images at once")), told
        browser.js("document.querySelector('[data-testid=toast-close]').click()")
        browser.wait("!document.querySelector('[data-testid=toast-body]')")
    browser.give(pictures / "one.png")  # the page goes on
    browser.wait("document.querySelector('.rf-p')?.innerText.includes('Probability')")


def test_an_image_unlike_all_is_uncertain_until_it_is_forced(server, browser, pictures):
    browser.open(server.url)
    browser.give(pictures / "two.jpg")
    assert "Uncertain" in browser.text(".rf-verdict") and "300 x 200 pixels" in browser.text(".rf-note")
    assert not browser.js("document.querySelector('.rf-p')")
    browser.js("document.getElementById('rf-force').click()")
    assert "Probability" in browser.text(".rf-p") and "Do not rely on it" in browser.text(".rf-note")


@pytest.mark.parametrize(
    ("event", "name", "holder"), [("paste", "ClipboardEvent", "clipboardData"), ("drop", "DragEvent", "dataTransfer")]
)
def test_pasted_and_dropped_files_are_judged_as_they_are(server, browser, pictures, event, name, holder):
    browser.open(server.url)
    data = base64.b64encode((pictures / "one.png").read_bytes()).decode()
    browser.js(PASTE % (data, name, event, holder))
    assert "given.png, 32 × 32 pixels" in browser.text(".rf figcaption")
    p_fake = next(predictor.Judge(MODEL).judge([pictures / "one.png"]))["p_fake"]
    assert browser.text(".rf-p b") == views.percent(p_fake)


def test_the_camera_gives_an_image(server, browser):
    browser.open(server.url)
    browser.js("document.getElementById('rf-camera').click()")
    browser.wait("document.getElementById('rf-video').videoWidth > 0")
    browser.js("document.getElementById('rf-shoot').click()")
    assert browser.text(".rf figcaption").startswith("camera.png, ")
    assert not browser.js("document.getElementById('rf-dialog').open")


def test_dark_and_light(server, browser, pictures):
    light = "document.querySelector('.rf-verdict') && getComputedStyle(document.%s).%s.match(/[0-9.]+/g).slice(0, 3).map(Number)"
    shades = {}
    for dark in (False, True):
        browser.open(server.url, dark=dark)
        browser.give(pictures / "one.png")
        back = browser.wait(light % ("querySelector('.rf-card')", "backgroundColor"))
        ink = browser.wait(light % ("querySelector('.rf-verdict')", "color"))
        shades[dark] = sum(back)
        assert contrast(back, ink) > 4.5
        soft = browser.wait(light % ("querySelector('.rf figcaption')", "color"))
        assert contrast(back, soft) > 4.5
    assert shades[False] > 700 and shades[True] < 200


def contrast(one, other):
    """Return the contrast of two colours as WCAG 2.2 defines it."""

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (channel / 255 for channel in colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_a_narrow_window_needs_no_scrolling_sideways(server, browser, pictures):
    many = ["one.png", "two.jpg", "broken.jpg", HOSTILE]
    right = "Math.max(...[...document.querySelectorAll('.rf, .rf *')].map(one => one.getBoundingClientRect().right))"
    for files, shown in (([], "#rf-result"), (many[:1], ".rf-verdict"), (many, ".rf table")):
        browser.open(server.url, width=360)
        if files:
            browser.give(*(pictures / name for name in files))
        browser.text(shown)
        assert browser.js("document.documentElement.scrollWidth") <= 360
        assert browser.js(right) <= 361


def test_the_keyboard_reaches_everything(server, browser, pictures):
    browser.open(server.url)
    browser.give(pictures / "two.jpg")
    browser.text("#rf-force")
    browser.js("document.body.focus()")
    reached = []
    for _ in range(14):
        for kind in ("rawKeyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.append(browser.js("(e => e.id || e.ariaLabel || e.type || e.innerText)(document.activeElement)"))
    assert {"rf-camera", "rf-force", "checkbox"} <= set(reached), reached
    assert any("upload" in str(one) for one in reached), reached


# --- at the end ----------------------------------------------------------------------------------------------------------


def test_after_all_this_nothing_is_left_and_no_traceback_was_printed(server):
    assert server.kept() == []
    assert "Traceback" not in server.lines() and "error: " not in server.lines(), server.lines()
    server.upload(("left.png", b"hello"))
    server.process.terminate()
    server.process.wait(60)
    if os.name == "posix":  # elsewhere it is ended without a word
        assert server.process.returncode == 0 and list(server.temporary.iterdir()) == []


def test_a_taken_port_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, str(ROOT / "app.py"), "--port", str(port), "--model", str(MODEL)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, env={**os.environ, "BROWSER": "true"})
    assert (done.returncode, done.stdout) == (1, "")
    reason = os.strerror(errno.EADDRINUSE)
    told = f"expected a free address, found one that fails ({reason}); try another --host or --port"
    assert done.stderr == f"error: 127.0.0.1:{port}: {told}\n"
