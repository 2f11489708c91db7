# SPDX-License-Identifier: Apache-2.0
"""Gradients by PyTorch's autograd, one .npz per case in tests/golden/torch/gradients: the ONNX text of a graph, its
inputs, the seed (gradient at the output y) and the gradients at the inputs."""
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

OUT = pathlib.Path(__file__).resolve().parents[1] / "golden" / "torch" / "gradients"
OUT.mkdir(parents=True, exist_ok=True)
HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


def shape(a):
    return "float[" + ",".join(str(d) for d in a.shape) + "]"


def case(name, body, function, **inputs):
    tensors = {n: torch.from_numpy(a).requires_grad_() for n, a in inputs.items()}
    y = function(**tensors)
    seed = torch.from_numpy(np.random.default_rng(len(name)).standard_normal(tuple(y.shape)).astype(np.float32))
    y.backward(seed)
    signature = ", ".join(f"{shape(a)} {n}" for n, a in inputs.items())
    text = f"{HEAD}g ({signature}) => ({shape(seed)} y) {{\n{body}\n}}\n"
    np.savez_compressed(OUT / f"{name}.npz", text=np.frombuffer(text.encode(), np.uint8), seed=seed.numpy(),
                        y=y.detach().numpy(), **{f"in.{n}": a for n, a in inputs.items()},
                        **{f"grad.{n}": t.grad.numpy() for n, t in tensors.items()})


rng = np.random.default_rng(3)
r = lambda *s: rng.standard_normal(s).astype(np.float32)
case("matmul_broadcast", "y = MatMul(a, b)", lambda a, b: a @ b, a=r(2, 3, 4), b=r(4, 5))
case("gemm_transposed", "y = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(a, b, c)", lambda a, b, c: 0.5 * a @ b.T + 2 * c,
     a=r(3, 4), b=r(5, 4), c=r(5))
case("softmax", "y = Softmax<axis = 1>(x)", lambda x: F.softmax(x, 1), x=r(3, 4, 2))
case("log_softmax", "y = LogSoftmax<axis = -1>(x)", lambda x: F.log_softmax(x, -1), x=r(3, 5))
case("layer_norm", "y = LayerNormalization<axis = -1, epsilon = 1e-5>(x, w, b)",
     lambda x, w, b: F.layer_norm(x, (6,), w, b, 1e-5), x=r(3, 6), w=r(6), b=r(6))
case("gelu_erf", "h = Constant<value_float = 0.5>()\none = Constant<value_float = 1.0>()\n"
     "s = Constant<value_float = 1.4142135>()\nd = Div(x, s)\ne = Erf(d)\np = Add(e, one)\nm = Mul(x, p)\ny = Mul(m, h)",
     lambda x: F.gelu(x), x=r(4, 5))
case("mean_square", "m = ReduceMean<axes = [1], keepdims = 1>(x)\nd = Sub(x, m)\ny = Mul(d, d)",
     lambda x: (x - x.mean(1, keepdim=True)) ** 2, x=r(3, 5))
case("silu", "s = Sigmoid(x)\ny = Mul(x, s)", lambda x: F.silu(x), x=r(3, 4))
case("shape_chain", "t = Transpose<perm = [1, 0, 2]>(x)\ns = Constant<value_ints = [3, 8]>()\nf = Reshape(t, s)\n"
     "y = Tanh(f)", lambda x: torch.tanh(x.permute(1, 0, 2).reshape(3, 8)), x=r(2, 3, 4))
case("residual_reuse", "a = Exp(x)\nb = Mul(a, x)\nc = Add(a, b)\ny = ReduceSum<keepdims = 1>(c)",
     lambda x: (x.exp() * x + x.exp()).sum().reshape(1, 1), x=r(3, 4))
print(f"gradients: {len(list(OUT.glob('*.npz')))} cases, torch {torch.__version__}")
