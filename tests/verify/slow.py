# SPDX-License-Identifier: Apache-2.0
"""The same on the real models beside the repository, calibrated on random data."""
import pathlib
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import clean


def check(model, job, output):
    target, recipe, settings = job
    place = f"{model.stem}, {pathlib.Path(recipe).stem} {' '.join(settings)} for {target}"
    why = clean.quantized(model, "random", target, recipe, settings + ["data.samples=2"], output)
    if why:  # a model that qtool refuses is the business of other tests; one that fails its own check is not
        return place, None if why[0] in (5, 7) else f"{why[0]}: {why[1]}"
    found = clean.verified(output, model, recipe, "random")
    for written in output.parent.glob(output.stem + "*"):
        written.unlink()
    return place, found


def main():
    models = sorted((clean.DATA / "models").glob("*/*.onnx")) if clean.DATA.exists() else []
    if not models:
        print("SKIPPED: verify on real models: no real models on this machine\n0 passed, 0 failed, 1 skipped")
        return 0
    with tempfile.TemporaryDirectory(prefix="qtool-verify-") as name:
        folder = pathlib.Path(name)
        jobs = [(model, job) for model in models for job in clean.forms(folder)]
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(lambda i: check(*jobs[i], folder / f"{i}.onnx"), range(len(jobs))))
    failed = [(place, why) for place, why in results if why]
    for place, why in failed:
        print(f"not ok {place}: {why}")
    refused = sum(why is None for _, why in results)
    print(f"{len(results) - len(failed) - refused} passed, {len(failed)} failed, {refused} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
