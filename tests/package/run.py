# SPDX-License-Identifier: Apache-2.0
"""What users get: an installed tree that a project of theirs finds, and a Debian package with the right contents.

QTOOL_BUILD names the build folder (default build/release). Prints `ok NAME` or `not ok NAME: why`, then the counts.
"""
import gzip
import os
import pathlib
import re
import subprocess
import shutil
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("QTOOL_BUILD", ROOT / "build" / "release")).resolve()
MODEL = ROOT / "samples/models/digits_cnn.onnx"
DATA = ROOT / "samples/data/digits_calib.npz"

PROJECT = """
cmake_minimum_required(VERSION 3.25)
project(user LANGUAGES C CXX)
set(CMAKE_CXX_STANDARD 20)
find_package(qtool 0.1 REQUIRED)
add_executable(library library.cpp)
target_link_libraries(library PRIVATE qtool::qtool)
add_executable(plain_c plain_c.c)
target_compile_options(plain_c PRIVATE -std=c99 -Wall -Wextra -Wpedantic -Werror)
target_link_libraries(plain_c PRIVATE qtool::qtool)
"""

# Every way to hold it wrong must come back as an error, not as a crash.
PLAIN_C = """
#include <qtool.h>
#include <stdio.h>
#include <string.h>
static int stop(void* user, const char* what, int64_t done, int64_t total) {
  (void)what; (void)done; (void)total;
  ++*(int*)user;
  return 1;
}
static int failed = 0;
static void expect(const char* name, int truth) {
  if (!truth) { printf("wrong: %s\\n", name); failed = 1; }
}
int main(int argc, char** argv) {
  qtool_error* error = NULL;
  qtool_options options = QTOOL_OPTIONS_INIT;
  qtool_model* model;
  int calls = 0;
  struct { qtool_options known; int later; } newer;
  if (argc != 4) return 2;
  expect("version", strcmp(qtool_version(), "0.1.0") == 0);
  expect("missing file", qtool_open("/nowhere/model.onnx", &error) == NULL);
  expect("code of missing file", qtool_error_code(error) != QTOOL_OK && qtool_error_code(error) != QTOOL_INTERNAL);
  expect("text of missing file", strstr(qtool_error_text(error), "/nowhere/model.onnx") != NULL);
  qtool_error_free(error);
  expect("NULL path", qtool_open(NULL, NULL) == NULL);
  model = qtool_open(argv[1], &error);
  if (!model) { printf("wrong: open: %s\\n", qtool_error_text(error)); return 1; }
  expect("no error after success", error == NULL && qtool_error_code(error) == QTOOL_OK);
  expect("one input", qtool_model_input_count(model) == 1 && strcmp(qtool_model_input(model, 0), "image") == 0);
  expect("past the end", qtool_model_input(model, 1) == NULL);
  options.calib = argv[2];
  options.output = argv[3];
  expect("unknown recipe", qtool_quantize(model, "no_such_recipe", &options, NULL, NULL, &error) == NULL);
  expect("code of unknown recipe", qtool_error_code(error) == QTOOL_USAGE);
  qtool_error_free(error);
  memset(&newer, 0, sizeof newer);
  newer.known = options;
  newer.known.size = sizeof newer;
  newer.later = 1;
  expect("field of the future", qtool_quantize(model, "int8_static", &newer.known, NULL, NULL, &error) == NULL);
  expect("code of field of the future", qtool_error_code(error) == QTOOL_USAGE);
  qtool_error_free(error);
  expect("stopped", qtool_quantize(model, "int8_static", &options, stop, &calls, &error) == NULL);
  expect("code of stopped", qtool_error_code(error) == QTOOL_INTERRUPTED);
  expect("called once", calls == 1);
  qtool_error_free(error);
  qtool_close(model);
  qtool_close(NULL);
  qtool_result_free(NULL);
  qtool_error_free(NULL);
  return failed;
}
"""

counts = {"passed": 0, "failed": 0, "skipped": 0}


def check(name, truth, why=""):
    counts["passed" if truth else "failed"] += 1
    print(f"ok {name}" if truth else f"not ok {name}: {why}".rstrip(": "))
    sys.stdout.flush()
    return truth


def run(*command, cwd=None):
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, errors="replace")
    return done.returncode, done.stdout + done.stderr


def missing(files, patterns):
    return [p for p in patterns if not any(re.fullmatch(p, f) for f in files)]


LIB = r"lib(/[\w-]+)?"
CONTENTS = [
    r"bin/qtool", r"include/qtool\.h", LIB + r"/libqtool\.so", LIB + r"/libqtool\.so\.0", LIB + r"/libqtool\.so\.0\.\d+\.\d+",
    LIB + r"/cmake/qtool/qtoolConfig\.cmake", LIB + r"/cmake/qtool/qtoolConfigVersion\.cmake",
    r"share/qtool/recipes/int8_static\.yaml", r"share/man/man1/qtool\.1\.gz",
    r"share/bash-completion/completions/qtool", r"share/zsh/(site-functions|vendor-completions)/_qtool",
    r"share/fish/vendor_completions\.d/qtool\.fish", r"share/doc/qtool/LICENSE", r"share/doc/qtool/NOTICE",
    r"share/doc/qtool/copyright", r"share/doc/qtool/changelog\.gz", r"share/doc/qtool/passes\.md",
    r"share/doc/qtool/recipes\.md", r"share/doc/qtool/exit-codes/75\.md", r"share/doc/qtool/targets/ort-cpu\.md",
]


def man_page(prefix):
    path = prefix / "share/man/man1/qtool.1.gz"
    page = gzip.decompress(path.read_bytes()).decode()
    check("man page", page.startswith(".TH QTOOL 1") and all(s in page for s in (".SH NAME", ".SH EXIT", "quantize")))
    if not shutil.which("groff"):
        counts["skipped"] += 1
        print("SKIPPED: man page: groff is not installed")
        return
    done = subprocess.run(["groff", "-man", "-ww", "-Tutf8", "-rLL=80n"], input=page, capture_output=True, text=True)
    check("man page: no warnings of groff", done.returncode == 0 and not done.stderr, done.stderr)


def install(prefix):
    code, text = run("cmake", "--install", BUILD, "--prefix", prefix)
    if not check("install", code == 0, text):
        return False
    files = [str(p.relative_to(prefix)) for p in prefix.rglob("*") if not p.is_dir()]
    absent = missing(files, CONTENTS)
    if not check("installed files", not absent, f"missing {absent}"):
        return False
    code, text = run(prefix / "bin/qtool", "--version")
    check("installed program runs", code == 0 and "0.1.0" in text, text)
    man_page(prefix)
    for path in ("share/bash-completion/completions/qtool", "share/fish/vendor_completions.d/qtool.fish",
                 "share/zsh/site-functions/_qtool"):
        check(path, "quantize" in (prefix / path).read_text())
    return True


def shell_syntax(prefix):
    """Completions parse in their own shell, where it is installed."""
    for shell, path in (("bash", "share/bash-completion/completions/qtool"),
                        ("zsh", "share/zsh/site-functions/_qtool"),
                        ("fish", "share/fish/vendor_completions.d/qtool.fish")):
        if not shutil.which(shell):
            counts["skipped"] += 1
            print(f"SKIPPED: completion for {shell}: {shell} is not installed")
            continue
        code, text = run(shell, "-n", prefix / path)
        check(f"completion for {shell} parses", code == 0, text)


def exports(prefix):
    library = next(prefix.glob("lib/**/libqtool.so.0"))
    code, text = run("nm", "-D", "--defined-only", library)
    names = [line.split()[-1].split("@")[0] for line in text.splitlines()]
    strangers = [n for n in names if not n.startswith("qtool_") and n != "QTOOL_0"]
    header = set(re.findall(r"\b(qtool_\w+)\(", re.sub(r"/\*.*?\*/", "", (prefix / "include/qtool.h").read_text(), flags=re.S)))
    check("only qtool_* is exported", code == 0 and names and not strangers, str(strangers[:5]))
    check("the header declares what is exported", header == {n for n in names if n != "QTOOL_0"},
          str(header ^ set(names)))


def user_project(prefix, scratch):
    project = scratch / "user"
    project.mkdir()
    (project / "CMakeLists.txt").write_text(PROJECT)
    (project / "plain_c.c").write_text(PLAIN_C)
    shutil.copy(ROOT / "samples/library.cpp", project)
    # A library with sanitizers wants programs with them.
    flags = re.search(r"^CMAKE_CXX_FLAGS:STRING=(.*)$", (BUILD / "CMakeCache.txt").read_text(), re.M)[1]
    code, text = run("cmake", "-S", project, "-B", project / "build", f"-DCMAKE_PREFIX_PATH={prefix}",
                     f"-DCMAKE_C_FLAGS={flags}", f"-DCMAKE_CXX_FLAGS={flags}")
    if not check("find_package(qtool)", code == 0, text):
        return
    code, text = run("cmake", "--build", project / "build")
    if not check("a user's project builds", code == 0, text):
        return
    output = scratch / "int8.onnx"
    code, text = run(project / "build/library", MODEL, "int8_static", DATA, output)
    sizes = re.search(r": (\d+) -> (\d+) bytes, SQNR ([\d.]+) dB", text)
    check("library sample quantizes", code == 0 and output.exists() and sizes, text)
    if sizes:
        check("library sample: smaller by half", int(sizes[2]) == output.stat().st_size < int(sizes[1]) / 2, text)
        check("library sample: at least 10 dB", float(sizes[3]) > 10, text)
        check("library sample: progress was shown", re.search(r"progress calls: [1-9]", text), text)
    stopped = scratch / "stopped.onnx"
    code, text = run(project / "build/plain_c", MODEL, DATA, stopped)
    check("errors and cancelling from C", code == 0 and not text, text)
    check("cancelled: nothing written", not stopped.exists())
    code, text = run(project / "build/library", MODEL, "no_such_recipe", DATA, scratch / "none.onnx")
    check("library sample: exit code of a wrong recipe", code == 2 and "no_such_recipe" in text, f"{code} {text}")


def debian_package(scratch):
    if not shutil.which("dpkg-deb") or not shutil.which("dpkg-shlibdeps"):
        counts["skipped"] += 1
        print("SKIPPED: Debian package: dpkg-dev is not installed")
        return
    code, text = run("cpack", "--config", BUILD / "CPackConfig.cmake", "-B", scratch / "deb", cwd=scratch)
    packages = list((scratch / "deb").glob("qtool_*.deb"))
    if not check("cpack", code == 0 and len(packages) == 1, text):
        return
    code, text = run("dpkg-deb", "--fsys-tarfile", packages[0])
    _, listing = run("dpkg-deb", "-c", packages[0])
    files = [line.split(" ./usr/", 1)[1].split(" -> ")[0] for line in listing.splitlines() if " ./usr/" in line]
    absent = missing(files, CONTENTS)
    check("package contents", not absent, f"missing {absent}")
    owners = {line.split()[1] for line in listing.splitlines()}
    check("package: owned by root", owners == {"root/root"}, str(owners))
    check("package: zsh completion where Debian looks", "share/zsh/vendor-completions/_qtool" in files)
    _, control = run("dpkg-deb", "-f", packages[0])
    fields = dict(re.findall(r"^([\w-]+): (.*)$", control, re.M))
    check("package: name", fields.get("Package") == "qtool")
    wanted = ("libc6", "libstdc++6", "libprotobuf", "libonnx", "libyaml-cpp", "libopenblas0", "libpng", "libjpeg")
    lacking = [w for w in wanted if w not in fields.get("Depends", "")]
    check("package: depends on what it links and opens", not lacking, f"lacks {lacking}: {fields.get('Depends')}")
    synopsis = fields.get("Description", "")
    check("package: synopsis", 20 < len(synopsis) < 80 and not synopsis.lower().startswith(("a ", "the ", "qtool")), synopsis)
    unpacked = scratch / "unpacked"
    run("dpkg-deb", "-x", packages[0], unpacked)
    code, text = run(unpacked / "usr/bin/qtool", "--version")
    check("package: program runs", code == 0 and "0.1.0" in text, text)
    blob = (unpacked / "usr/bin/qtool").read_bytes()
    check("package: no build folder in the program", str(ROOT).encode() not in blob)


def main():
    with tempfile.TemporaryDirectory(prefix="qtool-package-") as folder:
        scratch = pathlib.Path(folder)
        prefix = scratch / "prefix"
        if install(prefix):
            shell_syntax(prefix)
            exports(prefix)
            user_project(prefix, scratch)
        debian_package(scratch)
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**counts))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
