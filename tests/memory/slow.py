# SPDX-License-Identifier: Apache-2.0
"""The memory ceiling: a model four times as large is quantized under a hard limit of ceiling + 10 %, to the same bytes
as without a limit, in at most 2.5 times the time; what cannot fit is refused within 2 s with a ceiling that can.

The limit is that of a control group (memory.max or memory.limit_in_bytes, page cache included), else RLIMIT_DATA.
Prints `ok NAME` or `not ok NAME: why`, then the counts.
"""
import hashlib
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/bench"))
import large_model

QTOOL = pathlib.Path(os.environ.get("QTOOL", ROOT / "build/release/qtool"))
CEILING = 256 << 20
WIDTH, LAYERS = 2048, 64  # 1 GiB of weights


class Group:
    """A control group with a memory limit that processes can be put into."""

    def __init__(self, limit):
        self.path = None
        for parent, name in ((pathlib.Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (pathlib.Path("/sys/fs/cgroup"), "memory.max")):
            path = parent / f"qtool-test-{os.getpid()}"
            try:
                path.mkdir()
                (path / name).write_text(str(limit))
                self.path = path
                return
            except OSError:
                if path.is_dir():
                    path.rmdir()

    def enter(self):
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def close(self):
        if self.path:
            self.path.rmdir()


def run(command, limit=None):
    """Exit code, seconds, text."""
    group = Group(limit) if limit else None
    if group and not group.path:
        prepare = lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    else:
        prepare = group.enter if group else None
    start = time.monotonic()
    done = subprocess.run([str(c) for c in command], preexec_fn=prepare, capture_output=True, text=True)
    seconds = time.monotonic() - start
    if group:
        group.close()
    return done.returncode, seconds, done.stdout + done.stderr


def own_memory(command):
    """Exit code, the most anonymous memory that was seen, text."""
    job = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak = 0
    while job.poll() is None:
        try:
            status = pathlib.Path(f"/proc/{job.pid}/status").read_text()
        except OSError:
            break
        found = re.search(r"RssAnon:\s+(\d+) kB", status)
        peak = max(peak, int(found[1]) * 1024 if found else 0)
        time.sleep(0.005)
    text = job.communicate()[0]
    return job.returncode, peak, text


def write_model(path, external):
    large_model.build(path, LAYERS, WIDTH, external)
    data = path.parent / "x.npz"
    np.savez(data, x0=np.random.default_rng(0).standard_normal((128, WIDTH)).astype(np.float32))
    return data


def digest(path):
    hasher = hashlib.sha256()
    for part in sorted([path, *path.parent.glob(path.name + ".*.data")]):
        hasher.update(part.read_bytes())
    return hasher.hexdigest()


def check(folder, external, recipe):
    model, output = folder / "model.onnx", folder / "out.onnx"
    data = write_model(model, external)
    command = [QTOOL, "quantize", model, "--recipe", recipe, "-o", output, "--quiet"]
    command += ["--calib", data] if recipe == "int8_static" else []
    run(command)  # the file is in the page cache for both
    code, free, text = run(command)
    if code:
        raise RuntimeError(f"without a limit: exit {code}: {text}")
    expected = digest(output)
    output.unlink()
    code, held, text = run([*command, "--max-ram", CEILING], CEILING * 11 // 10)
    if code:
        raise RuntimeError(f"under the limit: exit {code}: {text}")
    if digest(output) != expected:
        raise RuntimeError("other bytes under the limit")
    print(f"   {recipe}: {free:.1f} s without a limit, {held:.1f} s with one ({held / free:.2f})")
    if held > 2.5 * free:
        raise RuntimeError(f"{held:.1f} s with a limit, {free:.1f} s without")


def check_solved(folder):
    """gptq: what solvers hold of a layer, Hessian and factors included, passes the ceiling and lies in files."""
    model, output, ceiling = folder / "model.onnx", folder / "out.onnx", 160 << 20
    large_model.build(model, 2, WIDTH, False)
    data = folder / "x.npz"
    np.savez(data, x0=np.random.default_rng(0).standard_normal((512, WIDTH)).astype(np.float32))
    command = [QTOOL, "quantize", model, "--recipe", "w4_gptq", "--calib", data, "-o", output, "--quiet", "--set", "gptq.search=false"]
    code, free, text = own_memory(command)
    if code:
        raise RuntimeError(f"without a limit: exit {code}: {text}")
    expected = digest(output)
    output.unlink()
    code, held, text = own_memory([*command, "--max-ram", ceiling])
    if code:
        raise RuntimeError(f"under the limit: exit {code}: {text}")
    if digest(output) != expected:
        raise RuntimeError("other bytes under the limit")
    print(f"   w4_gptq: {free / 2**20:.0f} MiB of its own memory without a limit, {held / 2**20:.0f} MiB with one of {ceiling >> 20} MiB")
    if held > ceiling * 12 // 10 or free < ceiling * 3 // 2:
        raise RuntimeError(f"{held / 2**20:.0f} MiB of its own memory under {ceiling >> 20} MiB, {free / 2**20:.0f} MiB without a limit")
    code, seconds, text = run([*command, "--max-ram", "16M"])
    if code != 4 or seconds > 2 or not re.search(r"--max-ram \d+M", text):
        raise RuntimeError(f"what cannot fit: exit {code} after {seconds:.1f} s: {text}")


def check_refusal(folder):
    model, output = folder / "model.onnx", folder / "out.onnx"
    data = write_model(model, False)
    command = [QTOOL, "quantize", model, "--recipe", "int8_static", "--calib", data, "-o", output, "--quiet", "--max-ram"]
    code, seconds, text = run([*command, "16M"])
    named = re.search(r"--max-ram (\d+)M", text)
    if code != 4 or seconds > 2 or not named or output.exists():
        raise RuntimeError(f"exit {code} after {seconds:.1f} s: {text}")
    print(f"   refused after {seconds:.2f} s; the ceiling that was named: {named[1]}M")
    code, seconds, text = run([*command, str(int(named[1]) - 1) + "M"])
    if code != 4 or f"--max-ram {named[1]}M" not in text:
        raise RuntimeError(f"a mebibyte below the ceiling that was named, {named[1]}M: exit {code}: {text}")
    # Clean pages of mapped files do not count, but a group of version 1 counts them: at so small a limit it would read the
    # model over and over. Its own memory is watched instead.
    code, peak, text = own_memory([*command, named[1] + "M"])
    if code:
        raise RuntimeError(f"with the ceiling that was named, {named[1]}M: exit {code}: {text}")
    print(f"   with the ceiling that was named its own memory came to {peak / 2**20:.1f} MiB")
    if peak > (int(named[1]) << 20) * 12 // 10:
        raise RuntimeError(f"{peak / 2**20:.1f} MiB of its own memory under a ceiling of {named[1]}M")


def main():
    checks = {f"four times the ceiling, {recipe}, weights {'beside' if external else 'in'} the file":
              (lambda folder, e=external, r=recipe: check(folder, e, r))
              for external in (True, False) for recipe in ("int8_static", "int8_weights")}
    checks["gptq under a ceiling below what a layer takes"] = check_solved
    checks["what cannot fit is refused with a ceiling that can"] = check_refusal
    failed = 0
    for name, run_check in checks.items():
        with tempfile.TemporaryDirectory(prefix="qtool-memory-", dir=ROOT / "build") as folder:
            try:
                run_check(pathlib.Path(folder))
                print(f"ok {name}", flush=True)
            except (RuntimeError, OSError) as error:
                failed += 1
                print(f"not ok {name}: {error}", flush=True)
    print(f"{len(checks) - failed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.pop("OPENBLAS_CORETYPE", None)
    sys.exit(main())
