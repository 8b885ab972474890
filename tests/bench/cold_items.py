#!/usr/bin/env python3
"""How well items are recommended that nobody has touched, on MovieLens 1M.

Leaves a tenth of the items (those whose id's CRC-32 is divisible by 10) out of the training and
validation files of ml-1m/strong-gen and of the test histories, keeps only those in the test
targets, and writes each item's genres, year and span of five years as attributes. Then runs
`nearline-train evaluate` for each model named and prints its recall of the items left out
beside that of chance.

    tests/bench/cold_items.py DATA/ml-1m build/release/bin/nearline-train content joint
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import zlib

TITLE_WITH_YEAR = re.compile(r"\((\d{4})\)\s*$")


def is_cold(item):
    return zlib.crc32(item.encode()) % 10 == 0


def write_attributes(movies, out):
    """Returns the number of items."""
    lines = movies.read_text(encoding="latin-1").splitlines()
    with out.open("w") as file:
        for line in lines:
            item, title, genres = line.split("::")
            attributes = {"genres": genres.split("|")}
            year = TITLE_WITH_YEAR.search(title)
            if year:
                attributes["year"] = int(year.group(1))
                attributes["decade"] = str(int(year.group(1)) // 5 * 5)
            file.write(json.dumps({"id": item, "attributes": attributes}) + "\n")
    return len(lines)


def split(source, out):
    for name in ("train", "validation_tr", "validation_te", "test_tr", "test_te"):
        wanted = name == "test_te"
        with (source / f"{name}.tsv").open() as lines, (out / f"{name}.tsv").open("w") as kept:
            kept.writelines(line for line in lines if is_cold(line.split()[1]) == wanted)


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    data, binary, models = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder)
        items = write_attributes(data / "movies.dat", out / "items.jsonl")
        split(data / "strong-gen", out)
        history = sum(1 for _ in (out / "test_tr.tsv").open())
        users = len({line.split("\t")[0] for line in (out / "test_tr.tsv").open()})
        chance = 20 / (items - history / users)
        print(f"chance: {chance:.4f} of the items left out are among 20 at random")
        for model in models:
            report = out / "report.json"
            subprocess.run(
                [binary, "evaluate", model, "--protocol", "strong", "--items", out / "items.jsonl",
                 "--train", out / "train.tsv", "--validation-input", out / "validation_tr.tsv",
                 "--validation-target", out / "validation_te.tsv", "--test-input", out / "test_tr.tsv",
                 "--test-target", out / "test_te.tsv", "--metrics", "plain_recall@20",
                 "--report", report], check=True, stdout=subprocess.DEVNULL)
            found = json.loads(report.read_text())["metrics"]["plain_recall@20"]["mean"]
            print(f"{model}: {found:.4f}, {found / chance:.1f} times chance")


if __name__ == "__main__":
    main()
