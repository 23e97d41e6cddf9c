"""Image files with provenance metadata, made for tests, and a check of everything read from them."""

import io
import json
import struct
import zlib

import pillow_heif
import pytest
from PIL import Image, PngImagePlugin, features
from PIL.TiffImagePlugin import IFDRational

from detector import provenance
from tests.conftest import ROOT

SAMPLES = ROOT.parent / "shared" / "data" / "provenance"
TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
CAPTURE = TRAINED.replace("trainedAlgorithmicMedia", "digitalCapture")
KEYS = set(provenance.KEYS)
PARAMETERS = (
    "a lighthouse at dawn, <lora:sea:0.7>\nfog\nNegative prompt: people\n"
    'Steps: 30, Sampler: DPM++ 2M, CFG scale: 7, Seed: 1703765458, Size: 64x64, Model: drawn_xl, Lora hashes: "a: 1, b: 2", '
    "Version: v1.10.1"
)
GRAPH = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 851, "sampler_name": "euler", "positive": ["6", 0], "negative": ["7", 0]}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "drawn.safetensors"}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["9", 0], "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
    "9": {"class_type": "PrimitiveString", "inputs": {"value": "a fox"}},
}  # fmt: skip
PLACES = [
    f'<any:DigitalSourceType>{TRAINED}</any:DigitalSourceType>',
    f'<any:DigitalSourceType rdf:resource="{TRAINED}"/>',
    f"<any:DigitalSourceType><rdf:Bag><rdf:li>{TRAINED}</rdf:li></rdf:Bag></any:DigitalSourceType>",
]  # fmt: skip
# Formats with metadata; HEIF is HEIC, AVIF depends on how Pillow was built.
KINDS = ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "HEIF", *(["AVIF"] if features.check("avif") else [])]
CAMERA = {
    0x829A: IFDRational(1, 200),
    0x829D: IFDRational(9, 1),
    0x8827: 400,
    0x9003: "2024:05:01 10:00:00",
    0xA434: "50 mm f/1.8",
    0x920A: IFDRational(50, 1),
}
GPS = {1: "N", 2: (47.0, 22.0, 12.34), 3: "E", 4: (8.0, 32.0, 56.78)}
MEGABYTE = 1 << 20
SPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#", "xmp": "http://ns.adobe.com/xap/1.0/",
    "any": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/", "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "xmpMM": "http://ns.adobe.com/xap/1.0/mm/", "stEvt": "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#",
}  # fmt: skip


def drawn(kind="PNG", **options):
    if kind == "HEIF":
        pillow_heif.register_heif_opener()
    return encoded(Image.new("RGB", (16, 16), (200, 90, 30)), kind, **options)


def encoded(image, kind="PNG", **options):
    """Return a Pillow image, or an array, as a file."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks):
    """Return a PNG with the chunks (kind, data) before the image data."""
    plain = drawn()
    return plain[:33] + b"".join(chunk(*one) for one in chunks) + plain[33:]


def bomb(width, height):
    """Return a PNG of a few kilobytes whose header promises width x height pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def with_text(**texts):
    info = PngImagePlugin.PngInfo()
    for keyword, text in texts.items():
        keyword = "sd-metadata" if keyword == "sd_metadata" else keyword
        info.add_text(keyword, text if isinstance(text, str) else json.dumps(text))
    return drawn(pnginfo=info)


def jpeg(*segments):
    plain = drawn("JPEG")
    return plain[:2] + b"".join(struct.pack(">BBH", 0xFF, kind, len(data) + 2) + data for kind, data in segments) + plain[2:]


def exif(tags=(), inner=(), gps=()):
    """Return EXIF as Pillow writes it."""
    block = Image.Exif()
    block.update(tags)
    block.get_ifd(0x8769).update(inner)
    if gps:
        block.get_ifd(0x8825).update(gps)
    return block.tobytes()


def bare_exif(entries, tail=b""):
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + b"\0\0\0\0" + tail


def xmp(body, attributes=""):
    spaces = " ".join(f'xmlns:{name}="{space}"' for name, space in SPACES.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF {spaces}><rdf:Description rdf:about="" {attributes}>{body}</rdf:Description></rdf:RDF></x:xmpmeta>'
        '<?xpacket end="w"?>'
    ).encode()


def harmless(found):
    """Check what holds for every result (keys, JSON, lines that harm no terminal or page); return the lines."""
    assert found.keys() == KEYS
    assert found["says"] in ("made by AI", "camera", "edited", "nothing") and isinstance(found["signed"], bool)
    json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    lines = provenance.summarise(found)
    assert len(lines) <= 12 and all(line.isprintable() and len(line) <= 600 and not set("<>") & set(line) for line in lines)
    return lines


def manifest(*actions, **more):
    listed = {"label": "c2pa.actions", "data": {"actions": list(actions)}}
    return {"claim_generator_info": [{"name": "Drawer", "version": "1"}], "assertions": [listed], **more}


MADE = manifest({"action": "c2pa.created", "softwareAgent": {"name": "painter"}, "digitalSourceType": TRAINED})
SHOT = manifest({"action": "c2pa.created", "digitalSourceType": CAPTURE})


def store(active, state="Valid", failure=(), success=(), **others):
    codes = {name: [{"code": code} for code in listed] for name, listed in (("failure", failure), ("success", success))}
    manifests, results = {"a": active, **others}, {"activeManifest": codes}
    return {"active_manifest": "a", "manifests": manifests, "validation_state": state, "validation_results": results}


class Workshop:
    """Signs images with its own certificate; `root` is a PEM file with the root that it descends from."""

    def __init__(self, folder):
        self.c2pa = pytest.importorskip("c2pa", reason="c2pa-python is not installed")
        pytest.importorskip("cryptography", reason="cryptography, which c2pa-python brings, is not installed")
        root, root_key = self.certificate("Root of the test")
        self.leaf, self.key = self.certificate("Signer <b>of the test", root, root_key)
        self.chain = self.pem(self.leaf) + self.pem(root)
        self.root = folder / "root.pem"
        official = f"Subject\tCN=Root of the test\n{self.pem(root)}\n"  # the form of the official list
        self.root.write_text(official, encoding="utf-8")

    def certificate(self, name, by=None, by_key=None):
        import datetime

        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        named = [x509.NameAttribute(x509.NameOID.COMMON_NAME, name), x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Drawn")]
        subject, now, root = x509.Name(named), datetime.datetime.now(datetime.UTC), by is None
        builder = x509.CertificateBuilder(by.subject if by else subject, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=9))
        purpose = x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1")])
        for extension, critical in [
            (x509.BasicConstraints(root, None), True),
            (x509.KeyUsage(not root, False, False, False, False, root, root, False, False), True),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key((by_key or key).public_key()), False),
            *([] if root else [(purpose, False)]),
        ]:
            builder = builder.add_extension(extension, critical)
        return builder.sign(by_key or key, hashes.SHA256()), key

    @staticmethod
    def pem(certificate):
        from cryptography.hazmat.primitives import serialization

        return certificate.public_bytes(serialization.Encoding.PEM).decode()

    def signature(self, data):
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, utils

        r, s = utils.decode_dss_signature(self.key.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def sign(self, image, claims, kind="image/png", parent=None, part=None, remote=None):
        context = self.c2pa.Context.from_dict({"verify": {"verify_after_sign": False}})
        signer = self.c2pa.Signer.from_callback(self.signature, self.c2pa.C2paSigningAlg.ES256, self.chain, None)
        with signer, self.c2pa.Builder(claims, context=context) as builder:
            if parent:
                builder.set_intent(self.c2pa.C2paBuilderIntent.EDIT)
                builder.add_ingredient({"title": "parent", "relationship": "parentOf"}, kind, io.BytesIO(parent))
            if part:
                builder.add_ingredient({"title": "part", "relationship": "componentOf"}, kind, io.BytesIO(part))
            if remote:
                builder.set_remote_url(remote)
                builder.set_no_embed()
            signed = io.BytesIO()
            builder.sign(signer, kind, io.BytesIO(image), signed)
        return signed.getvalue()
