#!/usr/bin/env python3
"""Times a sweep of iALS over users and items against the implicit package (Frederickson).

Installs implicit from PyPI into a folder of its own, then trains both in turn, one round after the
other, with the same data, factors and steps of conjugate gradients, and prints seconds a sweep,
their ratio, and NDCG@100 on the test users, whose vectors both compute from their histories.

    tests/bench/implicit_baseline.py DATA/ml-1m/strong-gen build/release/bin/nearline-train
        [--factors 192] [--steps 3] [--threads 1] [--epochs 16] [--rounds 3] [--venv build/implicit]
"""
import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import venv

ALPHA, RIDGE = .33, .007  # weight of the unobserved beside 1; ridge an event and ALPHA x rows
THEIR_RIDGE = 28  # they have one for all: that of a mean user, in weights of the unobserved


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("binary")
    parser.add_argument("--factors", type=int, default=192)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--venv", type=pathlib.Path, default=pathlib.Path("build/implicit"))
    return parser.parse_args()


def with_implicit(folder):
    """Runs this script again in an environment that has implicit."""
    if pathlib.Path(sys.prefix).resolve() == folder.resolve():
        return
    python = folder / "bin/python3"
    if not python.exists():
        print(f"setting up implicit in {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True)
    if subprocess.run([python, "-c", "import implicit"], capture_output=True).returncode != 0:
        subprocess.run([python, "-m", "pip", "install", "--quiet", "implicit"], check=True)
    # Its products with all items are made by NumPy, on as many threads as that likes.
    os.environ.update({"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"})
    os.execv(python, [str(python), *sys.argv])


def read(path, ids):
    users = {}
    for line in path.open():
        user, item = line.split()[:2]
        users.setdefault(user, []).append(ids.setdefault(item, len(ids)))
    return users


def matrix(histories, items):
    import numpy as np
    from scipy.sparse import csr_matrix
    rows = np.repeat(np.arange(len(histories)), [len(h) for h in histories])
    columns = np.concatenate([np.array(h) for h in histories])
    return csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), (len(histories), items))


def ndcg(lists, known, wanted, k=100):
    total = 0
    for user, best in lists.items():
        truth, seen = set(wanted[user]), set(known[user])
        ranked = [item for item in best if item not in seen][:k]
        gain = sum(1 / math.log2(rank + 2) for rank, item in enumerate(ranked) if item in truth)
        total += gain / sum(1 / math.log2(rank + 2) for rank in range(min(k, len(truth))))
    return total / len(lists)


def theirs(options, train, known, wanted, items, seed):
    """Seconds a sweep, and NDCG@100."""
    import numpy as np
    from implicit.cpu.als import AlternatingLeastSquares
    # A weight of 1 + alpha of what is there beside 1 of what is not, divided by alpha.
    model = AlternatingLeastSquares(
        factors=options.factors, alpha=1 + 1 / ALPHA, regularization=THEIR_RIDGE,
        use_cg=True, iterations=options.epochs, num_threads=options.threads, random_state=seed)
    model.cg_steps = options.steps
    start = time.perf_counter()
    model.fit(matrix(train, items), show_progress=False)
    seconds = (time.perf_counter() - start) / options.epochs
    users = [user for user in wanted if user in known]
    vectors = np.stack([model.recalculate_user(0, matrix([known[user]], items)) for user in users])
    scores = vectors.reshape(len(users), -1) @ model.item_factors.T
    lists = {user: np.argsort(-row).tolist() for user, row in zip(users, scores)}
    return seconds, ndcg(lists, known, wanted)


def ours(options, seed):
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        subprocess.run(
            [options.binary, "evaluate", "ials", "--protocol", "strong", "--train",
             options.data / "train.tsv", "--test-input", options.data / "test_tr.tsv",
             "--test-target", options.data / "test_te.tsv", "--metrics", "ndcg@100", "--seed",
             str(seed), "--threads", str(options.threads), "--report", report.name, "--set",
             f"factors={options.factors}", "--set", f"steps={options.steps}", "--set",
             f"epochs={options.epochs}", "--set", f"regularization={RIDGE}", "--set",
             f"unobserved_weight={ALPHA}"],
            check=True, capture_output=True)
        result = json.load(open(report.name))
    return result["seconds"]["train"][0] / options.epochs, result["metrics"]["ndcg@100"]["mean"]


def main():
    options = arguments()
    with_implicit(options.venv)
    import implicit
    ids = {}
    train = list(read(options.data / "train.tsv", ids).values())
    known = read(options.data / "test_tr.tsv", ids)
    wanted = read(options.data / "test_te.tsv", ids)
    print(f"implicit {implicit.__version__}, {options.threads} thread(s), {options.factors} factors, "
          f"{options.steps} steps of conjugate gradients")
    print(f"{'implicit':>16} {'Nearline':>16} {'faster':>7}   NDCG@100 of both")
    for seed in range(1, options.rounds + 1):
        slow, their_quality = theirs(options, train, known, wanted, len(ids), seed)
        fast, our_quality = ours(options, seed)
        print(f"{slow:8.3f} s/sweep {fast:8.3f} s/sweep {slow / fast:6.1f}x   "
              f"{their_quality:.4f} {our_quality:.4f}", flush=True)


if __name__ == "__main__":
    main()
