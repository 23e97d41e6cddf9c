"""What image generators write of themselves into a file: name, prompt, model, seed and settings.

`read_generators` looks for it in the texts of a file. None of it is signed: anybody can type it.
"""

import json
import re

from detector.provenance.fields import LIMIT, inside, line_of

CUT_PROMPT = 2000  # characters
NAMES = re.compile(  # that a program gives itself; each is unlikely in the name of a camera or an editor
    r"adobe firefly|\bbing image creator\b|\bcomfyui\b|\bdall[·\-]e\b|\bdraw things\b|\bdreamstudio\b|\bfooocus\b|\bgpt-image\b"
    r"|\bideogram\.ai\b|\bimagine with meta ai\b|\binvokeai\b|\bleonardo\.ai\b|\bmidjourney\b|\bnovelai\b|\bstable diffusion\b"
    r"|\bstability ai\b",
    re.IGNORECASE,
)
GOOGLE = re.compile(r"\b(made|created|generated|edited) with google ai\b", re.IGNORECASE)
MIDJOURNEY = re.compile(r"\bJob ID: [0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)


def read_generators(texts, xmp, makers, editors):
    """Return what generators left, a dict each (`generator` of detector.provenance).

    Args:
        texts: {keyword: text} of detector.provenance.containers.
        xmp: the facts `xmp` of detector.provenance, or {}.
        makers, editors: names of the programs that wrote the file, and that are named in the history of its edits.
    """
    entries = [entry for reader in (_invokeai, _novelai, _comfyui, _easy_diffusion) if (entry := reader(texts))]
    for keyword, text in texts.items():
        if keyword in ("parameters", "comment", "Comment", "Description") or ":" in keyword:
            entries += [entry for entry in (_web_ui(text), _json_note(text), _midjourney(text)) if entry]
    if xmp.get("ai_system") or xmp.get("ai_prompt"):
        entries.append(_entry(xmp["ai_system"] or "an AI system that is not named", prompt=xmp["ai_prompt"]))
    if google := GOOGLE.search(xmp.get("credit") or ""):
        entries.append(_entry("Google AI", partly=google[1].lower() == "edited"))
    named = [name for name in [*makers, *editors] if NAMES.search(name)]
    if named and not entries:
        entries.append(_entry(named[0], partly=named[0] not in makers, name_only=True))
    unique = {}
    for entry in entries:
        unique.setdefault(entry["kind"], entry)
    return list(unique.values())[:5]


def _entry(kind, prompt=None, negative=None, model=None, seed=None, settings=None, partly=False, name_only=False):
    told = {"c", "uc", "seed", "noise_seed", "model"}  # elsewhere
    listed = {line_of(name, 40): line_of(value) for name, value in list((settings or {}).items())[:40] if name.lower() not in told}
    return {
        "kind": line_of(kind),
        "prompt": line_of(prompt, CUT_PROMPT),
        "negative_prompt": line_of(negative, CUT_PROMPT),
        "model": line_of(model),
        "seed": line_of(seed, 40),
        "settings": {name: value for name, value in listed.items() if name and value and "prompt" not in name.lower()},
        "partly": partly,
        "name_only": name_only,
    }


def _parsed(text):
    """Return the dict in a JSON text, or {}: NaN, deep nesting, endless numbers and other things than objects give none."""
    if not text or text.lstrip()[:1] != "{" or len(text) > LIMIT:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _web_ui(text):
    """Read `parameters` of the Stable Diffusion web UI and its relatives: prompt, negative prompt, a line of settings."""
    line = re.search(r"(?:^|\n)\s{0,8}(Steps: \d{1,6},[^\n]{0,8000})", text[: LIMIT // 4])
    if not line or not re.search(r"\b(Sampler|CFG scale|Seed): ", line[1]):
        return None
    prompt, _, negative = text[: line.start()].partition("Negative prompt:")
    settings = dict(re.findall(r'\s*([\w ./-]{1,40}): ("[^"]{0,300}"|[^,]{0,300})(?:,|$)', line[1][:4000]))
    model, seed = settings.pop("Model", None) or settings.get("Model hash"), settings.pop("Seed", None)
    return _entry("Stable Diffusion web UI", prompt, negative, model, seed, settings)


def _json_note(text):
    """Read a JSON note of Fooocus, SwarmUI or Draw Things, or what NovelAI puts into EXIF."""
    note = _parsed(text)
    swarm = note.get("sui_image_params")
    if isinstance(swarm, dict):
        return _entry("SwarmUI", swarm.get("prompt"), swarm.get("negativeprompt"), swarm.get("model"), swarm.get("seed"), swarm)
    if str(note.get("version", "")).startswith("Fooocus") or note.get("metadata_scheme") == "fooocus":
        return _entry("Fooocus", note.get("prompt"), note.get("negative_prompt"), note.get("base_model"), note.get("seed"), note)
    if {"c", "seed", "sampler", "model"} <= note.keys():
        return _entry("Draw Things", note["c"], note.get("uc"), note["model"], note["seed"], note)
    return _novelai(note) if isinstance(note.get("Comment"), str) else None


def _midjourney(text):
    job = MIDJOURNEY.search(text[: LIMIT // 4])
    return _entry("Midjourney", text[: job.start()], settings={"Job ID": job[0][8:]}) if job else None


def _novelai(texts):
    if texts.get("Software") != "NovelAI":
        return None
    note = _parsed(texts.get("Comment"))
    prompt = note.get("prompt") or texts.get("Description")
    return _entry("NovelAI", prompt, note.get("uc"), texts.get("Source"), note.get("seed"), note)


def _invokeai(texts):
    if "invokeai_metadata" in texts:
        note = _parsed(texts["invokeai_metadata"])
        model = inside(note, "model", "name") or inside(note, "model", "model_name") or note.get("model")
        return _entry("InvokeAI", note.get("positive_prompt"), note.get("negative_prompt"), model, note.get("seed"), note)
    if "sd-metadata" in texts:  # of 2022
        note = _parsed(texts["sd-metadata"])
        image = note.get("image") if isinstance(note.get("image"), dict) else {}
        prompt = image.get("prompt")
        prompt = inside(prompt[0], "prompt") if isinstance(prompt, list) and prompt else prompt
        return _entry("InvokeAI", prompt, None, note.get("model_weights"), image.get("seed"), image)
    return _entry("InvokeAI") if "invokeai_graph" in texts or "invokeai_workflow" in texts else None


def _easy_diffusion(texts):
    told = [texts.get(name) for name in ("prompt", "negative_prompt", "use_stable_diffusion_model", "seed")]
    return _entry("Easy Diffusion", *told) if told[2] is not None else None


def _comfyui(texts):
    """Read ComfyUI's graph of nodes; in WebP and JPEG it stands in EXIF, behind `prompt:` or `workflow:`."""
    notes = {name: texts[name] for name in ("prompt", "workflow") if name in texts}
    for keyword, text in texts.items():
        name, _, rest = text[:20].lstrip().partition(":")
        if keyword.startswith("exif:") and name.lower() in ("prompt", "workflow") and rest.lstrip()[:1] == "{":
            notes.setdefault(name.lower(), text[text.index(":") + 1 :])
    graph = {key: node for key, node in _parsed(notes.get("prompt")).items() if isinstance(inside(node, "class_type"), str)}
    if not graph:
        workflow = _parsed(notes.get("workflow"))
        return _entry("ComfyUI") if isinstance(workflow.get("nodes"), list) and "links" in workflow else None
    kinds = " ".join(node["class_type"] for node in graph.values())
    samplers = [node.get("inputs") for node in graph.values() if "Sampler" in node["class_type"]]
    samplers = [inputs for inputs in samplers if isinstance(inputs, dict)]
    sampler = next((inputs for inputs in samplers if "positive" in inputs), samplers[0] if samplers else {})
    prompt, negative = (_followed(graph, sampler.get(name)) for name in ("positive", "negative"))
    if prompt is None:  # a graph of another make: any text that goes into it
        prompt = next((text for node in graph.values() if isinstance(text := inside(node, "inputs", "text"), str)), None)
    models = [inside(node, "inputs", name) for node in graph.values() for name in ("ckpt_name", "unet_name", "model_name")]
    model = next((name for name in models if isinstance(name, str)), None)
    seed = next((value for name in ("seed", "noise_seed") if isinstance(value := sampler.get(name), int | str)), None)
    return _entry("ComfyUI", prompt, negative, model, seed, sampler, partly="LoadImage" in kinds and not samplers)


def _followed(graph, link):
    """Return the first text that a link of ComfyUI's graph, [node, output], leads to."""
    for _ in range(8):
        inputs = inside(graph.get(str(link[0])), "inputs") if isinstance(link, list) and link else None
        if not isinstance(inputs, dict):
            return None
        names = ("text", "text_g", "prompt", "string", "value", "conditioning", "positive")
        link = next((inputs[name] for name in names if name in inputs), None)
        if isinstance(link, str):
            return link
    return None
