#!/usr/bin/env python3
"""How well items are recommended that nobody has touched, on MovieLens 1M.

Leaves a tenth of the items (those whose id's CRC-32 has one last digit) out of the training and
validation files of ml-1m/strong-gen and of the test histories, keeps only those in the test
targets, and writes each item's genres and year as attributes. Then runs `nearline-train
evaluate` for each model named. Does so for five tenths, 0 to 4, for they differ much, and
prints the recall of the items left out beside that of chance, and the mean of the ratios.

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


def is_cold(item, tenth):
    return zlib.crc32(item.encode()) % 10 == tenth


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
            file.write(json.dumps({"id": item, "attributes": attributes}) + "\n")
    return len(lines)


def split(source, tenth, out):
    for name in ("train", "validation_tr", "validation_te", "test_tr", "test_te"):
        wanted = name == "test_te"
        with (source / f"{name}.tsv").open() as lines, (out / f"{name}.tsv").open("w") as kept:
            kept.writelines(line for line in lines if is_cold(line.split()[1], tenth) == wanted)


def recall_of(model, binary, folder):
    report = folder / "report.json"
    subprocess.run(
        [binary, "evaluate", model, "--protocol", "strong", "--items", folder / "items.jsonl",
         "--train", folder / "train.tsv", "--validation-input", folder / "validation_tr.tsv",
         "--validation-target", folder / "validation_te.tsv", "--test-input", folder / "test_tr.tsv",
         "--test-target", folder / "test_te.tsv", "--metrics", "plain_recall@20",
         "--report", report], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return json.loads(report.read_text())["metrics"]["plain_recall@20"]["mean"]


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    data, binary, models = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    times_chance = {model: [] for model in models}
    for tenth in range(5):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            items = write_attributes(data / "movies.dat", folder / "items.jsonl")
            split(data / "strong-gen", tenth, folder)
            history = sum(1 for _ in (folder / "test_tr.tsv").open())
            users = len({line.split("\t")[0] for line in (folder / "test_tr.tsv").open()})
            chance = 20 / (items - history / users)
            print(f"tenth {tenth}: {chance:.4f} of the items left out are among 20 at random")
            for model in models:
                found = recall_of(model, binary, folder)
                times_chance[model].append(found / chance)
                print(f"  {model}: {found:.4f}, {found / chance:.1f} times chance", flush=True)
    for model, ratios in times_chance.items():
        print(f"{model}: {sum(ratios) / len(ratios):.1f} times chance")


if __name__ == "__main__":
    main()
