"""Metadata of image generators (name, prompt, model, seed, settings) and China's AIGC label.

None of it is signed: anybody can type it.
"""

import json
import re

from detector.provenance.fields import LIMIT, inside, line_of

CUT_PROMPT = 2000  # characters
UNNAMED = "unnamed image generator"
NAMES = re.compile(  # names of programs, each unlikely in the name of a camera or an editor
    r"adobe firefly|\bbing image creator\b|\bcomfyui\b|\bdall[·\-]e\b|\bdraw things\b|\bdreamstudio\b|\bfooocus\b|\bgpt-image\b"
    r"|\bideogram\.ai\b|\bimagine with meta ai\b|\binvokeai\b|\bleonardo\.ai\b|\bmidjourney\b|\bnovelai\b|\bstable diffusion\b"
    r"|\bstability ai\b|\bapple image playground\b|\bmicrosoft designer\b|\bgoogle imagen\b|\bblack forest labs\b"
    r"|\bautomatic1111\b|\bmochi diffusion\b",
    re.IGNORECASE,
)
WHOLE_NAMES = re.compile(  # names that count only if nothing but a version follows them
    r"(?:openai|chatgpt|(?:google )?gemini|nano banana|imagen|image playground|grok|xai|(?:openai )?sora|flux|krea(?:\.ai)?"
    r"|recraft|ideogram(?: ai)?|reve(?:\.com)?|aphrodite ai|sd\.next|swarmui|easy diffusion|seedream|dreamina|jimeng|qwen-image"
    r"|kling(?: ai)?)"
    r"(?:[ ./]?v?\d[\w.]*)?",
    re.IGNORECASE,
)
GOOGLE = re.compile(r"\b(made|created|generated|edited) with google ai\b", re.IGNORECASE)
MIDJOURNEY = re.compile(r"\bJob ID: [0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
XAI_SIGNATURE = re.compile(r"Signature: [A-Za-z0-9+/=]{64,}")
DREAM = re.compile(r'"(.*)" ((?:-[A-Za-z]|--\w+)[ =]?\S.*)', re.DOTALL)
PARAMETERS = {"seed", "steps", "cfg", "cfg_scale", "cfgscale", "guidance_scale", "sampler", "sampler_name", "scheduler", "model"}
# Names under which notes keep a prompt, a negative prompt and a model, in lower case
PROMPTS, NEGATIVES = ("prompt", "positive_prompt", "c"), ("negative_prompt", "negativeprompt", "negative", "uc")
MODELS = ("base_model", "base_model_name", "basemodel", "use_stable_diffusion_model", "model")
MODEL_NAMES = ("name", "model_name", "modelFileName")
MOCHI_FIELDS = ("Include in Image", "Exclude from Image", "Model", "Seed")
AIGC_FIELDS = {
    "Label", "ContentProducer", "ProduceID", "ContentPropagator", "PropagateID", "ReservedCode1", "ReservedCode2",
    "ServiceProvider",
}  # fmt: skip
AIGC_LABELS = {"1": "AI-generated", "2": "possibly AI-generated", "3": "suspected to be AI-generated"}  # GB 45438-2025, annex E


def read_generators(texts: dict[str, str], xmp: dict, makers: list[str], editors: list[str]) -> list[dict]:
    """Return the metadata of generators, a dict each (`generator` of detector.provenance).

    Args:
        texts: {keyword: text} of detector.provenance.containers.
        xmp: `xmp` of detector.provenance, or {}.
        makers, editors: names of programs that wrote the file, and that are named in the history of its edits.
    """
    entries = [*_of_keywords(texts)]
    for keyword, text in texts.items():
        if keyword in ("parameters", "comment", "Comment", "Description", "Dream") or ":" in keyword:
            entries += [*_of_text(text), _json_note(text)]
    entries = [entry for entry in entries if entry]
    if xmp.get("ai_system") or xmp.get("ai_prompt") or xmp.get("ai_prompt_writer"):
        entries.append(_entry(xmp["ai_system"] or "unnamed AI system", prompt=xmp["ai_prompt"]))
    if google := GOOGLE.search(xmp.get("credit") or ""):
        entries.append(_entry("Google AI", partly=google[1].lower() == "edited"))
    named = [name for name in [*makers, *editors] if is_generator(name)]
    if named and not entries:
        entries.append(_entry(named[0], partly=named[0] not in makers, name_only=True))
    unique = {}
    named_entries = [entry for entry in entries if entry["kind"] != UNNAMED]
    for entry in sorted(named_entries or entries, key=lambda entry: entry["name_only"]):
        unique.setdefault(entry["kind"], entry)
    return list(unique.values())[:5]


def is_generator(name: str) -> bool:
    """Return whether a name is that of a program that generates images."""
    return bool(NAMES.search(name) or WHOLE_NAMES.fullmatch(name.strip()))


def read_aigc(texts: dict[str, str]) -> dict | None:
    """Return {label, meaning, producer} of China's label of AI content (GB 45438-2025), or None.

    It is JSON in XMP, in a text chunk or segment named AIGC, or in a text of EXIF, there often as {"AIGC": {…}} or AIGC{…}.
    """
    for keyword, text in texts.items():
        if not (keyword == "AIGC" or ":" in keyword or keyword == "comment"):
            continue
        note = _parsed(text.strip().removeprefix("AIGC").lstrip(":= "))
        named = "AIGC" in keyword or "AIGC" in text[:8] or "AIGC" in note  # else any JSON with one such key would count
        note = note["AIGC"] if isinstance(note.get("AIGC"), dict) else _parsed(note.get("AIGC")) or note
        if len(AIGC_FIELDS & note.keys()) < (1 if named else 2):
            continue
        label = line_of(note.get("Label"), 20)
        producer = note.get("ContentProducer") or note.get("ServiceProvider") or note.get("ContentPropagator")
        meaning = AIGC_LABELS["1"] if label is None else AIGC_LABELS.get(label, "unknown value of the label")
        return {"label": label or "1", "meaning": meaning, "producer": line_of(producer)}
    return None


def _entry(kind, prompt=None, negative=None, model=None, seed=None, settings=None, partly=False, name_only=False):
    elsewhere = {"c", "uc", "seed", "noise_seed", "model"}
    some = list((settings or {}).items())[:40]
    lines = {line_of(name, 40): line_of(value) for name, value in some if name.lower() not in elsewhere}
    return {
        "kind": line_of(kind),
        "prompt": line_of(prompt, CUT_PROMPT),
        "negative_prompt": line_of(negative, CUT_PROMPT),
        "model": line_of(model),
        "seed": line_of(seed, 40),
        "settings": {name: value for name, value in lines.items() if name and value and "prompt" not in name.lower()},
        "partly": partly,
        "name_only": name_only,
    }


def _parsed(text):
    """Return the dict in a JSON text, or {} for other JSON, broken JSON, deep nesting and endless numbers."""
    if not isinstance(text, str) or text.lstrip()[:1] != "{" or len(text) > LIMIT:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _of_text(text):
    """Yield what a text in the form of a generator says: the web UI, early InvokeAI, Midjourney, OpenAI Labs, Mochi Diffusion."""
    start = text[: LIMIT // 4]
    line = re.search(r"(?:^|\n)\s{0,8}(Steps: \d{1,6},[^\n]{0,8000})", start)
    if line and re.search(r"\b(Sampler|CFG scale|Seed): ", line[1]):
        prompt, _, negative = start[: line.start()].partition("Negative prompt:")
        settings = dict(re.findall(r'\s*([\w ./-]{1,40}): ("[^"]{0,300}"|[^,]{0,300})(?:,|$)', line[1][:4000]))
        model, seed = settings.pop("Model", None) or settings.get("Model hash"), settings.pop("Seed", None)
        yield _entry("Stable Diffusion web UI", prompt, negative, model, seed, settings)
    if (dream := DREAM.fullmatch(start.strip())) and (seed := re.search(r"(?:^|\s)-S ?(\d+)", dream[2])):
        yield _entry("InvokeAI", dream[1], seed=seed[1])  # prompt in quotes, then options as on a command line
    if job := MIDJOURNEY.search(start):
        yield _entry("Midjourney", start[: job.start()], settings={"Job ID": job[0][8:]})
    if text.strip("\0 ") == "Made with OpenAI Labs":
        yield _entry("OpenAI Labs (DALL·E)")
    if "Generator: Mochi Diffusion" in text:  # fields on lines of their own, or, in older versions, separated by semicolons
        end = r"(?=\n|; [A-Z][A-Za-z ]{2,30}: |$)"
        fields = [re.search(rf"(?:^|\n|; ){name}: ([^\n]{{0,4000}}?){end}", start) for name in MOCHI_FIELDS]
        yield _entry("Mochi Diffusion", *(value and value[1] for value in fields))


def _of_keywords(texts):
    """Yield what texts say whose keywords name a generator."""
    if "invokeai_metadata" in texts:
        yield _of_note("InvokeAI", _parsed(texts["invokeai_metadata"]))
    elif "sd-metadata" in texts:  # InvokeAI of 2022
        note = _parsed(texts["sd-metadata"])
        image = note.get("image") if isinstance(note.get("image"), dict) else {}
        prompt = image.get("prompt")
        prompt = inside(prompt[0], "prompt") if isinstance(prompt, list) and prompt else prompt
        yield _entry("InvokeAI", prompt, None, note.get("model_weights"), image.get("seed"), image)
    elif "invokeai_graph" in texts or "invokeai_workflow" in texts:
        yield _entry("InvokeAI")
    if texts.get("Software") == "NovelAI":
        yield _novelai(texts)
    yield _comfyui(texts)
    if "use_stable_diffusion_model" in texts:
        yield _of_note("Easy Diffusion", texts)
    # Grok: EXIF holds nothing but a signature in base 64, and the image's identifier as the artist.
    if XAI_SIGNATURE.match(texts.get("exif:ImageDescription", "")[:200]) and UUID.fullmatch(texts.get("exif:Artist", "").strip()):
        yield _entry("xAI (Grok)")
    if "samsung:genAIType" in texts:  # the mark that the tools of Galaxy AI leave in the trailer of an edited photo
        yield _entry("Samsung Galaxy AI", partly=True)
    note = _parsed(texts.get("generation_data", "").rstrip("\0"))
    if note.get("prompt") is not None:
        yield _of_note("Tensor.Art", note)


def _novelai(texts):
    note = _parsed(texts.get("Comment"))
    prompt = note.get("prompt") or texts.get("Description")
    return _entry("NovelAI", prompt, note.get("uc"), texts.get("Source"), note.get("seed"), note, name_only=not (prompt or note))


def _json_note(text):
    """Read JSON of SwarmUI, Draw Things, the Fooocus family, demo spaces and others, and that of NovelAI and ComfyUI in EXIF."""
    note = _parsed(text)
    if not note:
        return None
    swarm = note.get("sui_image_params")
    if isinstance(swarm, dict):
        return _of_note("SwarmUI", swarm)
    if {"c", "seed", "sampler", "model"} <= note.keys():
        return _of_note("Draw Things", note)
    if isinstance(note.get("Comment"), str) and note.get("Software") == "NovelAI":
        return _novelai(note)
    if inside(note, "data", "exportType") == "generation" and (product := line_of(inside(note, "data", "product"))):
        return _entry(product.capitalize())  # ByteDance's programs
    if inside(note, "aigc_info", "aigc_label_type") in (1, 2):
        return _entry("ByteDance's AI label")
    if graph := _graph(note) or _graph(note.get("prompt")) or _graph(_parsed(note.get("prompt"))):
        return _comfyui_entry(graph)
    if (_is_workflow(note) and {"last_node_id", "state"} & note.keys()) or _is_workflow(note.get("workflow")):  # not any graph
        return _entry("ComfyUI")
    kind = _kind_of_note({key.lower(): value for key, value in note.items()})
    return kind and _of_note(kind, note)


def _of_note(kind, note):
    """Return the entry of a dict that keeps prompts, model and seed under one of their usual names."""
    values = {key.lower(): value for key, value in note.items() if value is not None}
    prompt, negative, model = (
        next((values[name] for name in names if name in values), None) for names in (PROMPTS, NEGATIVES, MODELS)
    )
    if isinstance(model, dict):
        model = next((model[name] for name in MODEL_NAMES if name in model), None)
    return _entry(kind, prompt, negative, model, values.get("seed"), note)


def _kind_of_note(values):
    """Return the name of the program that wrote a JSON note, given with lower-case keys; None if it is not a generator's."""
    if not isinstance(values.get("prompt", values.get("positive_prompt")), str):
        return None
    if str(values.get("version")).startswith("Fooocus") or values.get("metadata_scheme") == "fooocus":
        return "Fooocus"
    software = values.get("software")
    if isinstance(software, str) and ("fooocus" in software.lower() or is_generator(software)):
        return software
    if "num_inference_steps" in values:
        return "demo space (diffusers)"
    return UNNAMED if "seed" in values and len(PARAMETERS & values.keys()) >= 3 else None


TEXT_INPUTS = ("text", "text_g", "prompt", "string", "value", "conditioning", "positive")
SEED_INPUTS = ("seed", "noise_seed", "value")


def _comfyui(texts):
    """Read ComfyUI's graph of nodes; in WebP and JPEG it is in EXIF, after `prompt:` or `workflow:`."""
    notes = {name: texts[name] for name in ("prompt", "workflow") if name in texts}
    for keyword, text in texts.items():
        name, _, rest = text[:20].lstrip().partition(":")
        if keyword.startswith("exif:") and name.lower() in ("prompt", "workflow") and rest.lstrip()[:1] == "{":
            notes.setdefault(name.lower(), text[text.index(":") + 1 :])
    if graph := _graph(_parsed(notes.get("prompt"))):
        return _comfyui_entry(graph)
    return _entry("ComfyUI") if _is_workflow(_parsed(notes.get("workflow"))) else None


def _is_workflow(value):
    return isinstance(inside(value, "nodes"), list) and "links" in value


def _graph(value):
    """Return {name: node} of the nodes in a graph."""
    nodes = value.items() if isinstance(value, dict) else ()
    return {key: node for key, node in nodes if isinstance(inside(node, "class_type"), str)}


def _comfyui_entry(graph):
    kinds = " ".join(node["class_type"] for node in graph.values())
    samplers = [node.get("inputs") for node in graph.values() if "Sampler" in node["class_type"]]
    samplers = [inputs for inputs in samplers if isinstance(inputs, dict)]
    sampler = next((inputs for inputs in samplers if "positive" in inputs), samplers[0] if samplers else {})
    prompt, negative = (_follow(graph, sampler.get(name), TEXT_INPUTS) for name in ("positive", "negative"))
    if prompt is None:  # a sampler of another kind: the longest text of all
        values = [inside(node, "inputs", name) for node in graph.values() for name in (*TEXT_INPUTS, "Text")]
        prompt = max((text for text in values if isinstance(text, str) and text != negative), key=len, default=None)
    models = [inside(node, "inputs", name) for node in graph.values() for name in ("ckpt_name", "unet_name", "model_name")]
    model = next((name for name in models if isinstance(name, str)), None)
    inputs = [sampler, *(node.get("inputs") for node in graph.values())]
    seeds = (_follow(graph, inside(values, name), SEED_INPUTS) for values in inputs for name in SEED_INPUTS[:2])
    seed = next((value for value in seeds if value is not None), None)
    return _entry("ComfyUI", prompt, negative, model, seed, sampler, partly="LoadImage" in kinds and not samplers)


def _follow(graph, value, names):
    """Return a text or number, or the first one that a link, [node, output], leads to through inputs of the given names."""
    for _ in range(8):
        if isinstance(value, str | int | float):
            return value
        inputs = inside(graph.get(str(value[0])), "inputs") if isinstance(value, list) and value else None
        if not isinstance(inputs, dict):
            return None
        inputs = {str(name).lower(): found for name, found in inputs.items()}
        value = next((inputs[name] for name in names if name in inputs), None)
    return None
