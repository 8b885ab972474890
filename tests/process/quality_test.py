#!/usr/bin/env python3
"""Trains on real data and holds the models to the published figures. Exits with
77, which ctest shows as skipped, where the data is absent.

usage: quality_test.py BIN DATA
DATA holds ml-1m/strong-gen (Liang 2018) and ml-1m/ncf (He 2017).
"""
import pathlib
import re
import subprocess
import sys

BIN, DATA = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
SEEDS = ["1", "2", "3"]


def evaluate(model, *words):
    done = subprocess.run([BIN / "nearline-train", "evaluate", model, "--seed", *SEEDS, *map(str, words)],
                          capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    print(done.stdout.strip(), flush=True)
    return {name: float(value) for name, value in re.findall(r"(\S+@\d+) ([\d.]+)", done.stdout)}


def main():
    strong, ncf = DATA / "ml-1m/strong-gen", DATA / "ml-1m/ncf"
    if not strong.is_dir() or not ncf.is_dir():
        print(f"skipped: no MovieLens 1M in {DATA}")
        return 77
    failures = []

    def check(name, got, wanted, tolerance):
        good = got >= wanted * (1 - tolerance)
        print(f"{'ok  ' if good else 'FAIL'} {name}: {got:.4f}, reference {wanted:.4f}")
        if not good:
            failures.append(name)

    def check_exactly(name, got, wanted):
        good = abs(got - wanted) < .0006
        print(f"{'ok  ' if good else 'FAIL'} {name}: {got:.4f}, reference exactly {wanted:.4f}")
        if not good:
            failures.append(name)

    strong_files = ["--protocol", "strong", "--train", strong / "train.tsv",
                    "--validation-input", strong / "validation_tr.tsv",
                    "--validation-target", strong / "validation_te.tsv",
                    "--test-input", strong / "test_tr.tsv", "--test-target", strong / "test_te.tsv"]
    ncf_files = ["--protocol", "sampled", "--train", ncf / "ml-1m.train.rating",
                 "--test", ncf / "ml-1m.test.rating", "--negatives", ncf / "ml-1m.test.negative"]
    popularity = evaluate("popularity", *strong_files)
    check_exactly("popularity NDCG@100, strong", popularity["ndcg@100"], .2122)
    by_the_book = ["--set", "lambda=1000", "--set", "rank=0"]
    ease = evaluate("ease", *strong_files, *by_the_book)
    check_exactly("EASE NDCG@100, strong", ease["ndcg@100"], .4149)
    ease = evaluate("ease", *strong_files)
    check("truncated EASE NDCG@100, strong", ease["ndcg@100"], .423, 0)
    joint = evaluate("joint", *strong_files)
    check("joint NDCG@100, strong", joint["ndcg@100"], .4311, 0)
    check("joint Recall@20, strong", joint["recall@20"], .3664, .01)
    check("joint Recall@50, strong", joint["recall@50"], .4857, .01)
    vae = evaluate("mult-vae", *strong_files)
    check("Mult-VAE NDCG@100, strong", vae["ndcg@100"], .4001, .01)
    popularity = evaluate("popularity", *ncf_files)
    check_exactly("popularity HR@10, ncf", popularity["hr@10"], .4520)
    check_exactly("popularity NDCG@10, ncf", popularity["ndcg@10"], .2526)
    ease = evaluate("ease", *ncf_files, *by_the_book)
    check_exactly("EASE HR@10, ncf", ease["hr@10"], .7177)
    check_exactly("EASE NDCG@10, ncf", ease["ndcg@10"], .4483)
    neumf = evaluate("neumf", *ncf_files)
    check("NeuMF HR@10, ncf", neumf["hr@10"], .725, 0)
    check("NeuMF NDCG@10, ncf", neumf["ndcg@10"], .443, 0)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
