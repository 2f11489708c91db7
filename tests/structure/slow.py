# SPDX-License-Identifier: Apache-2.0
"""clang-tidy over the sources of the program, with the flags of the build in QTOOL_BUILD (default build/release).

One `ok FILE` or `not ok FILE` with the findings per file, then the counts. Takes a few seconds per file and core.
"""
import concurrent.futures
import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("QTOOL_BUILD", ROOT / "build" / "release")).resolve()
FOLDERS = ("formats", "recipes", "calib", "passes", "backends", "cli")


def sources():
    for entry in json.loads((BUILD / "compile_commands.json").read_text()):
        path = pathlib.Path(entry["file"]).resolve()
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in FOLDERS:
            yield str(path.relative_to(ROOT))


def tidy(path):
    done = subprocess.run(["clang-tidy", "-p", BUILD, "--quiet", path], cwd=ROOT, capture_output=True, text=True)
    return path, done.returncode, done.stdout


def main():
    if not shutil.which("clang-tidy"):
        print("SKIPPED: clang-tidy: not installed")
        print("0 passed, 0 failed, 1 skipped")
        return 0
    passed = failed = 0
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for path, code, text in pool.map(tidy, sorted(set(sources()))):
            passed += code == 0
            failed += code != 0
            print(f"ok {path}" if code == 0 else f"not ok {path}\n{text}")
            sys.stdout.flush()
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
