#!/usr/bin/env python3
"""Times EASE against the bare inverse that it needs, and the metrics against a NumPy loop.

Installs NumPy and SciPy from PyPI into a folder of its own. Trains EASE on MovieLens 1M and on
made-up events of many items, truncated and with all of its matrix (rank=0), and compares with
LAPACK's Cholesky inverse of a matrix of that size. NDCG@100 and Recall@20 on up to 5,000 of the
training users, a fifth of their items to be found, are computed by `nearline-train evaluate`, from
the trained weights to the means, and by a loop over the users.

    tests/bench/numpy_baseline.py DATA/ml-1m/strong-gen build/release/bin/nearline-train
        [--items 20000] [--threads 1] [--rounds 3] [--venv build/numpy]
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import venv


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("binary")
    parser.add_argument("--items", type=int, default=20000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--venv", type=pathlib.Path, default=pathlib.Path("build/numpy"))
    return parser.parse_args()


def with_numpy(options):
    """Runs this script again in an environment that has NumPy, on as many threads."""
    python = options.venv / "bin/python3"
    if pathlib.Path(sys.prefix).resolve() == options.venv.resolve():
        return
    if not python.exists():
        print(f"setting up NumPy in {options.venv}", file=sys.stderr)
        venv.create(options.venv, with_pip=True)
    if subprocess.run([python, "-c", "import scipy"], capture_output=True).returncode != 0:
        subprocess.run([python, "-m", "pip", "install", "--quiet", "numpy", "scipy"], check=True)
    os.environ["OPENBLAS_NUM_THREADS"] = str(options.threads)
    os.execv(python, [str(python), *sys.argv])


def nearline(options, settings, files, save=()):
    """The report of EASE."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        subprocess.run([options.binary, "evaluate", "ease", *files, "--report", report.name,
                        "--threads", str(options.threads), *save,
                        *(word for setting in settings for word in ("--set", setting))],
                       check=True, capture_output=True)
        return json.load(open(report.name))


def bare_inverse(np, items):
    from scipy.linalg import lapack
    matrix = np.random.default_rng(1).standard_normal((items, 64), dtype=np.float32)
    matrix = np.asfortranarray(matrix @ matrix.T)
    matrix[np.diag_indices(items)] += 100
    start = time.perf_counter()
    factor, _ = lapack.spotrf(matrix, overwrite_a=1)
    lapack.spotri(factor, overwrite_c=1)
    return time.perf_counter() - start


def made_up_events(np, items):
    """As many users as items, of 30 events each, some items much more popular than others."""
    random = np.random.default_rng(2)
    drawn = (items * random.random((items, 30)) ** 2).astype(int)
    drawn[:, 0] = np.arange(items)  # each item once
    return [f"{user}\t{item}\n" for user, row in enumerate(drawn) for item in set(row.tolist())]


def every_fifth_to_be_found(lines, out, most=5000):
    """Writes train, known and wanted, of so many users, and returns the options that name them."""
    users = set(list(dict.fromkeys(line.split()[0] for line in lines))[:most])
    (out / "train").write_text("".join(lines))
    for name, found in (("known", False), ("wanted", True)):
        (out / name).write_text("".join(
            line for i, line in enumerate(lines)
            if (i % 5 == 0) == found and line.split()[0] in users))
    return ["--protocol", "strong", "--train", out / "train", "--test-input", out / "known",
            "--test-target", out / "wanted", "--metrics", "ndcg@100,recall@20"]


def tensors(path):
    import numpy as np
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:8 + size])
    return {name: np.frombuffer(raw[8 + size:][slice(*t["data_offsets"])], "<f4").reshape(t["shape"])
            for name, t in header.items() if name != "__metadata__"}


def lines_by_user(path, rows):
    users = {}
    for line in path.open():
        user, item = line.split()[:2]
        if item in rows:
            users.setdefault(user, []).append(rows[item])
    return users


def loop(np, folder, generation):
    """Seconds of scoring and measuring, NDCG@100 and Recall@20."""
    items = json.load((generation / "items.json").open())
    rows = {item: row for row, item in enumerate(items)}
    known, wanted = (lines_by_user(folder / name, rows) for name in ("known", "wanted"))
    w = tensors(generation / "weights.safetensors")
    encoder, decoder = w["ease.item.linear"], w["ease.item.decoder"]
    discount = 1 / np.log2(np.arange(2, 102))
    ndcg = recall = users = 0
    start = time.perf_counter()
    for user, truth in wanted.items():
        history = known.get(user)
        if history is None:
            continue
        scores = decoder @ encoder[history].sum(0)
        scores[history] = -np.inf
        top = np.argpartition(-scores, 100)[:100]
        top = top[np.argsort(-scores[top])]
        hits = np.isin(top, truth)
        ndcg += (hits * discount).sum() / discount[:min(100, len(truth))].sum()
        recall += hits[:20].sum() / min(20, len(truth))
        users += 1
    return time.perf_counter() - start, ndcg / users, recall / users


def compare(np, options, title, lines):
    items = len({line.split()[1] for line in lines})
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "one").mkdir()
        one = every_fifth_to_be_found(lines, folder / "one", most=1)
        files = every_fifth_to_be_found(lines, folder)
        nearline(options, ["rank=256"], files, ("--save", folder))
        [generation] = folder.glob("g-*")
        for _ in range(options.rounds):
            truncated = nearline(options, ["rank=256"], files)
            [ours] = truncated["seconds"]["evaluate"]
            theirs, *values = loop(np, folder, generation)
            means = [truncated["metrics"][metric]["mean"] for metric in ("ndcg@100", "recall@20")]
            print(f"{title}, metrics of {len(truncated['users']['ids'])} users: NumPy {theirs:.2f} s, "
                  f"Nearline {ours:.2f} s, {theirs / ours:.1f} times faster; NDCG@100 {values[0]:.4f} "
                  f"{means[0]:.4f}, Recall@20 {values[1]:.4f} {means[1]:.4f}", flush=True)
            bare = bare_inverse(np, items)
            [train] = truncated["seconds"]["train"]
            [full] = nearline(options, ["rank=0"], one)["seconds"]["train"]
            print(f"{title}, EASE of {items} items: the bare inverse {bare:.1f} s; all of it "
                  f"{full:.1f} s, {full / bare:.2f} times that; truncated {train:.1f} s, "
                  f"{train / bare:.2f} times", flush=True)


def main():
    options = arguments()
    with_numpy(options)
    import numpy as np
    print(f"NumPy {np.__version__}, {options.threads} thread(s)")
    compare(np, options, "MovieLens 1M", (options.data / "train.tsv").open().readlines())
    compare(np, options, "made up", made_up_events(np, options.items))


if __name__ == "__main__":
    main()
