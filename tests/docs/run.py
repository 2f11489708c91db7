# SPDX-License-Identifier: Apache-2.0
"""Runs what README.md and docs/ show, so that no page tells of a command that fails or of a message that nobody sees.

Every page has a scratch folder with samples/ in it and qtool on the PATH; its blocks run there in the order of the page:

```sh      commands. One that is to fail says so behind it: `# exits with 3`. Not run: samples/run and tests/run.
```text    behind such a block: what its commands printed, line after line; `...` stands for anything.
```yaml    a recipe or a part of one, for `qtool recipe check`. With `# NAME.yaml` as its first line it is also a file
           that later commands of the page can name.
```python  a program; skipped where onnxruntime or numpy is not installed.

An indented line that calls qtool is a failure: it would not be run. Prints `not ok PLACE: why` for what went wrong, then
the counts. QTOOL names the program (default: build/release/qtool).

    build/venv/bin/python tests/docs/run.py [PAGE ...]
"""
import concurrent.futures
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
QTOOL = pathlib.Path(os.environ.get("QTOOL", ROOT / "build" / "release" / "qtool")).resolve()
SETUP = ("samples/run", "tests/run")
SECONDS = 120  # for one command; the slowest takes one or two


class Page:
    """Blocks of one Markdown file, run in order. `results`: (place, what is wrong; empty: nothing; None: skipped)."""

    def __init__(self, path, folder):
        self.name = str(path.relative_to(ROOT))
        self.folder = folder
        self.results = []
        self.printed = None
        (folder / "samples").symlink_to(ROOT / "samples")
        self.environment = dict(os.environ, PATH=f"{QTOOL.parent}:{os.environ['PATH']}", XDG_CACHE_HOME=str(folder / "cache"))
        kind, block, start = None, [], 0
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.startswith("```"):
                if kind is None:
                    kind, block, start = line[3:].strip(), [], number
                    continue
                self.block(kind, block, start)
                kind = None
            elif kind is not None:
                block.append(line)
            elif re.match(r"( {4,}|\t)(build/\S*/)?qtool( |$)", line):
                self.tell(number, "a command in an indented block is not run; put it into a ```sh block")
            elif line.strip():
                self.printed = None  # text blocks speak of the commands right before them

    def tell(self, number, why=""):
        self.results.append((f"{self.name}:{number}", why))

    def block(self, kind, lines, start):
        run = {"sh": self.commands, "text": self.output, "yaml": self.recipe, "python": self.program}.get(kind)
        if run:
            run(lines, start)
        if kind != "sh":
            self.printed = None

    def call(self, command):
        """Exit code and everything that was printed."""
        try:
            done = subprocess.run(command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, errors="replace",
                                  timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return None, f"still running after {SECONDS} s"
        return done.returncode, done.stdout

    def commands(self, lines, start):
        self.printed = ""
        whole = ""
        for number, line in enumerate(lines, start + 1):
            whole += line
            if whole.endswith("\\"):
                whole = whole[:-1] + " "
                continue
            command, whole = whole.strip(), ""
            if not command or command.startswith("#") or command.split()[0] in SETUP:
                continue
            wanted = re.search(r"# exits with (\d+)", command)
            code, text = self.call(["bash", "-c", command])
            self.printed += text
            expected = int(wanted[1]) if wanted else 0
            self.tell(number, "" if code == expected else f"exit code {code}, not {expected}: {command}\n{text}")

    def output(self, lines, start):
        if self.printed is None:
            return self.tell(start, "a text block belongs right behind the commands that print it")
        at = 0
        for line in filter(str.strip, lines):
            pattern = ".*".join(re.escape(part) for part in line.strip().split("..."))
            found = re.compile(pattern).search(self.printed, at)
            if not found:
                return self.tell(start, f"was not printed: {line.strip()}\n{self.printed}")
            at = found.end()
        self.tell(start)

    def recipe(self, lines, start):
        name = re.fullmatch(r"# ([\w-]+\.yaml)", lines[0]) if lines else None
        path = self.folder / (name[1] if name else f"block_{start}.yaml")
        keys = set(re.findall(r"^(\w+):", "\n".join(lines), re.M))
        if lines and any(line.startswith("- ") for line in lines):  # steps alone
            lines = ["steps:"] + ["  " + line for line in lines]
            keys.add("steps")
        if "version" not in keys:
            lines = ["version: 1"] + (["target: ort-cpu"] if "target" not in keys else []) + lines
            lines += ["steps: [assign_formats, round_nearest]"] if "steps" not in keys else []
        path.write_text("\n".join(lines) + "\n")
        code, text = self.call([str(QTOOL), "recipe", "check", str(path)])
        self.tell(start, "" if code == 0 else text)

    def program(self, lines, start):
        if not all(importlib.util.find_spec(name) for name in ("onnxruntime", "numpy", "onnx")):
            return self.results.append((f"{self.name}:{start}", None))
        (self.folder / "program.py").write_text("\n".join(lines) + "\n")
        code, text = self.call([sys.executable, "program.py"])
        self.tell(start, "" if code == 0 else text)


def run_page(path):
    with tempfile.TemporaryDirectory(prefix="qtool-docs-") as folder:
        return Page(path, pathlib.Path(folder)).results


def main():
    pages = [ROOT / p for p in sys.argv[1:]] or [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        for place, why in (result for results in pool.map(run_page, pages) for result in results):
            counts["skipped" if why is None else "failed" if why else "passed"] += 1
            if why is None:
                print(f"SKIPPED: {place}: onnxruntime, onnx or numpy is not installed")
            elif why:
                print(f"not ok {place}: {why.rstrip()}")
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**counts))
    return 1 if counts["failed"] or not counts["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
