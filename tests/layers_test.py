#!/usr/bin/env python3
"""Checks that includes point left: base <- features <- model <- server, proto
and client beside them, and that LibTorch stays in model/.

usage: layers_test.py ROOT
"""
import pathlib
import re
import sys

MAY = {
    "base": {"base"},
    "features": {"base", "features"},
    "model": {"base", "features", "model"},
    "server": {"base", "features", "model", "server", "proto"},
    "client": {"base", "client", "proto"},
}
FOLDERS = {*MAY, "proto", "tests", "deploy"}
TORCH = re.compile(r'#include *[<"](torch|ATen|c10)/')


def main(root):
    wrong = []
    for folder, allowed in MAY.items():
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in (".h", ".cc"):
                continue
            text = path.read_text(encoding="utf-8").splitlines()
            for number, line in enumerate(text, 1):
                where = f"{path.relative_to(root)}:{number}"
                m = re.match(r'#include "([a-z]+)/', line)
                if m and m[1] in FOLDERS and m[1] not in allowed:
                    wrong.append(f"{where}: {folder}/ may not include {m[1]}/")
                if TORCH.match(line) and (folder != "model" or path.suffix == ".h" and path.name != "torch_guard.h"):
                    wrong.append(f"{where}: LibTorch belongs in model/*.cc and model/torch_guard.h")
    print("\n".join(wrong) or "every include points left")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
