import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from detector.console import InputError
from detector.web import server
from tests.conftest import ROOT, draw
from tests.web.conftest import MODEL


@pytest.mark.parametrize("host, local", [
    ("127.0.0.1", True), ("localhost", True), ("127.0.0.5", True), ("::1", True), ("0.0.0.0", False), ("192.168.0.3", False),
    ("myhost", False),
])  # fmt: skip
def test_a_local_server_answers_local_names_only(host, local):
    assert ("*" in server.allowed_hosts(host)) != local
    assert not local or "evil.example" not in server.allowed_hosts(host)


def test_an_address_that_is_not_available_is_one_line():
    with server.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        for host, number in (("127.0.0.1", port), ("127.0.0.1", 70_000), ("192.0.2.1", 0)):
            with pytest.raises(InputError, match=f"^{host}:{number}: cannot listen there"):
                server.listen(host, number)


@pytest.mark.skipif(not (shutil.which("bash") and shutil.which("curl")), reason="bash or curl is not installed")
@pytest.mark.slow
def test_a_real_server_and_the_commands_of_the_documentation(tmp_path, predictor):
    draw("one").save(tmp_path / "photo.jpg")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "BROWSER": "true", **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))}
    command = [sys.executable, str(ROOT / "app.py"), "--port", str(port), "--model", str(MODEL)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert f"http://127.0.0.1:{port}" in process.stdout.readline()
        text = (ROOT / "docs" / "api.md").read_text("utf-8").replace("127.0.0.1:7860", f"127.0.0.1:{port}")
        commands = text.split("```sh\n", 1)[1].split("```")[0].strip().splitlines()
        said = [subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, check=True).stdout for line in commands]
        (row,) = predictor.predict([tmp_path / "photo.jpg"])
        assert json.loads(said[0])["p_fake"] == pytest.approx(row["p_fake"], abs=1e-6)
        assert [one["verdict"] for one in json.loads(said[1])] == ["Fake" if row["p_fake"] >= 0.5 else "Real"] * 2
        assert (tmp_path / "heat_map.png").read_bytes().startswith(b"\x89PNG")
        assert "photo.jpg" in (tmp_path / "report.html").read_text("utf-8")
        assert json.loads(said[4])["status"] == "ok"
        with socket.create_connection(("127.0.0.1", port)) as broken:  # an upload that is broken off
            head = "POST /judge HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9000000"
            head += "\r\nContent-Type: multipart/form-data; boundary=x"
            part = '--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
            broken.sendall(f"{head}\r\n\r\n{part}".encode() + bytes(3_000_000))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz") as answer:
            assert answer.status == 200
        if os.name == "posix":
            deadline = time.monotonic() + 5
            while list(temporary.rglob("*")):  # no upload is left
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
            assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()
