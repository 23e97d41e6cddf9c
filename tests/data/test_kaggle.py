import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data_unzipper import main
from detector.data.archive import RECORD
from detector.data.kaggle import TOKEN
from tests.data.test_archive import TREE, make_zip

pytest.importorskip("kagglehub", reason="kagglehub is not installed")


class Kaggle(BaseHTTPRequestHandler):
    """Answers what kagglehub asks for; it is reached as a proxy, so the path is a whole address."""

    packed, seen, needs_token = b"", [], False

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        self.seen.append((self.path.rsplit("/", 1)[1], asked, self.headers.get("Authorization")))
        if self.needs_token and self.headers.get("Authorization") != "Bearer secret":
            self.answer(401, b'{"code": 401, "message": "Unauthenticated"}')
        elif asked.get("datasetSlug") == "absent":
            self.answer(404, b'{"code": 404, "message": "Not found"}')
        elif self.path.endswith("/GetDataset"):
            self.answer(200, json.dumps({"currentVersionNumber": 3}).encode())
        else:
            self.answer(200, self.packed, "application/zip")

    def answer(self, status, body, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    handler = type("Handler", (Kaggle,), {"seen": []})
    handler.packed = make_zip(tmp_path / "served", TREE | {"set/.DS_Store": b"x"}).read_bytes()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")  # http instead of https
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "home"))
    yield handler
    server.shutdown()
    server.server_close()


def test_kaggle(run, tmp_path, contents, kaggle):
    to = tmp_path / "raw"
    code, out, err = run(main, "kaggle:someone/fake-or-real", "--to", to)
    assert (code, err) == (0, "") and out.startswith(f"{to}/fake-or-real: 20 files extracted\n") and "set/.DS_Store" in out
    assert contents(to / "fake-or-real").items() > TREE.items()
    assert [(request, asked["ownerSlug"], asked["datasetSlug"]) for request, asked, _ in kaggle.seen] == [
        ("GetDataset", "someone", "fake-or-real"), ("DownloadDataset", "someone", "fake-or-real"),
    ]  # fmt: skip
    assert run(main, "kaggle:someone/fake-or-real", "--to", to) == (0, f"{to}/fake-or-real: unpacked before\n", "")
    assert [request for request, _, _ in kaggle.seen][2:] == ["GetDataset"]
    code, _, err = run(main, "kaggle:another/fake-or-real", "--to", to)
    assert code == 1 and "was not unpacked from this archive" in err


def test_kaggle_with_and_without_credentials(run, tmp_path, kaggle, monkeypatch):
    kaggle.needs_token = True
    code, out, err = run(main, "kaggle:someone/private", "--to", tmp_path / "raw")
    assert (code, out) == (1, "") and err.startswith("error: kaggle:someone/private: ") and err.endswith(f": {TOKEN}\n")
    assert not (tmp_path / "raw").exists()
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret")
    assert run(main, "kaggle:someone/private", "--to", tmp_path / "raw")[0] == 0
    assert {authorization for _, _, authorization in kaggle.seen} == {None, "Bearer secret"}


def test_kaggle_failures(run, tmp_path, kaggle, monkeypatch):
    def fails(source, reason, *options):
        code, out, err = run(main, source, "--to", tmp_path / "raw", *options)
        assert (code, out) == (1, "") and err.startswith(f"error: {source}: ") and reason in err and err.count("\n") == 1
        assert not (tmp_path / "raw").exists() or not os.listdir(tmp_path / "raw")

    fails("kaggle:someone/absent", "(404)")
    fails("kaggle:someone", "expected kaggle:OWNER/DATASET")
    fails("kaggle:../x", "expected kaggle:OWNER/DATASET")
    kaggle.packed = b"no archive"
    fails("kaggle:someone/noise", "the download failed")
    kaggle.packed = make_zip(tmp_path / "served", {"a.jpg": bytes(3_000_000)}).read_bytes()
    fails("kaggle:someone/large", "--max-size", "--max-size", "2MB")
    kaggle.packed = make_zip(tmp_path / "served", {}).read_bytes()
    fails("kaggle:someone/empty", "it holds no files")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    fails("kaggle:someone/else", "Kaggle cannot be reached")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/kaggle.json").write_text("{")
    fails("kaggle:someone/else", f"{tmp_path}/home/kaggle.json); {TOKEN}")
    monkeypatch.setitem(__import__("sys").modules, "kagglehub", None)
    fails("kaggle:someone/else", "pip install kagglehub")


def test_kaggle_links_are_left_out(run, tmp_path, contents, kaggle):
    to = tmp_path / "raw"
    assert run(main, "kaggle:someone/set", "--to", to)[0] == 0
    (cached,) = (tmp_path / "cache").rglob("set/Fake")
    (to / "set").rename(tmp_path / "away")
    (cached / "inside.jpg").symlink_to("0.jpg")
    (cached / "folder").symlink_to("/etc")
    code, out, err = run(main, "kaggle:someone/set", "--to", to)
    assert (code, err) == (0, "") and "links, devices and pipes: 2 files (set/Fake/folder, set/Fake/inside.jpg)\n" in out
    assert contents(to / "set").keys() == {*TREE, RECORD}
