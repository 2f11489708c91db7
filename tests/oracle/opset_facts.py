# SPDX-License-Identifier: Apache-2.0
"""Writes formats/file/opset_facts.inc: the standard operators' signatures from operator set 7 to 28.

Usage: opset_facts.py > formats/file/opset_facts.inc     (package onnx 1.23 or newer)
"""
import collections
import re

import onnx
from onnx import defs, helper

FIRST, LAST = 7, 28
WORDS = ["float", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool", "float16", "double", "uint32",
         "uint64", "complex64", "complex128", "bfloat16", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2",
         "float8e5m2fnuz", "uint4", "int4", "float4e2m1", "float8e8m0", "uint2", "int2", "float6e2m3", "float6e3m2"]
OTHER = 1 << 31  # sequences, optionals, maps


def mask(schema, formal):
    types = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}.get(formal.type_str, [formal.type_str])
    bits = 0
    for text in types:
        found = re.fullmatch(r"tensor\((\w+)\)", text)
        bits |= 1 << WORDS.index(found[1]) if found else OTHER
    return f"{bits:x}"


def attribute(name, a):
    if a.required:
        return name + "!"
    if not (a.default_value and a.default_value.type):
        return name
    value = helper.get_attribute_value(a.default_value)
    if isinstance(value, bytes):
        return f"{name}=s{value.decode()}"
    if isinstance(value, list):
        return name  # never new in a version with a default; nothing compares it
    return f"{name}=i{value}" if isinstance(value, int) else f"{name}=f{value!r}"


by_name = collections.defaultdict(dict)
for s in defs.get_all_schemas_with_history():
    if s.domain == "" and s.since_version <= LAST:
        by_name[s.name][s.since_version] = s

print("// SPDX-License-Identifier: Apache-2.0")
print(f"// Written by tests/oracle/opset_facts.py from the operator schemas of onnx {onnx.__version__}; do not edit.")
print("// name, since, deprecated, least and most inputs, most outputs, attributes, types of inputs, types of outputs.")
print("// Attributes: `!` required; `=` default of kind i, f, s. Types: masks, bit n is TensorProto.DataType n + 1,")
print("// bit 31 anything that is no tensor; the last mask repeats.")
print("// clang-format off")
for name in sorted(by_name):
    versions = sorted(by_name[name])
    older = [v for v in versions if v <= FIRST]
    for v in older[-1:] + [v for v in versions if v > FIRST]:
        s = by_name[name][v]
        attrs = " ".join(attribute(k, a) for k, a in sorted(s.attributes.items()))
        ins = " ".join(mask(s, f) for f in s.inputs)
        outs = " ".join(mask(s, f) for f in s.outputs)
        print(f'QTOOL_OPSET({name}, {v}, {str(s.deprecated).lower()}, {s.min_input}, {s.max_input}, {s.max_output}, '
              f'"{attrs}", "{ins}", "{outs}")')
