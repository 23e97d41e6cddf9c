import json
import zlib

import pytest

from detector.provenance import read
from tests.saying import GRAPH, PARAMETERS, drawn, exif, harmless, jpeg, png, with_text, xmp


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
    assert "‹lora:sea:0.7›" in lines[0] and "anybody" in lines[-1]


POND = {"c": "a pond", "seed": 3, "sampler": "s", "model": "m"}


def user_comment(note):
    return drawn("WEBP", exif=exif(inner={0x9286: b"\0" * 8 + json.dumps(note).encode()}))


def novelai(note):
    return with_text(Software="NovelAI", Source="NovelAI Diffusion V4", Description="a hill", Comment=note)


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
])  # fmt: skip
def test_generators_are_named_with_prompt_and_seed(data, kind, prompt, seed):
    found = read(data)
    assert [(entry["kind"], entry["prompt"], entry["seed"]) for entry in found["generator"]] == [(kind, prompt, seed)]
    assert (found["says"], found["signed"], found["camera"]) == ("made by AI", False, None)
    assert kind in harmless(found)[0]


@pytest.mark.parametrize("data", [
    with_text(parameters="width 3, height 4", prompt="what time is it?", Comment="Steps: up the hill", Description="a dog"),
    with_text(prompt=[1, 2], workflow="none", Software="Novella 2", Dream="last night"),
    drawn("JPEG", exif=exif({0x0131: "Imagenomic Portraiture"}), comment=b"stable diffusion of gases"),
    drawn("JPEG", xmp=xmp("", 'photoshop:Credit="Google AI Journal" any:DigitalSourceType="http://example.org/made-up"')),
])  # fmt: skip
def test_what_only_resembles_a_generator_is_not_called_one(data):
    found = read(data)
    assert (found["generator"], found["says"]) == ([], "nothing")


def test_a_graph_without_a_sampler_edits_an_image():
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {}},
        "2": {"class_type": "ImageUpscaleWithModel", "inputs": {"image": ["1", 0]}},
    }
    found = read(with_text(prompt=graph))
    assert (found["says"], found["generator"][0]["partly"]) == ("edited", True)


def test_firefly_in_the_history_of_a_photograph_edits_it():
    history = (
        '<xmpMM:History><rdf:Seq><rdf:li stEvt:action="saved" stEvt:softwareAgent="Adobe Firefly 3"/></rdf:Seq></xmpMM:History>'
    )
    found = read(drawn("JPEG", xmp=xmp(history), exif=exif({0x010F: "Nikon", 0x0110: "D70"})))
    assert (found["says"], found["generator"][0]["partly"]) == ("edited", True)
