# SPDX-License-Identifier: Apache-2.0
"""Minifloats by ml_dtypes: the value of every code, and the codes of probe numbers, into tests/golden/minifloats.txt.

One line per format: name, values of all codes, codes of all probes; numbers as the bits of a float32. ml_dtypes does not
saturate, qtool does: probes are cut to the range of the format first."""
import pathlib

import ml_dtypes
import numpy as np

OUT = pathlib.Path(__file__).resolve().parents[1] / "golden" / "minifloats.txt"
FORMATS = {"e2m1": (ml_dtypes.float4_e2m1fn, 4), "e2m3": (ml_dtypes.float6_e2m3fn, 6), "e3m2": (ml_dtypes.float6_e3m2fn, 6),
           "e3m4": (ml_dtypes.float8_e3m4, 8), "e4m3": (ml_dtypes.float8_e4m3fn, 8), "e4m3ieee": (ml_dtypes.float8_e4m3, 8),
           "e4m3fnuz": (ml_dtypes.float8_e4m3fnuz, 8), "e5m2": (ml_dtypes.float8_e5m2, 8),
           "e5m2fnuz": (ml_dtypes.float8_e5m2fnuz, 8), "e8m0": (ml_dtypes.float8_e8m0fnu, 8)}


def bits(x):
    return " ".join(f"{v:x}" for v in np.asarray(x, np.float32).view(np.uint32))


rng = np.random.default_rng(7)
probes = (rng.standard_normal(600) * np.exp2(rng.integers(-20, 17, 600))).astype(np.float32)
lines = [f"# ml_dtypes {ml_dtypes.__version__}, made by tests/oracle/minifloats.py", "probes | " + bits(probes)]
for name, (dtype, width) in FORMATS.items():
    codes = np.arange(1 << width, dtype=np.uint8)
    values = codes.view(dtype).astype(np.float32)
    finite = values[np.isfinite(values)]
    x = np.clip(np.abs(probes) if name == "e8m0" else probes, finite.min(), finite.max())
    lines.append(f"{name} | {bits(values)} | " + " ".join(f"{c:x}" for c in x.astype(dtype).view(np.uint8)))
OUT.write_text("\n".join(lines) + "\n")
print(f"{OUT.name}: {len(FORMATS)} formats, ml_dtypes {ml_dtypes.__version__}")
