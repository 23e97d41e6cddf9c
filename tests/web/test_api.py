import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from starlette.testclient import TestClient

from detector.images import pixels
from detector.inference import attribution
from detector.inference.predictor import COLUMNS, error_row
from detector.web import api
from tests.conftest import ROOT, draw
from tests.sample_files import PARAMETERS, bomb, encoded, with_text

TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6


def post(client, path, *files, field="image", **options):
    return client.post(path, files=[(field, file) for file in files], data=options)


def test_rows_are_those_of_the_predictor(client, predictor, tmp_path):
    kinds = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]
    files = [(f"{kind}.{kind.lower()}", encoded(draw(kind), kind)) for kind in kinds]
    files += [("turned.jpg", encoded(draw(1, (32, 40)), "JPEG", exif=TURNED)), ("declared.png", with_text(parameters=PARAMETERS))]
    answer = post(client, "/judge", *files, force=True)
    assert answer.status_code == 200
    for (name, data), row in zip(files, answer.json(), strict=True):
        (tmp_path / name).write_bytes(data)
        (expected,) = predictor.predict([tmp_path / name], force=True)
        assert list(row) == COLUMNS
        assert row == expected | {"path": name, "p_fake": pytest.approx(expected["p_fake"], abs=1e-6)}
    assert (answer.json()[-2]["width"], answer.json()[-2]["height"]) == (40, 32)
    assert answer.json()[-1]["conclusion"] == "AI-generated"


def test_one_image_is_an_object_and_its_options_count(client):
    image, large = ("a.png", encoded(draw(4))), ("large.png", encoded(draw(4, (300, 200))))
    row = post(client, "/judge", image).json()
    assert row["path"] == "a.png" and row["provenance"]["says"] == "nothing"
    assert post(client, "/judge", image, threshold=0).json()["verdict"] == "Fake"
    assert post(client, "/judge", image, threshold=1).json()["verdict"] == "Real"
    assert post(client, "/judge", large).json()["gated"] and not row["gated"]
    assert post(client, "/judge", large, detector="compact.h5", force=True, threshold=0).json()["verdict"] == "Fake"
    assert post(client, "/judge", image, provenance=False).json()["provenance"] is None


def test_explain_returns_the_heat_map_as_png(client, predictor):
    content = encoded(draw(3))
    answer = post(client, "/explain", ("one.png", content))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    image = pixels.read_image(content)
    expected = attribution.overlay(image, attribution.explain(predictor.detectors[0].open(), image))
    assert np.abs(pixels.read_image(answer.content).astype(int) - expected).max() <= 1
    refused = post(client, "/explain", ("one.png", b"no image"))
    assert refused.status_code == 422 and refused.json()["detail"].startswith("one.png: ")


def test_report_and_health(client):
    answer = post(client, "/report", ("a.png", encoded(draw(4))), ("b.png", b"no image"))
    assert answer.status_code == 200 and "attachment" in answer.headers["content-disposition"]
    assert "a.png" in answer.text and "<script" not in answer.text
    assert client.get("/healthz").json() == {"status": "ok", "version": api.__version__, "detectors": ["compact.h5"]}


def test_every_path_and_field_is_described_and_documented(client):
    description, text = client.get("/openapi.json").json(), (ROOT / "docs" / "api.md").read_text("utf-8")
    schemas = description["components"]["schemas"]
    assert list(schemas["Row"]["properties"]) == COLUMNS
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            assert f"### {method.upper()} {path}\n\n{operation['description']}" in text
    for name in ("Row", "Health", "Problem", *(name for name in schemas if name.startswith("Body_"))):
        for field, details in schemas[name]["properties"].items():
            lines = [line for line in text.splitlines() if line.startswith(f"| `{field}` |")]
            assert any(details["description"] in line for line in lines), f"docs/api.md, {name}.{field}"


def test_unreadable_images_cost_the_others_nothing(client):
    files = [("broken.jpg", b"\xff\xd8\xff hello"), ("empty.png", b""), ("text.png", b"hello"), ("bomb.png", bomb(60_000, 60_000)),
             ("large.png", bomb(8_000, 8_000)), ("cut.png", encoded(draw(1))[:900]), ("good.png", encoded(draw(1)))]  # fmt: skip
    rows = post(client, "/judge", *files).json()
    assert [row["conclusion"] is None for row in rows] == [True] * 6 + [False]
    assert all(row["error"].startswith(f"{row['path']}: ") and "\n" not in row["error"] for row in rows[:6])
    assert "50,000,000" in rows[4]["error"]


@pytest.mark.parametrize("request_", [
    {},
    {"data": {"image": "/etc/passwd"}},
    {"files": {"images": b"x"}},
    {"files": {"image": b"x"}, "data": {"threshold": 3}},
    {"files": {"image": b"x"}, "data": {"force": "perhaps"}},
    {"files": {"image": b"x"}, "data": {"detector": "other.h5"}},
    {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=x"}},
])  # fmt: skip
def test_an_invalid_request_is_one_line(client, request_):
    answer = client.post("/judge", **request_)
    assert answer.status_code in (400, 422) and isinstance(answer.json()["detail"], str)
    assert "\n" not in answer.json()["detail"] and "root:" not in answer.text


def test_limits(client, monkeypatch):
    image = ("a.png", encoded(draw(1)))
    assert post(client, "/judge", *[image] * (api.MAX_IMAGES + 1)).status_code == 413
    monkeypatch.setattr(api, "MAX_FILE", 10_000)
    refused = post(client, "/judge", ("large.bmp", bytes(10_001)))
    assert refused.status_code == 413 and refused.json()["detail"].startswith("large.bmp: ")
    monkeypatch.setattr(api, "MAX_IN_FLIGHT", 100)
    assert post(client, "/judge", image).status_code == 413
    assert client.post("/judge", content=iter([b"a"])).status_code == 411
    monkeypatch.setattr(api, "MAX_IN_FLIGHT", 100_000)
    assert post(client, "/judge", image).status_code == 200  # the refused ones take no room


def test_uploads_are_closed(client, predictor, monkeypatch):
    seen, predict = [], type(predictor).predict

    def noting(self, sources, **options):
        seen.extend(sources)
        return predict(self, sources, **options)

    monkeypatch.setattr(type(predictor), "predict", noting)
    post(client, "/judge", ("a.png", encoded(draw(1))), ("large.bmp", encoded(draw(1, (700, 700)), "BMP")))
    assert len(seen) == 2 and all(file.closed for file in seen)


def test_a_failure_is_one_line_here_and_there(predictor, monkeypatch, capsys):
    def fail(self, *_, **__):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(type(predictor), "predict", fail)
    client = TestClient(api.create_app(predictor), raise_server_exceptions=False)
    answer = post(client, "/judge", ("a.png", encoded(draw(1))))
    assert answer.status_code == 500 and "secret" not in answer.text
    assert capsys.readouterr().err == "error: ZeroDivisionError: secret\n"


def test_nothing_else_is_served(client):
    page = client.get("/")
    assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
    assert client.get("/static/page.js").status_code == client.get("/static/style.css").status_code == 200
    ups = ("../api.py", "%2e%2e/api.py", "../../../../../../etc/passwd", "//etc/passwd", "%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd")
    for path in ("/docs", "/redoc", "/README.md", "/static", *(f"/static/{up}" for up in ups)):
        answer = client.get(path)
        assert answer.status_code == 404 and b"root:" not in answer.content, path
    for verb in ("PUT", "DELETE", "PATCH", "GET"):
        assert client.request(verb, "/judge", headers={"content-length": "0"}).status_code == 405


def test_other_sites_cannot_use_it(predictor):
    client = TestClient(api.create_app(predictor, ["127.0.0.1", "[::1]"]), base_url="http://127.0.0.1:7860")
    image = ("a.png", encoded(draw(1)))
    assert post(client, "/judge", image).status_code == 200
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        assert client.post("/judge", files={"image": image}, headers={"Sec-Fetch-Site": site}).status_code == status
    for host in ("evil.example", "evil.example:7860", ""):  # DNS rebinding
        assert client.get("/", headers={"Host": host}).status_code == 400
    assert client.get("/", headers={"Host": "[::1]:7860"}).status_code == 200


def test_requests_wait_for_their_turn(predictor, monkeypatch):
    """No more than CONCURRENT_REQUESTS are computed at once, for any number of clients."""
    running, seen, barrier = [], [], threading.Barrier(api.CONCURRENT_REQUESTS)

    def predict(self, sources, **options):
        running.append(1)
        barrier.wait(60)  # until as many as may are here
        seen.append(len(running))
        barrier.wait(60)
        running.pop()
        return iter([error_row("a.png", "not read")])

    monkeypatch.setattr(type(predictor), "predict", predict)
    with TestClient(api.create_app(predictor)) as client, ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda _: post(client, "/judge", ("a.png", encoded(draw(1)))), range(12)))
    assert set(seen) == {api.CONCURRENT_REQUESTS}


def test_python_example_of_the_documentation(tmp_path, monkeypatch, capsys):
    draw("one").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    example = (ROOT / "docs" / "api.md").read_text("utf-8").split("```python\n", 1)[1].split("```", 1)[0]
    exec(example, {})
    assert capsys.readouterr().out.startswith("photo.jpg ")
