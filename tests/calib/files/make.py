#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Files for the tests of data readers, as NumPy, Pillow and safetensors write them, with what Pillow makes of the
pictures. Written with numpy 2.4.6, Pillow 13.0.0, safetensors; not needed to build or test."""
import pathlib

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

here = pathlib.Path(__file__).parent
rng = np.random.default_rng(7)

arrays = dict(
    x=np.arange(30, dtype=np.float32).reshape(5, 2, 3) / 4,
    ids=np.arange(20, dtype=np.int32).reshape(5, 4),
    mask=np.array([[1, 0], [1, 1], [0, 0], [0, 1], [1, 1]], dtype=bool),
    half=np.array([0.1, -2, 65504, 6e-8, np.inf], dtype=np.float16),
    fortran=np.asfortranarray(np.arange(24, dtype=np.float64).reshape(2, 3, 4)),
    scalar=np.int64(16000),
    labels=np.array([3, 1, 4, 1, 5], dtype=np.int64),
)
np.savez(here / "arrays.npz", **arrays)
np.savez_compressed(here / "deflated.npz", **arrays)
np.save(here / "x.npy", arrays["x"])
save_file({k: np.ascontiguousarray(arrays[k]) for k in ("x", "ids", "mask", "half", "fortran")},
          here / "arrays.safetensors")

y, x = np.mgrid[0:23, 0:37]
rgb = np.stack([x * 6 + y, 255 - y * 9, (x * y) % 256], -1).clip(0, 255).astype(np.uint8)
pictures = here / "pictures"
Image.fromarray(rgb).save(pictures / "cat" / "b.png")
Image.fromarray(rgb[:, ::-1]).convert("P", palette=Image.Palette.ADAPTIVE).save(pictures / "cat" / "a.png")
Image.fromarray(np.dstack([rgb, rgb[..., 0]]), "RGBA").save(pictures / "dog" / "alpha.png")
Image.fromarray(rgb.transpose(1, 0, 2)).save(pictures / "dog" / "tall.jpg", quality=90)
(pictures / "notes.txt").write_text("not a picture\n")


def prepare(path):
    image = Image.open(path).convert("RGB")
    w, h = image.size
    side = 16
    size = (side, int(side * h / w)) if w <= h else (int(side * w / h), side)
    image = image.resize(size, Image.BILINEAR)
    left, top = int(round((image.size[0] - 12) / 2)), int(round((image.size[1] - 10) / 2))
    return np.asarray(image.crop((left, top, left + 12, top + 10)))


names = ["cat/a.png", "cat/b.png", "dog/alpha.png", "dog/tall.jpg"]
big = np.asarray(Image.open(pictures / "cat" / "b.png").resize((80, 51), Image.BILINEAR))
luma = np.asarray(Image.open(pictures / "cat" / "b.png").convert("L"))
np.savez(here / "pictures.npz", prepared=np.stack([prepare(pictures / n) for n in names]), enlarged=big, luma=luma)
