# SPDX-License-Identifier: Apache-2.0
"""What qtool writes has no defects: the shipped recipes, their knobs and all targets on the samples, and (slow) on the
real models beside the repository."""
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
QTOOL = os.environ.get("QTOOL", str(ROOT / "build" / "release" / "qtool"))
DATA = pathlib.Path(os.environ.get("QTOOL_DATA", ROOT.parent / "shared" / "data"))
SAMPLES = {"digits_cnn": "digits", "digits_transformer": "digits", "tiny_lstm": "arith"}
RECIPES = ["int8_static", "int8_fast", "int8_dynamic", "int8_weights", "int4_weights", "w4_gptq", "w2_gptq", "w3_rtn"]

#: (recipe, settings), for every model
FORMS = [(recipe, []) for recipe in RECIPES] + [
    ("int8_static", ["emit.form=qoperator"]),
    ("int8_static", ["emit.only_standard=true"]),
    ("int8_static", ["assign_formats.weights=int7"]),
    ("int8_static", ["assign_formats.weights=uint8", "assign_formats.symmetric=false", "assign_formats.grain=tensor"]),
    ("int8_static", ["assign_formats.activations=int8"]),
    ("int8_static", ["assign_formats.attention=false"]),
    ("int8_static", ["calibrate_ranges.method=mse", "round_nearest.clip=mse"]),
    ("int8_static", ["bias_correct.method=measured"]),
    ("int8_static", ["bias_correct.method=batch_norm"]),
    ("int8_static", ["assign_formats.grain=tensor"]),
    ("int8_dynamic", ["assign_formats.weights=int5"]),
    ("int8_dynamic", ["assign_formats.weights=uint8", "assign_formats.symmetric=false"]),
    ("int8_weights", ["assign_formats.weights=uint8", "assign_formats.symmetric=false"]),
    ("int8_weights", ["assign_formats.embeddings=true"]),
    ("w4_gptq", ["assign_formats.symmetric=true", "assign_formats.weights=int4", "gptq.group=16"]),
    ("w3_gptq", ["gptq.search=false", "gptq.order=gar", "gptq.scales=dynamic", "gptq.inputs=float"]),
    ("w2_gptq", ["gptq.search=false", "gptq.clip=block", "gptq.refit=2"]),
    ("int4_weights", ["assign_formats.weights=uint4", "assign_formats.symmetric=false"]),
    ("int4_weights", ["assign_formats.weights=int2", "assign_formats.group=64"]),
    ("int4_weights", ["assign_formats.embeddings=true", "assign_formats.group=16"]),
    ("int4_weights", ["round_nearest.clip=minmax", "round_nearest.scale_format=f16"]),
]
#: (target, recipe, settings)
TARGETS = [("tensorrt", "int8_static", []), ("tensorrt", "int4_weights", []), ("openvino", "int8_static", []),
           ("openvino", "int4_weights", []), ("openvino", "int8_weights", []), ("ort-cuda", "int4_weights", []),
           ("ort-cuda", "int8_weights", []), ("openvino", "int8_fast", []), ("tensorrt", "int8_fast", []),
           ("openvino", "int4_weights", ["assign_formats.group=64", "round_nearest.clip=mse"]),
           ("ort-cuda", "int4_weights", ["assign_formats.weights=uint4", "assign_formats.symmetric=false"])]
EQUALIZED = """version: 1
target: ort-cpu
data: {}
steps:
  - fold_constants
  - fold_batch_norm
  - equalize_layers
  - assign_formats: {method: static, activations: uint8, weights: int8, grain: tensor}
  - calibrate_ranges: {method: minmax}
  - round_nearest
  - bias_correct
"""

#: A pass that chooses codes or scales of weights, in place of NAME
SOLVED = """version: 1
target: ort-cpu
data: {}
steps:
  - fold_constants
  - fold_batch_norm
  - assign_formats: {method: weights, weights: uint3, grain: groups, group: 32, symmetric: false}
  - NAME
  - round_nearest
"""
SOLVERS = ["hqq", "decouple", "ada_round: {steps: 50}", "ada_quant: {steps: 50, refit: 1}"]
#: Steps behind round_nearest that change what it decided
TUNED = [EQUALIZED.replace("bias_correct", "tune_statistics"),
         SOLVED.replace("NAME", "gptq") + "  - tune_statistics: {samples: 0}\n"]


def call(*words):
    return subprocess.run([QTOOL, *map(str, words)], capture_output=True, text=True, errors="replace")


def forms(folder):
    equalized = folder / "equalized.yaml"
    equalized.write_text(EQUALIZED)
    jobs = [("ort-cpu", recipe, settings) for recipe, settings in FORMS] + [("ort-cpu", equalized, [])]
    for solver in SOLVERS:
        solved = folder / (solver.split(":")[0] + ".yaml")
        solved.write_text(SOLVED.replace("NAME", solver))
        jobs.append(("ort-cpu", solved, []))
    for i, text in enumerate(TUNED):
        tuned = folder / f"tuned{i}.yaml"
        tuned.write_text(text)
        jobs.append(("ort-cpu", tuned, []))
    return jobs + TARGETS


def quantized(model, calib, target, recipe, settings, output):
    """None: written. Else why not; a model that a recipe has nothing for is no failure of the check."""
    words = ["quantize", model, "--recipe", recipe, "--target", target, "-o", output, "--quiet", "--calib", calib]
    done = call(*words, *[w for s in settings for w in ("--set", s)])
    return None if done.returncode == 0 else (done.returncode, done.stderr.strip()[-400:])


def verified(output, model, recipe, calib):
    """What is wrong with the check's answer; empty: nothing."""
    lock = pathlib.Path(str(output) + ".lock")
    measured = '"output_db_data_sha256"' in lock.read_text()
    data = ["--calib", calib, "--recipe", recipe] if measured else []
    done = call("verify", output, "--against", model, "--lock", lock, *data)
    return "" if done.returncode == 0 else done.stdout[-1500:] + done.stderr.strip()[-400:]
