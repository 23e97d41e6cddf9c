"""The page: drop images, get verdicts. Gradio, on this machine alone, without network."""
from pathlib import Path

from detector.console import InputError

SYSTEM_FONTS = ["system-ui", "sans-serif"]


def build_page(detector, judge, describe, about):
    """Return the Gradio page.

    Args:
        detector: detector.model_file.Detector.
        judge: function (detector, list of paths, force) -> iterable of dicts, as app.judge.
        describe: function (dict, detector, force) -> text for a person.
        about: function (detector) -> a line on the detector.
    """
    import gradio as gr

    def verdicts(paths, force):
        # The files themselves are judged: an image widget would re-encode them and change the score.
        rows = judge(detector, paths or [], force)
        return "\n\n".join(describe({**row, "path": Path(row["path"]).name}, detector, force) for row in rows)

    with gr.Blocks(title="Real or Fake?", analytics_enabled=False, delete_cache=(600, 600)) as page:
        gr.Markdown(f"# Was this picture made by a machine?\n{about(detector)}")
        files = gr.File(label="Images", file_count="multiple", type="filepath")
        force = gr.Checkbox(label="Judge images unlike any that the detector has seen, too (--force)")
        verdict = gr.Textbox(label="Verdict", lines=6)
        gr.Button("Judge", variant="primary").click(verdicts, [files, force], verdict, api_name="judge")
    return page


def open_page(detector, judge, describe, about, host, port):
    """Serve the page until it is interrupted.

    Raises:
        InputError: Gradio is not installed, or the port is taken.
    """
    try:
        import gradio as gr
    except ModuleNotFoundError:
        raise InputError("the page needs the package gradio; run: pip install -r requirements-app.txt") from None
    page = build_page(detector, judge, describe, about)
    theme = gr.themes.Default(font=SYSTEM_FONTS, font_mono=["monospace"])
    try:
        page.launch(server_name=host, server_port=port, inbrowser=True, share=False, theme=theme)
    except OSError as error:
        raise InputError(f"{host}:{port}: expected a free port, but {error}; choose another with --port") from None
