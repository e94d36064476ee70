"""Write the seed corpus again: archives, pictures, models, recipes and tables, all drawn or written here.

python tests/fuzz/make_corpus.py

Seeds of mended crashes (``mended-*``) are not made here and stay.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import sys
import tempfile
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from fingerspell.files import write_bytes
from fingerspell.graphs import backbone_graph, classifier
from fingerspell.model import FORMAT, Card
from fingerspell.recipes import load_recipe
from fingerspell.rendering import render_letter
from fingerspell.testing import fake_backbone
from pictures import encode, png, png_claiming, write_tar, write_zip

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    """Write every seed."""
    for target, files in (
        ("image", _pictures()),
        ("archive", _archives()),
        ("model", _models()),
        ("recipe", _recipes()),
        ("csv", _tables()),
    ):
        for name, data in files.items():
            write_bytes(CORPUS / target / name, data)


def _hand(size: int = 24) -> Image.Image:
    return Image.fromarray(render_letter("A", np.random.default_rng(0), 64)).resize((size, size))


def _pictures() -> dict[str, bytes]:
    hand = _hand()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    return {
        "hand.jpg": encode(hand, "JPEG"),
        "progressive.jpg": encode(hand, "JPEG", progressive=True),
        "grey.jpg": encode(hand.convert("L"), "JPEG"),
        "cmyk.jpg": encode(hand.convert("CMYK"), "JPEG"),
        "turned.jpg": encode(hand, "JPEG", exif=exif),
        "hand.png": encode(hand, "PNG"),
        "palette.png": encode(hand.quantize(16), "PNG", transparency=0),
        "transparent.png": encode(hand.convert("RGBA"), "PNG"),
        "sixteen.png": encode(Image.fromarray(np.full((4, 4), 40_000, np.uint16)), "PNG"),
        "claims.png": png_claiming(60_000, 60_000),
        "hand.bmp": encode(_hand(12), "BMP"),
        "hand.gif": encode(hand.quantize(16), "GIF"),
        "film.gif": encode(hand.quantize(8), "GIF", save_all=True, append_images=[_hand().rotate(90).quantize(8)]),
        "hand.webp": encode(hand, "WEBP"),
        "hand.tif": encode(_hand(12), "TIFF"),
        "packed.tif": encode(_hand(12), "TIFF", compression="tiff_lzw"),
        "hand.ppm": encode(_hand(12), "PPM"),
        "plain.pgm": b"P2\n2 2\n255\n0 255\n7 9\n",
    }


def _archives() -> dict[str, bytes]:
    files = {f"set/{x}/{x}{i}.png": png((10 * i, ord(x), 0), (4, 4)) for x in "AB" for i in range(1, 3)}
    files["set/nothing/n1.png"] = png("blue", (4, 4))
    files["set/readme.txt"] = b"hands"
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "archive"
        stored = write_zip(path, files).read_bytes()
        packed = write_zip(path, files, zipfile.ZIP_DEFLATED).read_bytes()
        plain = write_tar(path, files).read_bytes()
    return {
        "stored.zip": stored,
        "packed.zip": packed,
        "cut.zip": stored[:-30],
        "plain.tar": plain.rstrip(b"\0") + bytes(1024),
        "packed.tar.gz": gzip.compress(plain, mtime=0),
        "outside.zip": _zip({"../A/1.png": png(), "B\\2.png": png("blue")}),
        "empty.zip": _zip({}),
    }


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def _models() -> dict[str, bytes]:
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(24, 2))
    card = Card(
        FORMAT, "seed", ("A", "B"), 16, "nearest", {"backbone": "fake"}, "linear", {"archive": "x"}, {}, 1, 0, 0
    )
    folder = Path(tempfile.mkdtemp())
    graph = classifier(backbone_graph(fake_backbone(), folder), head)
    shutil.rmtree(folder)
    text = json.dumps(asdict(card)).encode()
    return {
        "whole": b"\n----\n".join([text, graph]),
        "no-graph": b"\n----\n".join([text, b""]),
        "newer": text.replace(f'"format": {FORMAT}'.encode(), b'"format": 99'),
        "other-sums": b"\n----\n".join([text, b"x", b"0123  model.json\n4567  model.onnx\n"]),
    }


def _recipes() -> dict[str, bytes]:
    return {
        "real.toml": load_recipe("real").to_toml().encode(),
        "synthetic.toml": load_recipe("synthetic").to_toml().encode(),
        "small.toml": b'name = "x"\nseed = 3\n[split]\nprotocol = "groups"\ngroups = "a.csv:signer"\n',
        "dates.toml": b'name = "x"\nseed = 1979-05-27T07:32:00Z\n',
        "newer.toml": b'name = "x"\nfuture = true\n[head]\nkind = "mlp"\nmlp = {hidden = [8, 4], epochs = 0x10}\n',
    }


def _tables() -> dict[str, bytes]:
    names = ["A/A1.png", "A/A2.png", "B/B1.png"]
    return {
        "groups.csv": b"path,signer\n" + b"".join(f"{n},s{i}\n".encode() for i, n in enumerate(names)),
        "quoted.csv": b'\xef\xbb\xbfpath,signer,age\r\n"A/A1.png","a, b",3\r\n',
        "boxes.csv": b"path,left,top,right,bottom\nset/A/A1.png,0.1,0.2,0.5,1\nA/A2.png,0,0,1e-1,nan\n",
    }


if __name__ == "__main__":
    main()
