# SPDX-License-Identifier: Apache-2.0
"""Writes the cases of the installed onnx package as Debian's libonnx-testdata lays them out: KIND/NAME/model.onnx and
test_data_set_N/{input,output}_M.pb. The package computes node cases when asked; the small models it ships as files.

    dump_cases.py FOLDER     does nothing where FOLDER holds the cases of this version
"""
import importlib.metadata
import os
import pathlib
import shutil
import sys
import warnings

VERSION = importlib.metadata.version("onnx")


def proto(value, info):
    from onnx import TensorProto, numpy_helper

    kind = info.type.WhichOneof("value")
    if kind == "map_type":
        return numpy_helper.from_dict(value, info.name)
    if kind == "sequence_type":
        return numpy_helper.from_list(value, info.name)
    if kind == "optional_type":
        return numpy_helper.from_optional(value, info.name)
    return value if isinstance(value, TensorProto) else numpy_helper.from_array(value, info.name)


def write(case, folder):
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(case.model.SerializeToString())
    for number, (inputs, outputs) in enumerate(case.data_sets):
        data = folder / f"test_data_set_{number}"
        data.mkdir()
        for stem, values, infos in (("input", inputs, case.model.graph.input),
                                    ("output", outputs, case.model.graph.output)):
            for i, (value, info) in enumerate(zip(values, infos)):
                (data / f"{stem}_{i}.pb").write_bytes(proto(value, info).SerializeToString())


def main():
    folder = pathlib.Path(sys.argv[1])
    stamp = folder / "version"
    if stamp.exists() and stamp.read_text() == VERSION:
        return
    warnings.simplefilter("ignore")  # casts of the reference overflow on purpose
    import onnx.backend.test
    from onnx.backend.test.case.model import collect_testcases as simple_cases
    from onnx.backend.test.case.node import collect_testcases as node_cases

    aside = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    for case in node_cases(None) + [c for c in simple_cases() if c.kind == "simple"]:
        if not (aside / case.kind / case.name).exists():
            write(case, aside / case.kind / case.name)
    shipped = pathlib.Path(onnx.backend.test.__file__).parent / "data"
    for kind in ("simple", "pytorch-operator", "pytorch-converted"):
        shutil.copytree(shipped / kind, aside / kind, dirs_exist_ok=True)
    (aside / "version").write_text(VERSION)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


if __name__ == "__main__":
    main()
