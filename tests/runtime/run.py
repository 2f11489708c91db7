# SPDX-License-Identifier: Apache-2.0
"""What the real ONNX Runtime makes of the files that qtool writes. QTOOL names the program (default: build/release).

    QTOOL=build/dev/qtool build/venv/bin/python tests/runtime/run.py [small|traps|samples|knobs|real ...]
"""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import small_models
import weight_formats
import whole_models
from tools import Suite

PARTS = {"small": small_models.check_static, "traps": small_models.check_traps, "samples": whole_models.check_samples, "knobs": whole_models.check_recipe_knobs,
         "real": whole_models.check_real, "announced": whole_models.check_announced,
         "cuda": whole_models.check_cuda_form, "tensorrt": whole_models.check_tensorrt_form, "weights": weight_formats.check_weight_formats, "portable": weight_formats.check_portable, "layers": weight_formats.check_solved_layers, "declarations": whole_models.check_declarations, "norms": whole_models.check_fused_normalizations, "reading": whole_models.check_reference_reading}


def main():
    suite = Suite()
    for part in sys.argv[1:] or PARTS:
        PARTS[part](suite)
    return suite.end()


if __name__ == "__main__":
    sys.exit(main())
