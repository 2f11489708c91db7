# SPDX-License-Identifier: Apache-2.0
"""Damage done to ONNX files: as bytes, and as fields of the message so that the damage gets past the parser."""
import random

import onnx
from google.protobuf.descriptor import FieldDescriptor as F

INTEGERS = [0, 1, 2, 3, -1, -2, 7, 64, 255, 256, 4096, 65536, 2**24, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1,
            -2**31, -2**63]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-45, 3e38, -3e38, float("inf"), float("-inf"), float("nan")]
WHOLE = {F.TYPE_INT32, F.TYPE_INT64, F.TYPE_UINT32, F.TYPE_UINT64, F.TYPE_ENUM}
BITS = {F.TYPE_INT32: (-2**31, 2**31), F.TYPE_INT64: (-2**63, 2**63), F.TYPE_UINT32: (0, 2**32), F.TYPE_UINT64: (0, 2**64),
        F.TYPE_ENUM: (0, 64)}


def flip_bits(data, rng):
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(out)) if rng.random() < 0.5 else rng.randrange(min(len(out), 400))
        out[at] ^= 1 << rng.randrange(8)
    return bytes(out)


def cut(data, rng):
    return data[:rng.randrange(len(data))]


def swap_chunks(data, rng):
    size = rng.choice((1, 4, 16, 256))
    a, b = sorted(rng.randrange(max(1, len(data) - size)) for _ in range(2))
    return data[:a] + data[b:b + size] + data[a + size:b] + data[a:a + size] + data[b + size:]


def messages(message, found):
    """The message and all inside it."""
    found.append(message)
    for field, value in message.ListFields():
        if field.type == F.TYPE_MESSAGE:
            for child in value if hasattr(value, "add") else [value]:
                messages(child, found)
    return found


def new_scalar(field, old, rng, words):
    if field.type in WHOLE:
        low, high = BITS[field.type]
        value = rng.choice(INTEGERS) if rng.random() < 0.6 else int(old) + rng.choice((-2, -1, 1, 2))
        return min(max(value, low), high - 1)
    if field.type in (F.TYPE_FLOAT, F.TYPE_DOUBLE):
        return rng.choice(FLOATS)
    if field.type == F.TYPE_BYTES:
        text = rng.choice((b"", b"NOTSET", b"SAME_UPPER", b"reflect", b"linear", b"\xff\0", flip_bits(old, rng) if old else b"x"))
        return text if len(old) < 64 or rng.random() < 0.5 else old[:rng.randrange(len(old))]
    return rng.choice((*rng.sample(words, min(3, len(words))), "", old + "x"))


def change_field(message, rng, words):
    """One field of one message: another value, gone, doubled, moved."""
    fields = message.ListFields()
    absent = [f for f in message.DESCRIPTOR.fields if f.name not in {g.name for g, _ in fields} and f.type != F.TYPE_MESSAGE]
    if absent and (not fields or rng.random() < 0.1):
        field = rng.choice(absent)
        empty = b"" if field.type == F.TYPE_BYTES else "" if field.type == F.TYPE_STRING else 0
        value = new_scalar(field, empty, rng, words)
        if hasattr(getattr(message, field.name), "append"):
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
        return
    if not fields:
        return
    field, value = rng.choice(fields)
    if hasattr(value, "__len__") and not isinstance(value, (str, bytes)):
        i = rng.randrange(len(value))
        kind = rng.randrange(4)
        if kind == 0:
            del value[i]
        elif kind == 1:
            value.append(value[i])
        elif kind == 2:
            j = rng.randrange(len(value))
            if hasattr(value, "add"):
                first, second = type(value[i])(), type(value[j])()
                first.CopyFrom(value[i])
                second.CopyFrom(value[j])
                value[i].CopyFrom(second)
                value[j].CopyFrom(first)
            else:
                value[i], value[j] = value[j], value[i]
        elif not hasattr(value, "add"):
            value[i] = new_scalar(field, value[i], rng, words)
    elif field.type == F.TYPE_MESSAGE:
        message.ClearField(field.name)
    elif rng.random() < 0.15:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, new_scalar(field, value, rng, words))


def change_fields(data, rng):
    """One to three fields; small messages (attributes, shapes, nodes) are as likely as large ones."""
    model = onnx.ModelProto.FromString(data)
    everything = messages(model, [])
    by_kind = {}
    for message in everything:
        by_kind.setdefault(message.DESCRIPTOR.name, []).append(message)
    words = sorted({n.op_type for n in by_kind.get("NodeProto", [])} | {v for n in by_kind.get("NodeProto", []) for v in n.input} |
                   {a.name for a in by_kind.get("AttributeProto", [])})
    kinds = sorted(by_kind, key=lambda k: (k in ("ModelProto", "StringStringEntryProto"), k))
    weights = [8 if k in ("NodeProto", "AttributeProto", "TensorProto") else 1 if k.startswith(("Model", "String")) else 3 for k in kinds]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        message = rng.choice(by_kind[rng.choices(kinds, weights)[0]])
        try:
            change_field(message, rng, words or ["x"])
        except (ValueError, TypeError, UnicodeError):  # a value that this field cannot hold
            pass
    return model.SerializeToString()


KINDS = {"bits": (flip_bits, 2), "cut": (cut, 1), "chunks": (swap_chunks, 1), "fields": (change_fields, 6)}


def mutant(data, seed):
    """(kind, damaged bytes), the same for the same seed."""
    rng = random.Random(seed)
    kind = rng.choices(list(KINDS), [weight for _, weight in KINDS.values()])[0]
    return kind, KINDS[kind][0](data, rng)
