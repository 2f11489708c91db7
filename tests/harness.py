# SPDX-License-Identifier: Apache-2.0
"""Runs every suite and adds up. A suite is a program; what it prints tells its counts:

doctest programs   "[doctest] test cases: 3 | 3 passed | 0 failed | 0 skipped", plus a line "SKIPPED: what: why" each
others             a last line "N passed, N failed, N skipped"

A suite that ends badly without such a line counts as one failure. The output of a failed suite is shown whole.
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCTEST = re.compile(r"\[doctest\] test cases:\s*\d+\s*\|\s*(\d+) passed\s*\|\s*(\d+) failed\s*\|\s*(\d+) skipped")
PLAIN = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", re.M)


def suites(build: pathlib.Path, slow: bool):
    """Name -> command. Programs first, then the scripts that use them."""
    found = {}
    for program in sorted((build / "tests").glob("qtool_*_test")):
        found[program.name.removeprefix("qtool_").removesuffix("_test")] = [str(program)]
    for script in sorted((ROOT / "tests").glob("*/run.py")):
        if script.parent.name not in ("oracle", "bench"):
            found[script.parent.name] = [sys.executable, str(script)]
    if slow:
        for script in sorted((ROOT / "tests").glob("*/slow.py")):
            found[script.parent.name + "-slow"] = [sys.executable, str(script)]
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build" / "release")
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    build = args.build.resolve()

    chosen = {name: command for name, command in suites(build, args.slow).items() if not args.only or name in args.only}
    if args.list:
        print("\n".join(chosen))
        return 0
    environment = dict(os.environ, QTOOL_BUILD=str(build), QTOOL=str(build / "qtool"), PYTHONDONTWRITEBYTECODE="1")
    environment["QTOOL_SLOW"] = "1" if args.slow else ""
    total = [0, 0, 0]
    for name, command in chosen.items():
        start = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace")
        text = done.stdout + done.stderr
        skips = re.findall(r"^SKIPPED: .*$", text, re.M)
        if match := DOCTEST.search(text):
            counts = [int(match[1]), int(match[2]), len(skips)]
        elif matches := PLAIN.findall(text):
            counts = [int(n) for n in matches[-1]]
        else:
            counts = [0, 1, 0]
        if done.returncode != 0 and counts[1] == 0:
            counts[1] = 1
        total = [a + b for a, b in zip(total, counts)]
        print(f"{name}: {counts[0]} passed, {counts[1]} failed, {counts[2]} skipped ({time.monotonic() - start:.1f} s)")
        for line in sorted(set(skips)):
            print("  " + line)
        if counts[1]:
            print(text)
        sys.stdout.flush()
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped")
    return 1 if total[1] or not total[0] else 0


if __name__ == "__main__":
    sys.exit(main())
