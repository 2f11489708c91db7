# SPDX-License-Identifier: Apache-2.0
"""Casts by PyTorch: float32 values and the codes that torch gives them, into tests/golden/torch/formats.npz."""
import pathlib

import numpy as np
import torch

OUT = pathlib.Path(__file__).resolve().parents[1] / "golden" / "torch"
OUT.mkdir(parents=True, exist_ok=True)

rng = np.random.default_rng(7)
x = np.concatenate([
    rng.standard_normal(512).astype(np.float32) * np.exp2(rng.integers(-18, 10, 512)).astype(np.float32),
    np.array([0, -0.0, 448, -448, 447.9, 57344, 1e-8, 2**-9, 2**-10, 2**-16, 2**-17, 65504, 65519, 2**-24, 2**-25], np.float32),
]).astype(np.float32)
t = torch.from_numpy(x)


def codes(dtype, limit, width):
    """torch does not saturate, qtool does: the values are clamped to the format's range first."""
    clamped = t.clamp(-limit, limit)
    view = torch.uint8 if width == 8 else torch.int16
    return clamped.to(dtype).view(view).numpy().astype(np.uint16)


np.savez_compressed(
    OUT / "formats.npz", x=x,
    e4m3=codes(torch.float8_e4m3fn, 448, 8), e5m2=codes(torch.float8_e5m2, 57344, 8),
    f16=codes(torch.float16, 65504, 16), bf16=codes(torch.bfloat16, 3.3e38, 16))
print(f"formats.npz: {len(x)} values, torch {torch.__version__}")
