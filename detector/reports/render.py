"""Self-contained HTML pages from the Jinja2 templates in `templates/`.

A page extends `base.html`, which holds the common style sheet. Everything that a template prints is escaped; control characters and
undecodable bytes, which file names may hold, are shown as escape sequences.
"""

import base64
import functools
import io
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from detector.console import plural, printable

TEMPLATES = Path(__file__).parent / "templates"


@functools.cache
def environment(folder=TEMPLATES):
    """Return the Jinja2 environment for the templates in a folder: everything printed is escaped, an unknown value is an error."""
    environment = Environment(
        loader=FileSystemLoader(folder, encoding="utf-8"), autoescape=True, undefined=StrictUndefined, finalize=_displayable,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"plural": plural, "thousands": "{:,}".format}
    return environment


def _displayable(value):
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def render(template: str, **values) -> str:
    """Return a template of `templates/`, filled with the values, as text.

    Raises:
        jinja2.UndefinedError: the template uses a value that is not given.
    """
    return environment().get_template(template).render(values)


def data_uri(content: bytes, kind: str, of: str = "image") -> str:
    """Return bytes as a data URI; `kind` is the subtype of image/ or of another type, such as 'png'."""
    return f"data:{of}/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def image_uri(image, longer, lossless=64):
    """Return an image, (h, w, 3) uint8, as a data URI with at most `longer` pixels on a side.

    With at most `lossless` pixels on a side it is a PNG, which pages show enlarged, pixel by pixel; otherwise a JPEG.
    """
    small = Image.fromarray(image)
    small.thumbnail((longer, longer), Image.Resampling.BICUBIC)
    kind, options = ("png", {}) if max(small.size) <= lossless else ("jpeg", {"quality": 88})
    file = io.BytesIO()
    small.save(file, kind, **options)
    return data_uri(file.getvalue(), kind)
