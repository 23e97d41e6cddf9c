"""The pictures of README: an example image that a program draws, and the page with its result.

    python benchmarks/screenshot.py

writes  docs/images/example.jpg (the image of `app.py --example`), docs/images/page.png

The page is taken in Chromium without a window, as in tests/web/test_page.py.
"""

import socket
import tempfile
import threading
import time

import numpy as np
from measuring import ROOT, make_parser
from PIL import Image, ImageFilter

from detector.console import InputError, stage

IMAGES = ROOT / "docs" / "images"
EXAMPLE, PAGE = IMAGES / "example.jpg", IMAGES / "page.png"
LARGEST = 200_000  # bytes of the page's picture


def draw_example(width=960, height=640, seed=4):
    """Return a landscape, mountains above a lake, drawn from fractal noise: (h, w, 3) uint8."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    horizon = int(0.62 * height)
    sky = np.clip(rows / horizon, 0, 1)[..., None]
    image = (1 - sky) * (92, 130, 178) + sky * (243, 214, 184)
    clouds = _fractal_noise(rng, height, width)[..., None]
    image += np.clip(clouds - 0.52, 0, 1) * 2.4 * (1 - sky) * ((255, 250, 244) - image)
    for depth, colour in enumerate([(150, 158, 178), (106, 122, 142), (62, 82, 92), (34, 50, 48)]):
        ridge = horizon - (0.34 - 0.085 * depth) * height * (0.35 + _fractal_noise(rng, 1, width, 2 + depth)[0])
        inside = (rows >= ridge) & (rows < horizon)
        texture = 1 + 0.5 * (_fractal_noise(rng, height, width, 6)[..., None] - 0.5)
        mist = np.clip((rows - ridge) / (0.3 * height), 0, 1)[..., None] * 0.35
        image = np.where(inside[..., None], (np.array(colour) * (1 - mist) + np.array((214, 200, 190)) * mist) * texture, image)
    ripples = np.rint(3 * np.sin(rows[horizon:] ** 1.3 / 9 + 4 * _fractal_noise(rng, height - horizon, width, 8))).astype(int)
    mirrored = np.clip(2 * horizon - rows[horizon:] + ripples, 0, horizon - 1)
    image[horizon:] = 0.72 * image[mirrored, columns[horizon:]] + 0.1 * np.array((60, 90, 110))
    blurred = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.7))
    grain = rng.normal(0, 3, (height, width, 1))
    return np.clip(np.asarray(blurred) + grain, 0, 255).astype(np.uint8)


def _fractal_noise(rng, height, width, start=3):
    """Return noise of several scales, (h, w) float, from 0 to 1."""
    total = np.zeros((height, width))
    for octave in range(7):
        cells = start * 2**octave
        grid = rng.random((max(2, min(height, cells)), max(2, min(width, cells))), np.float32)
        total += np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)) / 2**octave
    return (total - total.min()) / (total.max() - total.min())


def take_page(image, path):
    """Write a screenshot of the page with the result for an image, as PNG with a palette."""
    import uvicorn

    from detector.inference import Predictor
    from detector.web.api import create_app
    from tests.web.browser import Browser, find_chromium

    program = find_chromium()
    if program is None:
        raise InputError("taking the page needs Chromium, which is not installed")
    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.TemporaryDirectory() as profile:
        server = uvicorn.Server(uvicorn.Config(create_app(Predictor()), log_level="critical"))
        serving = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        serving.start()
        browser = Browser(program, profile)
        try:
            browser.open(f"http://127.0.0.1:{listener.getsockname()[1]}", width=1100)
            browser.give(image)
            browser.wait("document.querySelector('[data-heat-map]')?.naturalWidth > 30", 120)
            time.sleep(0.5)
            browser.screenshot(path)
        finally:
            browser.close()
            server.should_exit = True
            serving.join(10)  # it uses the socket until it ends
    with Image.open(path) as taken:
        taken.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        raise InputError(f"{path}: expected at most {LARGEST:,} bytes, found {path.stat().st_size:,}")


@stage
def main(argv=None):
    """Draw the example and take the page."""
    make_parser(__doc__).parse_args(argv)
    IMAGES.mkdir(exist_ok=True)
    Image.fromarray(draw_example()).save(EXAMPLE, quality=88)
    take_page(EXAMPLE, PAGE)
    print(f"{EXAMPLE}: {EXAMPLE.stat().st_size:,} bytes; {PAGE}: {PAGE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
