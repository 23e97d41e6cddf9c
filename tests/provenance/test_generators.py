import json
import zlib

import pytest

from detector.provenance import UNSIGNED, read
from tests.sample_files import GRAPH, PARAMETERS, drawn, exif, harmless, jpeg, png, with_text, xmp


def unicode_comment(order):
    return drawn("JPEG", exif=exif(inner={0x9286: b"UNICODE\0" + PARAMETERS.encode(order)}))


@pytest.mark.parametrize("make", [
    lambda: with_text(parameters=PARAMETERS),
    lambda: png((b"zTXt", b"parameters\0\0" + zlib.compress(PARAMETERS.encode()))),
    lambda: png((b"iTXt", b"parameters\0\1\0\0\0" + zlib.compress(PARAMETERS.encode()))),
    lambda: unicode_comment("utf-16-be"),
    lambda: unicode_comment("utf-16-le"),
    lambda: drawn("WEBP", exif=exif(inner={0x9286: b"ASCII\0\0\0" + PARAMETERS.encode()})),
    lambda: drawn("JPEG", comment=PARAMETERS.encode()),
    lambda: drawn("TIFF", exif=exif({0x010E: PARAMETERS})),
], ids=["tEXt", "zTXt", "iTXt", "UserComment BE", "UserComment LE", "WebP", "COM", "TIFF"])  # fmt: skip
def test_web_ui_in_all_the_places_where_it_is_written(make):
    found = read(make())
    (entry,) = found["generator"]
    assert entry["kind"] == "Stable Diffusion web UI" and entry["prompt"] == "a lighthouse at dawn, <lora:sea:0.7> fog"
    assert (entry["negative_prompt"], entry["model"], entry["seed"]) == ("people", "drawn_xl", "1703765458")
    assert entry["settings"]["Sampler"] == "DPM++ 2M" and entry["settings"]["Lora hashes"] == '"a: 1, b: 2"'
    assert (found["says"], found["signed"]) == ("made by AI", False)
    lines = harmless(found)
    assert "‹lora:sea:0.7›" in lines[0] and lines[-1] == UNSIGNED


POND = {"c": "a pond", "seed": 3, "sampler": "s", "model": "m"}


def user_comment(note):
    return drawn("WEBP", exif=exif(inner={0x9286: b"\0" * 8 + json.dumps(note).encode()}))


def coded_comment(data):
    return drawn("JPEG", exif=exif(inner={0x9286: b"UNICODE\0" + data}))


MOCHI = "Include in Image: a bay; at dawn\nExclude from Image: fog\nModel: m\nSeed: 7\nGenerator: Mochi Diffusion 6.0"


def captioned(text):
    return jpeg((0xED, b"Photoshop 3.0\0\x1c\2\x78" + len(text).to_bytes(2, "big") + text.encode()))


def novelai(note):
    return with_text(Software="NovelAI", Source="NovelAI Diffusion V4", Description="a hill", Comment=note)


NOTE = {"seed": 7, "steps": 20, "cfg": 5}
LATE = {  # the sampler is given its noise and its text by other nodes
    "1": {"class_type": "SamplerCustomAdvanced", "inputs": {"noise": ["2", 0], "guider": ["3", 0]}},
    "2": {"class_type": "RandomNoise", "inputs": {"noise_seed": 7}},
    "3": {"class_type": "BasicGuider", "inputs": {"conditioning": ["4", 0]}},
    "4": {"class_type": "CLIPTextEncode", "inputs": {"text": ["5", 0]}},
    "5": {"class_type": "DF_Text_Box", "inputs": {"Text": "a fox"}},
}  # fmt: skip
SEEDED = GRAPH | {
    "3": {"class_type": "KSampler", "inputs": {"seed": ["8", 0], "positive": ["6", 0]}},
    "8": {"class_type": "CR Seed", "inputs": {"seed": 851}},
}
FOUND_ON_SITES = {  # what it is: (kind, prompt, seed, file)
    "RuinedFooocus": ("RuinedFooocus", "a bay", "7", with_text(parameters=NOTE | {"Prompt": "a bay", "software": "RuinedFooocus"})),
    "Fooocus-MRE": (
        "Fooocus 1.0.43 MRE", "a bay", "7", with_text(Comment=NOTE | {"prompt": "a bay", "software": "Fooocus 1.0.43 MRE"}),
    ),
    "demo space": (
        "demo space (diffusers)", "a bay", "7", with_text(parameters={"prompt": "a bay", "num_inference_steps": 20, "seed": 7}),
    ),
    "unknown fork": (
        "unnamed image generator", "a bay", "7", with_text(parameters=NOTE | {"prompt": "a bay", "negative_prompt": "fog"}),
    ),
    "Dream": ("InvokeAI", "a bay", "7", with_text(Dream='"a bay" -s 50 -S 7 -W 256 -H 256 -C 7.5 -A k_lms')),
    "NaN": ("ComfyUI", "a fox", "851", with_text(prompt=json.dumps(GRAPH)[:-1] + ', "12": {"is_changed": [NaN]}}')),
    "late nodes": ("ComfyUI", "a fox", "7", with_text(prompt=LATE)),
    "seed of another node": ("ComfyUI", "a fox", "851", with_text(prompt=SEEDED)),
    "graph in UserComment": ("ComfyUI", "a fox", "851", user_comment(GRAPH)),
    "graph and workflow in UserComment": ("ComfyUI", "a fox", "851", user_comment({"prompt": GRAPH, "workflow": {}})),
    "graph as text in UserComment": ("ComfyUI", "a fox", "851", user_comment({"prompt": json.dumps(GRAPH)})),
    "workflow in UserComment": ("ComfyUI", None, None, user_comment({"workflow": {"nodes": [], "links": []}})),
    "UserComment as text": ("ComfyUI", "a fox", "851", drawn("JPEG", exif=exif({0x9286: json.dumps({"prompt": GRAPH})}))),
    "UTF-16, big-endian": ("ComfyUI", "a fox", "851", coded_comment(json.dumps(GRAPH).encode("utf-16-be"))),
    "UTF-16, little-endian": ("ComfyUI", "a fox", "851", coded_comment(json.dumps(GRAPH).encode("utf-16-le"))),
    "Grok": (
        "xAI (Grok)", None, None,
        drawn("JPEG", exif=exif({0x010E: "Signature: " + "aB3+" * 20, 0x013B: "01234567-89ab-cdef-0123-456789abcdef"})),
    ),
    "Mochi Diffusion": ("Mochi Diffusion", "a bay; at dawn", "7", captioned(MOCHI)),
    "Mochi Diffusion of old": ("Mochi Diffusion", "a bay; at dawn", "7", captioned(MOCHI.replace("\n", "; "))),
    "Tensor.Art": ("Tensor.Art", "a bay", "7", with_text(generation_data=NOTE | {"prompt": "a bay", "samplerName": "Euler"})),
    "OpenAI Labs": ("OpenAI Labs (DALL·E)", None, None, drawn("JPEG", exif=exif({0x9286: "Made with OpenAI Labs"}))),
    "Dreamina": ("Dreamina", None, None, user_comment({"data": {"product": "dreamina", "exportType": "generation"}})),
    "ByteDance": ("ByteDance's AI label", None, None, user_comment({"aigc_info": {"aigc_label_type": 1}})),
    "prompt writer alone": (
        "unnamed AI system", None, None, drawn("JPEG", xmp=xmp("<any:AIPromptWriterName>Jane</any:AIPromptWriterName>")),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "kind", "prompt", "seed"), [
    (with_text(prompt=GRAPH, workflow={"nodes": []}), "ComfyUI", "a fox", "851"),
    (with_text(workflow={"nodes": [], "links": []}), "ComfyUI", None, None),
    (drawn("WEBP", exif=exif({0x0110: "prompt:" + json.dumps(GRAPH), 0x010F: "workflow:{}"})), "ComfyUI", "a fox", "851"),
    (novelai({"prompt": "a hill", "seed": 7, "uc": "x"}), "NovelAI", "a hill", "7"),
    (novelai("{broken"), "NovelAI", "a hill", None),
    (with_text(invokeai_metadata={"positive_prompt": "a bay", "seed": 5, "model": {"name": "m"}}), "InvokeAI", "a bay", "5"),
    (with_text(sd_metadata={"image": {"prompt": [{"prompt": "a bay"}], "seed": 5}}), "InvokeAI", "a bay", "5"),
    (user_comment({"Software": "NovelAI", "Comment": '{"prompt": "a hill", "seed": 7}'}), "NovelAI", "a hill", "7"),
    (drawn("JPEG", xmp=xmp(f"<any:UserComment>{json.dumps(POND)}</any:UserComment>")), "Draw Things", "a pond", "3"),
    (with_text(parameters={"sui_image_params": {"prompt": "a boat", "seed": 6, "model": "m"}}), "SwarmUI", "a boat", "6"),
    (with_text(parameters={"prompt": "a boat", "seed": "6", "version": "Fooocus v2.5"}), "Fooocus", "a boat", "6"),
    (with_text(prompt="a barn", seed="8", use_stable_diffusion_model="m"), "Easy Diffusion", "a barn", "8"),
    (with_text(Description="a cat --v 6 Job ID: 01234567-89ab-cdef-0123-456789abcdef"), "Midjourney", "a cat --v 6", None),
    (drawn("JPEG", exif=exif({0x0131: "Adobe Firefly"})), "Adobe Firefly", None, None),
    (drawn("JPEG", xmp=xmp("", 'xmp:CreatorTool="Draw Things"')), "Draw Things", None, None),
    (drawn("JPEG", xmp=xmp("", 'any:AISystemUsed="Painter" any:AIPromptInformation="a sea"')), "Painter", "a sea", None),
    (drawn("JPEG", xmp=xmp("", 'photoshop:Credit="Made with Google AI"')), "Google AI", None, None),
    (jpeg((0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\0\0\0\x18\x1c\2\x6e\0\x13Made with Google AI")), "Google AI", None, None),
    *((data, *expected) for *expected, data in FOUND_ON_SITES.values()),
])  # fmt: skip
def test_generators_are_named_with_prompt_and_seed(data, kind, prompt, seed):
    found = read(data)
    assert [(entry["kind"], entry["prompt"], entry["seed"]) for entry in found["generator"]] == [(kind, prompt, seed)]
    assert (found["says"], found["signed"], found["camera"]) == ("made by AI", False, None)
    assert kind in harmless(found)[0]


SITE = "a bay, 写真\nNegative prompt: fog\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 7"


@pytest.mark.parametrize(("data", "prompt"), [
    (SITE.encode("utf-16-be"), "a bay, 写真"),
    (SITE.encode("utf-8"), "a bay, 写真"),  # although the comment is marked as UTF-16
    (b"\xff\xfe" + SITE.encode("utf-16-le"), "a bay, 写真"),
    (b"\xfe\xff" + SITE.encode("utf-16-be"), "a bay, 写真"),
    (("写真" * 150 + SITE[9:]).encode("utf-16-le"), "写真" * 150),
    (("写真" * 150 + SITE[9:]).encode("utf-16-be"), "写真" * 150),
])  # fmt: skip
def test_encodings_of_a_comment_marked_as_unicode(data, prompt):
    (entry,) = read(coded_comment(data))["generator"]
    assert (entry["prompt"].replace(" ", ""), entry["negative_prompt"], entry["seed"]) == (prompt.replace(" ", ""), "fog", "7")


@pytest.mark.parametrize(("value", "says"), [(1, "edited"), (0, "nothing"), (-1, "nothing")])
def test_the_mark_of_galaxy_ai(value, says):
    trailer = b"\0\0\xa1\x0bPhotoEditor_Re_Edit_Data" + json.dumps({"sepVersion": "1", "genAIType": value}).encode()
    found = read(drawn("JPEG") + trailer + b"SEFH" + bytes(20) + b"SEFT")
    assert (found["says"], [entry["kind"] for entry in found["generator"]]) == (says, ["Samsung Galaxy AI"] * (says == "edited"))


PROGRAMS = [
    "OpenAI", "ChatGPT", "DALL-E", "DALL·E 3", "Midjourney", "Stable Diffusion", "Gemini", "Google Imagen", "Adobe Firefly", "Grok",
    "Sora", "Microsoft Designer", "FLUX.1", "Black Forest Labs", "NovelAI", "InvokeAI 4.2", "AUTOMATIC1111", "SD.Next", "Krea",
    "Recraft", "Leonardo.Ai", "Ideogram", "ideogram.ai", "Apple Image Playground",
]  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_name_of_a_program_is_reported_as_a_name(name):
    for found in (read(with_text(Software=name)), read(drawn("JPEG", xmp=xmp("", f'xmp:CreatorTool="{name}"')))):
        (entry,) = found["generator"]
        assert (entry["kind"], entry["name_only"], entry["prompt"]) == (name, True, None)
        assert "anybody can type it" in harmless(found)[0] and name in harmless(found)[0]


def test_the_name_of_a_generator_in_place_of_a_camera():
    found = read(drawn("JPEG", exif=exif({0x010F: "Ideogram AI"})))
    assert (found["generator"][0]["kind"], found["generator"][0]["name_only"], found["camera"]) == ("Ideogram AI", True, None)


def test_metadata_counts_more_than_a_name():
    found = read(with_text(Software="NovelAI", Comment={"prompt": "a hill", "seed": 7}, Title="x"))
    assert [(entry["kind"], entry["name_only"]) for entry in found["generator"]] == [("NovelAI", False)]


LABEL = {"Label": "1", "ContentProducer": "A company", "ProduceID": "7", "ReservedCode1": "", "PropagateID": ""}
QUOTED = json.dumps(LABEL).replace('"', "&quot;")


@pytest.mark.parametrize("data", [
    drawn("JPEG", xmp=xmp(f"<any:AIGC>{json.dumps(LABEL)}</any:AIGC>")),
    drawn("JPEG", xmp=xmp("", f'any:AIGC="{QUOTED}"')),
    drawn("WEBP", exif=exif(inner={0x9286: b"ASCII\0\0\0" + json.dumps({"AIGC": LABEL}).encode()})),
    drawn("JPEG", exif=exif({0x010E: "AIGC" + json.dumps(LABEL)})),
    drawn("JPEG", exif=exif({0x010E: json.dumps({"AIGC": json.dumps(LABEL)})})),
    jpeg((0xEA, b"AIGC" + json.dumps(LABEL).encode())),
    with_text(AIGC=LABEL),
], ids=["XMP", "XMP attribute", "UserComment", "ImageDescription", "JSON in JSON", "segment", "PNG"])  # fmt: skip
def test_chinas_label_of_ai_content(data):
    found = read(data)
    assert found["aigc"] == {"label": "1", "meaning": "AI-generated", "producer": "A company"}
    assert (found["says"], found["because"], found["signed"]) == ("made by AI", "AIGC label", False)
    assert "AI-generated, producer A company" in harmless(found)[0]


@pytest.mark.parametrize(("label", "meaning", "says"), [
    ({"Label": 1}, "AI-generated", "made by AI"),
    ({"Label": "2"}, "possibly AI-generated", "nothing"),
    ({"Label": "3"}, "suspected to be AI-generated", "nothing"),
    ({"Label": "no", "ContentProducer": {}}, "unknown value of the label", "nothing"),
    ({"ServiceProvider": "A cloud"}, "AI-generated", "made by AI"),
    ({"Title": "AIGC"}, None, "nothing"),
    ("{broken", None, "nothing"),
])  # fmt: skip
def test_values_of_chinas_label(label, meaning, says):
    found = read(with_text(AIGC=label))
    assert (found["aigc"] and found["aigc"]["meaning"], found["says"]) == (meaning, says)
    harmless(found)


@pytest.mark.parametrize("note", [{"ServiceProvider": "Telekom"}, {"ProduceID": "42"}, {"Label": 1}, {"nodes": [], "links": []}])
def test_json_that_shares_a_key_with_a_label_declares_nothing(note):
    assert read(user_comment(note))["says"] == "nothing" and read(jpeg((0xFE, json.dumps(note).encode())))["says"] == "nothing"


def test_the_four_fields_of_iptc():
    found = read(drawn("JPEG", xmp=xmp(
        "<any:AIPromptInformation>a sea</any:AIPromptInformation><any:AIPromptWriterName>Jane</any:AIPromptWriterName>",
        'any:AISystemUsed="Painter" any:AISystemVersionUsed="4"',
    )))  # fmt: skip
    assert [found["xmp"][name] for name in ("ai_system", "ai_prompt", "ai_prompt_writer")] == ["Painter 4", "a sea", "Jane"]
    assert [(entry["kind"], entry["prompt"]) for entry in found["generator"]] == [("Painter 4", "a sea")]
    assert any("Jane" in line for line in harmless(found))


@pytest.mark.parametrize("data", [
    with_text(parameters="width 3, height 4", prompt="what time is it?", Comment="Steps: up the hill", Description="a dog"),
    with_text(prompt=[1, 2], workflow="none", Software="Novella 2", Dream="last night"),
    with_text(Dream='"a song" -s 3', parameters={"prompt": "Your name?", "seed": 1}, Comment={"workflow": {"steps": []}}),
    drawn("JPEG", exif=exif({0x0131: "Imagenomic Portraiture"}), comment=b"stable diffusion of gases"),
    user_comment({"aigc_info": {"aigc_label_type": 0}, "data": {"product": "retouch", "exportType": "edit"}}),
    drawn("JPEG", exif=exif({0x0131: "Grokker 2", 0x010E: "Signature: J. Smith", 0x013B: "J. Smith"})),
    drawn("JPEG") + b"\0\0\0\x08tEXtprompt\0" + json.dumps(GRAPH).encode(),
    drawn("JPEG", xmp=xmp("", 'photoshop:Credit="Google AI Journal" any:DigitalSourceType="http://example.org/made-up"')),
])  # fmt: skip
def test_what_only_resembles_a_generator_is_not_called_one(data):
    found = read(data)
    assert (found["generator"], found["says"]) == ([], "nothing")


FIREFLY = '<xmpMM:History><rdf:Seq><rdf:li stEvt:action="saved" stEvt:softwareAgent="Adobe Firefly 3"/></rdf:Seq></xmpMM:History>'
UPSCALER = {
    "1": {"class_type": "LoadImage", "inputs": {}},
    "2": {"class_type": "ImageUpscaleWithModel", "inputs": {"image": ["1", 0]}},
}


@pytest.mark.parametrize("data", [
    with_text(prompt=UPSCALER),
    drawn("JPEG", xmp=xmp(FIREFLY), exif=exif({0x010F: "Nikon", 0x0110: "D70"})),
], ids=["a graph without a sampler", "Firefly in the history of a photograph"])  # fmt: skip
def test_generators_that_edit_an_image(data):
    found = read(data)
    assert (found["says"], found["generator"][0]["partly"]) == ("edited", True)
