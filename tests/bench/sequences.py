# SPDX-License-Identifier: Apache-2.0
"""Models for tests/bench/layers.py: calibration arrays as `--calib` takes them and held-out sequences. A sequence is a list
of steps (one for models that read a whole window at once), whose outputs named in `state` go on to inputs of the next."""
import dataclasses
import json
import struct

import numpy as np
import onnx
import onnxruntime

import datasets
from datasets import DATA


@dataclasses.dataclass
class Job:
    model: object
    calib: dict       # arrays by input name
    held: list        # sequences of steps, each the feeds of one run
    state: dict = dataclasses.field(default_factory=dict)  # output -> input
    head: str = "float"  # or "quantized": the last node with a weight
    labels: object = None  # of the held-out samples, for classifiers
    convolutions: bool = False
    target: str = "ort-cpu"  # or "onnx", which alone has small weights of convolutions and LSTM


def session(path, standard=False):
    """`standard`: node by node as the standard says; ONNX Runtime 1.31 fuses 2-bit weights wrongly where columns % 4 != 0."""
    options = onnxruntime.SessionOptions()
    if standard:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def outputs(path, job):
    """Of every step of every sequence the first output, one row per prediction."""
    run = session(path, job.target == "onnx")
    names = [o.name for o in run.get_outputs()]
    rows = []
    for steps in job.held:
        carried = {}
        for feeds in steps:
            found = run.run(None, feeds | carried)
            carried = {to: found[names.index(of)] for of, to in job.state.items()}
            scores = found[0]
            rows.append(scores.reshape(-1, max(scores.shape[1:]) if scores.ndim == 4 else scores.shape[-1]))
    return np.concatenate(rows)


def in_batches(ids, name, size=16):
    return [[{name: ids[i : i + size]}] for i in range(0, len(ids), size)]


def spread(ids, length, count):
    return np.stack([ids[i : i + length] for i in np.linspace(0, len(ids) - length, count).astype(int)])


def byte_llama():
    """64 windows of 128 bytes of the first 90 %; the first 512 windows of the last 10 %."""
    stem, name, calib, _, _ = datasets.byte_llama()
    text = np.frombuffer((DATA / "datasets/text/tinyshakespeare.txt").read_bytes(), np.uint8).astype(np.int64)
    held = text[len(text) * 9 // 10 :][: 512 * 128].reshape(-1, 128)
    return Job(DATA / "models" / (stem + ".onnx"), {name: calib}, in_batches(held, name))


def llama2_tokens(text):
    """Ids by a tokenizer.bin of llama2.c: of all neighbours that make a known piece the best goes first, word by word."""
    raw = (DATA / "models/lm/tok512.bin").read_bytes()
    pieces, scores, at = [], [], 4
    while at < len(raw):
        score, length = struct.unpack_from("fi", raw, at)
        scores.append(score)
        pieces.append(raw[at + 8 : at + 8 + length])
        at += 8 + length
    ids = {piece: i for i, piece in enumerate(pieces)}

    def word(letters):
        found = [i for c in letters for i in ([ids[c.encode()]] if c.encode() in ids else [b + 3 for b in c.encode()])]
        while True:
            pairs = [(scores[i], -k, i) for k, (a, b) in enumerate(zip(found, found[1:]))
                     if (i := ids.get(pieces[a] + pieces[b])) is not None]
            if not pairs:
                return found
            _, k, i = max(pairs)
            found[-k : -k + 2] = [i]

    known = {}
    for letters in set(text.split(" ")):
        known[letters] = word(" " + letters)
    return np.array([i for letters in text.split(" ") for i in known[letters]], np.int64)


def stories():
    """Stories of TinyStories, the first 90 % for calibration: 64 windows of 256 tokens; 64 of the rest, a BOS in front of each."""
    ids = llama2_tokens((DATA / "datasets/text/tinystories_excerpt_a.txt").read_text())
    cut = len(ids) * 9 // 10
    windows = lambda x: np.pad(spread(x, 255, 64), ((0, 0), (1, 0)), constant_values=1)
    return Job(DATA / "models/lm/stories260K_op14.onnx", {"input_ids": windows(ids[:cut])},
               in_batches(windows(ids[cut:]), "input_ids"))


def tokens(model, path):
    """A model with input_ids alone, and token ids [windows, length] as arrays "calib" and "eval" of an .npz."""
    ids = np.load(path)
    return Job(model, {"input_ids": ids["calib"]}, in_batches(ids["eval"], "input_ids"))


def char_rnn(stem, text):
    """64 windows of 128 characters from a state of zeros."""
    vocabulary = json.loads((DATA / f"models/lm/{stem.rsplit('_', 1)[0]}.vocab.json").read_text())
    ids = np.array([vocabulary[c] for c in (DATA / "datasets/text" / text).read_text() if c in vocabulary], np.int64)
    cut = len(ids) * 9 // 10
    zeros = np.zeros((2, 16, 128), np.float32)
    steps = lambda x: [{"char_ids": x[i : i + 16], "h0": zeros, "c0": zeros} for i in range(0, len(x), 16)]
    calib = steps(spread(ids[:cut], 128, 64))
    return Job(DATA / "models/lm" / (stem + ".onnx"), {n: np.stack([f[n] for f in calib]) for n in calib[0]},
               [[s] for s in steps(spread(ids[cut:], 128, 256))], head="quantized", target="onnx")


def charrnn_shakespeare():
    return char_rnn("charrnn_shakespeare_op13", "tinyshakespeare.txt")


def charrnn_bronte():
    return char_rnn("charrnn_bronte_op14", "wikitext2_valid.txt")


def rwkv():
    """64 windows of 128 bytes, one step each, from a state of zeros; for calibration the steps with the float model's state."""
    model = DATA / "models/lm/rwkv5.2_730K_step_op17.onnx"
    text = b"".join((DATA / "datasets/text" / t).read_bytes()[:400000] for t in ("tinystories_excerpt_a.txt", "tinyshakespeare.txt"))
    ids = np.frombuffer(text, np.uint8).astype(np.int64)
    tail = np.concatenate([ids[320000:400000], ids[720000:]])
    state = {"shift_state_out": "shift_state", "kv_state_out": "kv_state"}
    zeros = lambda n: {"shift_state": np.zeros((12, 2, n, 64), np.float32), "kv_state": np.zeros((12, n, 8, 8, 8), np.float32)}
    windows = spread(np.concatenate([ids[:320000], ids[400000:720000]]), 128, 64)
    run, carried, calib = session(model), zeros(64), []
    for t in range(128):
        calib.append({"token": windows[:, t]} | carried)
        carried = dict(zip(("shift_state", "kv_state"), run.run(["shift_state_out", "kv_state_out"], calib[-1])))
    held = spread(tail, 128, 128)
    sequence = [{"token": held[:, t]} for t in range(128)]
    sequence[0] |= zeros(128)
    return Job(model, {n: np.stack([f[n] for f in calib]) for n in calib[0]}, [sequence], state)


def pictures(name):
    """A classifier of tests/bench/datasets.py; convolutions, where it has any, have one scale per output channel."""
    model, calib, held, labels = datasets.job(name)
    convolutions = any(n.op_type == "Conv" for n in onnx.load(model).graph.node)
    return Job(model, {n: np.concatenate([f[n] for f in calib]) for n in calib[0]}, [[f] for f in held], head="quantized",
               labels=labels, convolutions=convolutions, target="onnx" if convolutions else "ort-cpu")


def job(name):
    return globals()[name]() if name in LANGUAGE else pictures(name)


LANGUAGE = ("byte_llama", "stories", "charrnn_shakespeare", "charrnn_bronte", "rwkv")
