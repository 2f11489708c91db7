# SPDX-License-Identifier: Apache-2.0
"""Other tools that quantize ONNX files on the CPU, each as a program `TOOL SOURCE TARGET CALIBRATION METHOD` in a virtual
environment of its own under build/bench (pinned versions; the first call installs, quark brings gigabytes of torch)."""
import pathlib
import subprocess
import sys

import datasets

FEEDS = r"""
import sys, logging, warnings
import numpy as np, onnx, onnx.version_converter
logging.disable(logging.WARNING)
warnings.filterwarnings("ignore")
source, target, calib, method = sys.argv[1:5]
data = np.load(calib, allow_pickle=False)
feeds = [{n: data[f"{i}/{n}"] for n in str(data["names"]).split()} for i in range(int(data["count"]))]
model = onnx.load(source)
if model.opset_import[0].version < 13:
    model = onnx.version_converter.convert_version(model, 13)
class Reader:
    def __init__(self): self.rewind()
    def rewind(self): self.rest = iter(feeds)
    def get_next(self): return next(self.rest, None)
"""

ONNXRUNTIME = FEEDS + r"""
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
pre = target + ".pre.onnx"
onnx.save(model, pre)
quant_pre_process(pre, pre, skip_symbolic_shape="tashkeel" not in source, auto_merge=True)
class Known(Reader, CalibrationDataReader): pass
if method == "dynamic":
    quantize_dynamic(pre, target, per_channel=True)
elif method.startswith("int4"):
    from onnxruntime.quantization.matmul_nbits_quantizer import (DefaultWeightOnlyQuantConfig, HQQWeightOnlyQuantConfig,
                                                                 MatMulNBitsQuantizer)
    config = (HQQWeightOnlyQuantConfig(block_size=32, bits=4) if method == "int4_hqq"
              else DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, accuracy_level=4))
    quantizer = MatMulNBitsQuantizer(onnx.load(pre), block_size=32, is_symmetric=True, accuracy_level=4, algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(target)
else:
    how = {"minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy, "percentile": CalibrationMethod.Percentile}
    quantize_static(pre, target, Known(), per_channel=True, activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8, calibrate_method=how[method])
"""

NNCF = FEEDS + r"""
import nncf
kind = {"model_type": nncf.ModelType.TRANSFORMER} if "tashkeel" in source or "llama" in source else {}
onnx.save(nncf.quantize(model, nncf.Dataset(feeds), subset_size=len(feeds), **kind), target)
"""

INC = FEEDS + r"""
from onnx_neural_compressor import data_reader
from onnx_neural_compressor.quantization import config, quantize
class Known(Reader, data_reader.CalibrationDataReader): pass
quantize(source, target, config.StaticQuantConfig(calibration_data_reader=Known(), per_channel=True))
"""

QUARK = FEEDS + r"""
from onnxruntime.quantization import CalibrationDataReader
from quark.onnx import ModelQuantizer, QConfig
class Known(Reader, CalibrationDataReader): pass
ModelQuantizer(QConfig.get_default_config("INT8_CNN_DEFAULT")).quantize_model(source, target, Known())
"""

# tool: program, packages, methods for static int8
TOOLS = {
    "onnxruntime": (ONNXRUNTIME, ["onnxruntime==1.31.1", "onnx==1.23.2", "onnx_ir", "sympy", "torch==2.15.0"], ("minmax", "entropy", "percentile")),
    "nncf": (NNCF, ["nncf==3.4.0", "onnx==1.23.2", "onnxruntime==1.31.1"], ("default",)),
    "inc": (INC, ["onnx-neural-compressor==1.0", "prettytable", "psutil", "py-cpuinfo", "scipy"], ("default",)),
    "quark": (QUARK, ["amd-quark==0.13", "torch==2.15.0", "onnxruntime==1.31.1"], ("default",)),
}


def python_of(tool):
    folder = datasets.ROOT / "build" / "bench" / f"venv-{tool}"
    done = folder / "installed"
    if not done.exists():
        print(f"installing {tool} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "-q", *TOOLS[tool][1]], check=True)
        done.touch()
    return folder / "bin" / "python"


def command(tool, method, source, target, calib: pathlib.Path):
    return [python_of(tool), "-c", TOOLS[tool][0], source, target, calib, method]
