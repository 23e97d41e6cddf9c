"""REST API and web page as one FastAPI application.

    app = create_app(Predictor())

Uploads exist only while their request is answered: in memory up to 1 MB each, above that in an anonymous temporary file.
"""

import io
import sys
from pathlib import Path
from typing import Annotated, get_type_hints

import anyio.to_thread
from fastapi import APIRouter, FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field, create_model
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from detector import __version__
from detector.console import InputError
from detector.images.pixels import image_size
from detector.inference import attribution
from detector.inference import predictor as inference
from detector.web import render

MAX_FILE = 50 << 20  # bytes of one image
MAX_IMAGES = 200  # in one request
MAX_IN_FLIGHT = 2 << 30  # bytes of all uploads that are received or analysed at the same time
MAX_PIXELS = 50_000_000  # of one image: decoded it takes 150 MB, and several are decoded at once
CONCURRENT_REQUESTS = 4  # analysed at the same time; the network itself uses all cores
SECURITY_HEADERS = {  # the browser enforces that the page loads nothing from another server
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; media-src 'self' blob: mediastream:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

Images = Annotated[
    list[UploadFile],
    File(alias="image", description=f"an image file of up to {MAX_FILE >> 20} MB; repeat the field for up to {MAX_IMAGES} images"),
]
Detector = Annotated[str | None, Form(description="name of the detector; by default it is chosen by the image's size")]
Force = Annotated[bool, Form(description="predict also for images that the detector is not made for")]
Threshold = Annotated[
    float | None,
    Form(ge=0, le=1, description="one threshold for `verdict` instead of the detector's two: Fake from here on, otherwise Real"),
]
Provenance = Annotated[bool, Form(description="read each file's provenance; without it `conclusion` rests on the detector alone")]

# The fields and their descriptions come from the rows themselves: REST, --json and --csv cannot drift apart.
_FIELDS = get_type_hints(inference.Row, include_extras=True)
Row = create_model(
    "Row", __doc__=inference.Row.__doc__,
    **{name: (hint.__origin__, Field(description=hint.__metadata__[0])) for name, hint in _FIELDS.items()},
)  # fmt: skip


class Health(BaseModel):
    """State of the server."""

    status: str = Field(description="`ok`")
    version: str = Field(description="version of this program")
    detectors: list[str] = Field(description="names of the detectors")


class Problem(BaseModel):
    """A request that cannot be answered."""

    detail: str = Field(description="one line: what was expected, what was found")


REFUSED = {422: {"model": Problem, "description": "the request is not valid; for /explain also: the image cannot be read"}}
PNG = {200: {"content": {"image/png": {}}, "description": "the image with the heat map over it"}}
HTML = {200: {"content": {"text/html": {}}, "description": "the report"}}
router = APIRouter()


@router.get("/", include_in_schema=False)
def page(request: Request) -> HTMLResponse:
    """Return the page."""
    return HTMLResponse(render.page(request.app.state.predictor, MAX_IMAGES, MAX_FILE))


@router.post("/judge", responses=REFUSED)
async def judge(
    request: Request, images: Images, detector: Detector = None, force: Force = False, threshold: Threshold = None,
    provenance: Provenance = True,
) -> Row | list[Row]:  # fmt: skip
    """Classify images: an object for one image, a list in the same order for several.

    An image that cannot be read has null for `conclusion` and `verdict`, and the reason in `error`.
    """
    options = {"detector": detector, "force": force, "threshold": threshold, "provenance": provenance}
    rows = await _in_thread(request, images, lambda predictor: list(predict_within_limits(predictor, images, **options)))
    return rows[0] if len(images) == 1 else rows


@router.post("/explain", response_class=Response, responses=PNG | REFUSED)
async def explain(request: Request, image: Annotated[UploadFile, File(description="the image file")], detector: Detector = None):
    """Return a PNG that shows which parts of the image the score comes from: orange towards Fake, blue towards Real."""

    def make(predictor):
        (row,) = predict_within_limits(predictor, [image], detector=detector, force=True, provenance=False)
        if row["error"]:
            raise HTTPException(422, row["error"])
        file = io.BytesIO()
        attribution.save(file, predictor.find_detector(row["detector"]), image.file)
        return file.getvalue()

    return Response(await _in_thread(request, [image], make), media_type="image/png")


@router.post("/report", response_class=Response, responses=HTML | REFUSED)
async def report(request: Request, images: Images, detector: Detector = None, force: Force = False):
    """Return an evidence report: one self-contained HTML page with everything known about each image."""

    def make(predictor):
        rows = list(predict_within_limits(predictor, images, detector=detector, force=force))
        return render.report(predictor, rows, [image.file for image in images], force=force)

    html = await _in_thread(request, images, make)
    return HTMLResponse(html, headers={"Content-Disposition": 'attachment; filename="report.html"'})


@router.post("/results", include_in_schema=False)
async def results(
    request: Request, images: Images, detector: Detector = None, force: Force = False, heat: Annotated[bool, Form()] = False
) -> HTMLResponse:
    """Return what the page shows for the images."""

    def make(predictor):
        rows = list(predict_within_limits(predictor, images, detector=detector, force=force))
        return render.results(predictor, rows, [image.file for image in images], heat=heat, force=force)

    return HTMLResponse(await _in_thread(request, images, make))


@router.get("/healthz")
def healthz(request: Request) -> Health:
    """Return the server's status and the names of its detectors."""
    return Health(status="ok", version=__version__, detectors=[one.name for one in request.app.state.predictor.detectors])


async def _in_thread(request, images, work):
    """Return work(predictor), computed in a thread when it is this request's turn; close the uploads afterwards.

    Raises:
        HTTPException: there are too many images, or one is too large.
    """
    if len(images) > MAX_IMAGES:
        found = f"expected at most {MAX_IMAGES} images, found {len(images):,}"
        raise HTTPException(413, f"{found}; send fewer, or use the command line")
    for image in images:
        if image.size > MAX_FILE:
            megabytes = f"{image.size / 2**20:,.1f} MB"
            raise HTTPException(413, f"{image.filename}: expected at most {MAX_FILE >> 20} MB, found {megabytes}")
    try:
        state = request.app.state
        return await anyio.to_thread.run_sync(work, state.predictor, limiter=state.limiter)
    finally:
        for image in images:
            await image.close()


def predict_within_limits(predictor, images, **options):
    """Yield the rows of Predictor.predict for uploads; an image of more than MAX_PIXELS is refused before it is decoded."""
    names = [(image.filename or "image")[:255] for image in images]
    refused = [_too_large(image.file) for image in images]
    accepted = [i for i, reason in enumerate(refused) if reason is None]
    rows = predictor.predict([images[i].file for i in accepted], names=[names[i] for i in accepted], **options)
    for name, reason in zip(names, refused, strict=True):
        yield inference.error_row(name, f"{name}: {reason}") if reason else next(rows)


def _too_large(file):
    try:
        width, height = image_size(file)
    except (InputError, OSError):
        return None  # the predictor reports what is wrong with it
    if width * height > MAX_PIXELS:
        found = f"expected at most {MAX_PIXELS:,} pixels, found {width:,} × {height:,}"
        return f"{found}; scale it down, or use the command line"
    return None


async def _guard(request, call_next):
    """Middleware: limits uploads, refuses other sites' requests and adds the security headers."""
    state, length = request.app.state, 0
    refusal = None
    if request.method not in ("GET", "HEAD"):
        refusal = _refusal(request.headers, MAX_IN_FLIGHT - state.in_flight)
        length = 0 if refusal else int(request.headers["content-length"])
    state.in_flight += length
    try:
        response = refusal or await call_next(request)
    finally:
        state.in_flight -= length
    response.headers.update(SECURITY_HEADERS)
    return response


def _refusal(headers, room):
    """Return the response that refuses an upload, or None."""
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return _problem(403, "expected a request of this page, found one by another site")
    length = headers.get("content-length", "")
    if not length.isdecimal():
        return _problem(411, "expected an upload with Content-Length, found none")
    if int(length) > room:
        return _problem(413, "the server cannot take that many images at once; send fewer, or try again in a minute")
    return None


def _problem(status, detail):
    return JSONResponse({"detail": detail}, status)


def _on_invalid_request(request, error):
    """Describe the first problem of a request in one line."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"][1:])) or "request"
    return _problem(422, f"{field}: {first['msg'][:200]}")


def _on_failure(request, error):
    """Log an unexpected failure in one line; the client learns no details."""
    print(f"error: {type(error).__name__}: {' '.join(str(error).split())[:200]}", file=sys.stderr, flush=True)
    return _problem(500, "the program failed on this request; its log has more")


def create_app(predictor, allowed_hosts=("*",)):
    """Return the FastAPI application.

    Args:
        predictor: detector.inference.Predictor.
        allowed_hosts: values of the Host header that are answered, against DNS rebinding; "*" answers all.
    """
    app = FastAPI(
        title="Real or Fake?", version=__version__, docs_url=None, redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        description="Tells AI-generated images from real ones. It needs no network access and keeps no upload.",
    )  # fmt: skip
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts), www_redirect=False)
    app.middleware("http")(_guard)
    app.state.predictor, app.state.limiter, app.state.in_flight = predictor, anyio.CapacityLimiter(CONCURRENT_REQUESTS), 0
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(InputError, lambda request, error: _problem(422, str(error)))
    app.add_exception_handler(Exception, _on_failure)
    return app
