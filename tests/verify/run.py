# SPDX-License-Identifier: Apache-2.0
"""`qtool verify` finds nothing in a hundred clean files; what it finds in broken ones is in tests/backends."""
import pathlib
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import clean


def check(place, model, calib, target, recipe, settings, output):
    why = clean.quantized(model, calib, target, recipe, settings, output)
    if why:
        return place, f"{why[0]}: {why[1]}"
    return place, clean.verified(output, model, recipe, calib)


def main():
    with tempfile.TemporaryDirectory(prefix="qtool-verify-") as name:
        folder = pathlib.Path(name)
        jobs = []
        for model, data in clean.SAMPLES.items():
            for target, recipe, settings in clean.forms(folder):
                place = f"{model}, {pathlib.Path(recipe).stem} {' '.join(settings)} for {target}"
                jobs.append((place, clean.ROOT / f"samples/models/{model}.onnx", clean.ROOT / f"samples/data/{data}_calib.npz",
                             target, recipe, settings, folder / f"{len(jobs)}.onnx"))
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(lambda job: check(*job), jobs))
    failed = [(place, why) for place, why in results if why]
    for place, why in failed:
        print(f"not ok {place}: {why}")
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
