#!/usr/bin/env python3
"""Joint's neural and linear path under one loss, against one after the other.

Reads a generation of `joint` that `nearline-train evaluate joint --save` wrote for
ml-1m/strong-gen, and trains with PyTorch, from the same start, one multinomial loss over the
sum of the logits:
  beside   the autoencoder anew, beside the linear path as it is
  one      the autoencoder anew, and the linear path's rows from where they are
Prints NDCG@100 on the test users of these, at the epoch that is best on the validation users,
and of the generation as it is, without its head.

    pip install torch numpy
    tests/bench/one_loss.py DATA/ml-1m/strong-gen GENERATION [--epochs 40] [--threads 2]
"""
import argparse
import json
import pathlib

import numpy as np
import torch


def read_generation(folder):
    raw = (folder / "weights.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    data = raw[8 + size:]
    tensors = {
        name: torch.from_numpy(
            np.frombuffer(data[slice(*t["data_offsets"])], "<f4").reshape(t["shape"]).copy())
        for name, t in json.loads(raw[8:8 + size]).items() if name != "__metadata__"}
    return tensors, json.loads((folder / "items.json").read_text())


def read_users(path, rows):
    """Dense [users, items], users in the order of their first line; and their names."""
    users = {}
    for line in path.read_text().splitlines():
        user, item = line.split()[:2]
        users.setdefault(user, []).extend([rows[item]] if item in rows else [])
    dense = torch.zeros(len(users), len(rows))
    for u, items in enumerate(users.values()):
        dense[u, items] = 1
    return dense, list(users)


def read_pair(data, name, rows):
    known, users = read_users(data / f"{name}_tr.tsv", rows)
    wanted, names = read_users(data / f"{name}_te.tsv", rows)
    order = torch.tensor([names.index(user) for user in users])
    return known, wanted[order]


def ndcg(logits, known, wanted, k=100):
    hits = wanted.gather(1, logits.masked_fill(known > 0, -1e30).topk(k, 1).indices)
    gains = 1 / torch.log2(torch.arange(2, k + 2).float())
    most = torch.cat([torch.zeros(1), gains.cumsum(0)])[wanted.sum(1).long().clamp(max=k)]
    return ((hits * gains).sum(1) / most.clamp_min(1e-9)).mean().item()


class Paths:
    def __init__(self, w, fresh, linear_learns):
        width = w["joint.item.encoder"].shape[1]
        n = len(w["joint.item.encoder"])
        self.left = w["joint.item.linear"].clone()
        self.right = w["joint.item.decoder"][:, width:].clone()
        spread = (2 / (n + width)) ** .5
        self.neural = [w["joint.item.encoder"], w["joint.encoder.bias"],
                       w["joint.item.decoder"][:, :width], w["joint.item.bias"][:, 0]]
        if fresh:
            self.neural = [torch.randn(t.shape) * (spread if t.dim() == 2 else 1e-3)
                           for t in self.neural]
        self.learned = self.neural + ([self.left, self.right] if linear_learns else [])

    def logits(self, x, dropout=0.0):
        encoder, bias, decoder, item_bias = self.neural
        kept = torch.nn.functional.dropout(x, dropout) if dropout else x
        length = x.sum(1, keepdim=True).clamp_min(1).sqrt()
        hidden = torch.tanh(kept @ encoder / length + bias)
        return hidden @ decoder.T + item_bias + kept @ self.left @ self.right.T


def train(paths, x, validation, test, args):
    for t in paths.learned:
        t.requires_grad_(True)
    adam = torch.optim.Adam(paths.learned, lr=1e-3)
    best = (0, 0)
    steps = args.epochs * (-(-len(x) // args.batch))
    step = 0
    for epoch in range(args.epochs):
        for users in torch.randperm(len(x)).split(args.batch):
            adam.param_groups[0]["lr"] = 1e-3 * max(.02, 1 - step / steps)
            step += 1
            loss = -(torch.log_softmax(paths.logits(x[users], .5), 1) * x[users]).sum(1).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        with torch.no_grad():
            now = ndcg(paths.logits(validation[0]), *validation)
            if now > best[0]:
                best = (now, ndcg(paths.logits(test[0]), *test))
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("generation", type=pathlib.Path)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    w, items = read_generation(args.generation)
    rows = {item: row for row, item in enumerate(items)}
    x, _ = read_users(args.data / "train.tsv", rows)
    validation, test = (read_pair(args.data, name, rows) for name in ("validation", "test"))
    with torch.no_grad():
        apart = Paths(w, fresh=False, linear_learns=False)
        print(f"one after the other: validation {ndcg(apart.logits(validation[0]), *validation):.4f}"
              f", test {ndcg(apart.logits(test[0]), *test):.4f}", flush=True)
    for name, learns in (("beside", False), ("one", True)):
        best = train(Paths(w, fresh=True, linear_learns=learns), x, validation, test, args)
        print(f"{name}: validation {best[0]:.4f}, test {best[1]:.4f}", flush=True)


if __name__ == "__main__":
    main()
