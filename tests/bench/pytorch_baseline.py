#!/usr/bin/env python3
"""Times epochs of Mult-VAE, Mult-DAE and NeuMF against PyTorch with the usual recipes.

Installs PyTorch from PyPI into a folder of its own, then trains each model in turn with both, one
round after the other, and prints seconds an epoch, their ratio, and a metric of both.

The autoencoders have the same data, sizes, dropout, batches, rates and epochs, and PyTorch a dense
input; NDCG@100 on the test users ought to be alike. NeuMF in PyTorch is He's of 2017 with 8 factors,
4 negatives drawn for each event (without a look at what the user has), Adam and batches of 2,048;
ours has other phases, and counts all their epochs. Its metric is HR@10 on ml-1m/ncf after as many
epochs as asked for, and ours after all of them; the totals tell which is sooner at what.

    tests/bench/pytorch_baseline.py DATA/ml-1m build/release/bin/nearline-train
        [--models mult-vae,mult-dae,neumf] [--threads 1] [--epochs 5] [--rounds 3]
        [--venv build/pytorch]
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

RECIPES = {  # what `nearline-train models` gives as defaults, without cold_share
    "mult-vae": dict(hidden=600, latent=200, dropout=.5, beta=.2, anneal_epochs=20, batch=256),
    "mult-dae": dict(hidden=200, dropout=.5, batch=256),
}
RATE = 4e-3  # falls linearly to a fiftieth


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("binary")
    parser.add_argument("--models", default="mult-vae,mult-dae,neumf")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--venv", type=pathlib.Path, default=pathlib.Path("build/pytorch"))
    return parser.parse_args()


def with_pytorch(folder):
    """Runs this script again in an environment that has PyTorch."""
    python = folder / "bin/python3"
    if pathlib.Path(sys.prefix).resolve() == folder.resolve():
        return
    if not python.exists():
        print(f"setting up PyTorch in {folder}; it takes some minutes", file=sys.stderr)
        venv.create(folder, with_pip=True)
    if subprocess.run([python, "-c", "import torch, numpy"], capture_output=True).returncode != 0:
        subprocess.run([python, "-m", "pip", "install", "--quiet", "torch", "numpy"], check=True)
    os.execv(python, [str(python), *sys.argv])


def read(path, ids):
    """Items by user, as numbers of `ids`, which grows when it may."""
    users = {}
    for line in path.open():
        user, item = line.split()[:2]
        if item not in ids:
            ids[item] = len(ids)
        users.setdefault(user, []).append(ids[item])
    return users


def build(torch, recipe, items):
    class Autoencoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            linear = torch.nn.Linear
            self.encoder = linear(items, recipe["hidden"])
            self.latent = "latent" in recipe
            if self.latent:
                self.both = linear(recipe["hidden"], 2 * recipe["latent"])
                self.hidden = linear(recipe["latent"], recipe["hidden"])
            self.decoder = linear(recipe["hidden"], items)
            for layer in self.children():
                torch.nn.init.xavier_normal_(layer.weight)
                torch.nn.init.normal_(layer.bias, std=1e-3)

        def forward(self, x):
            x = torch.nn.functional.normalize(x)
            x = torch.nn.functional.dropout(x, recipe["dropout"], self.training)
            h, kl = torch.tanh(self.encoder(x)), 0
            if self.latent:
                mean, log_variance = self.both(h).chunk(2, 1)
                kl = .5 * (log_variance.exp() + mean ** 2 - 1 - log_variance).sum(1).mean()
                if self.training:
                    mean = mean + torch.randn_like(mean) * (.5 * log_variance).exp()
                h = torch.tanh(self.hidden(mean))
            return self.decoder(h), kl
    return Autoencoder()


def dense(torch, histories, items):
    x = torch.zeros(len(histories), items)
    for row, history in enumerate(histories):
        x[row, history] = 1
    return x


def train(torch, recipe, histories, items, epochs):
    model = build(torch, recipe, items)
    adam = torch.optim.Adam(model.parameters(), lr=RATE)
    batches = math.ceil(len(histories) / recipe["batch"])
    step, seconds = 0, []
    for _ in range(epochs):
        start = time.perf_counter()
        order = torch.randperm(len(histories)).tolist()
        for first in range(0, len(order), recipe["batch"]):
            for group in adam.param_groups:
                group["lr"] = RATE * max(.02, 1 - step / (epochs * batches))
            x = dense(torch, [histories[u] for u in order[first:first + recipe["batch"]]], items)
            logits, kl = model(x)
            beta = recipe.get("beta", 0)
            if beta:
                beta *= min(1, step / (recipe["anneal_epochs"] * batches))
            loss = beta * kl - (torch.log_softmax(logits, 1) * x).sum(1).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            step += 1
        seconds.append(time.perf_counter() - start)
    return model, sum(seconds) / epochs


def ndcg(torch, model, known, wanted, items, k=100):
    users = [u for u in wanted if u in known]
    with torch.no_grad():
        model.eval()
        x = dense(torch, [known[u] for u in users], items)
        scores, _ = model(x)
        best = scores.masked_fill(x > 0, -math.inf).topk(k).indices.tolist()
    total = 0
    for user, items_of_user in zip(users, best):
        truth = set(wanted[user])
        gain = sum(1 / math.log2(rank + 2) for rank, item in enumerate(items_of_user) if item in truth)
        total += gain / sum(1 / math.log2(rank + 2) for rank in range(min(k, len(truth))))
    return total / len(users)


def nearline(options, name, recipe):
    """Seconds an epoch, and NDCG@100."""
    data = options.data / "strong-gen"
    settings = [f"{key}={value}" for key, value in recipe.items()]
    settings += [f"epochs={options.epochs}", f"learning_rate={RATE}", "cold_share=0"]
    result = evaluate(options, name, [
        "--protocol", "strong", "--train", data / "train.tsv", "--test-input", data / "test_tr.tsv",
        "--test-target", data / "test_te.tsv", "--metrics", "ndcg@100",
        *(word for setting in settings for word in ("--set", setting))])
    [seconds] = result["seconds"]["train"]
    return seconds / options.epochs, result["metrics"]["ndcg@100"]["mean"]


def evaluate(options, name, words):
    """The report."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        subprocess.run([options.binary, "evaluate", name, *words, "--threads", str(options.threads),
                        "--report", report.name], check=True, capture_output=True)
        return json.load(open(report.name))


def build_neumf(torch, users, items, factors=8):
    class NeuMf(torch.nn.Module):
        def __init__(self):
            super().__init__()
            embedding, linear = torch.nn.Embedding, torch.nn.Linear
            self.gmf = torch.nn.ModuleList([embedding(users, factors), embedding(items, factors)])
            self.mlp = torch.nn.ModuleList(
                [embedding(users, 4 * factors), embedding(items, 4 * factors)])
            for table in [*self.gmf, *self.mlp]:
                torch.nn.init.normal_(table.weight, std=.01)
            sizes = [8 * factors, 4 * factors, 2 * factors, factors]
            self.layers = torch.nn.ModuleList(linear(a, b) for a, b in zip(sizes, sizes[1:]))
            self.last = linear(2 * factors, 1)

        def forward(self, user, item):
            gmf = self.gmf[0](user) * self.gmf[1](item)
            mlp = torch.cat([self.mlp[0](user), self.mlp[1](item)], 1)
            for layer in self.layers:
                mlp = torch.relu(layer(mlp))
            return self.last(torch.cat([gmf, mlp], 1)).squeeze(1)
    return NeuMf()


def train_neumf(torch, pairs, users, items, epochs, negatives=4, batch=2048):
    """The model, and seconds an epoch."""
    model = build_neumf(torch, users, items)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss_of = torch.nn.BCEWithLogitsLoss()
    seconds = []
    for _ in range(epochs):
        start = time.perf_counter()
        user = pairs[:, 0].repeat(1 + negatives)
        item = torch.cat([pairs[:, 1], torch.randint(items, (negatives * len(pairs),))])
        label = torch.zeros(len(user))
        label[:len(pairs)] = 1
        order = torch.randperm(len(user))
        for first in range(0, len(order), batch):
            some = order[first:first + batch]
            loss = loss_of(model(user[some], item[some]), label[some])
            adam.zero_grad()
            loss.backward()
            adam.step()
        seconds.append(time.perf_counter() - start)
    return model, sum(seconds) / epochs


def hit_rate(torch, model, data):
    """HR@10 of each user's held-out item among the negatives of ml-1m/ncf."""
    hits = users = 0
    with torch.no_grad():
        for line in (data / "ml-1m.test.negative").open():
            asked, *negatives = line.split("\t")
            user, wanted = (int(number) for number in asked.strip("()").split(","))
            candidates = torch.tensor([wanted, *(int(item) for item in negatives)])
            scores = model(torch.full_like(candidates, user), candidates)
            hits += int((scores[1:] >= scores[0]).sum()) < 10
            users += 1
    return hits / users


def compare_neumf(torch, options):
    data = options.data / "ncf"
    pairs = torch.tensor([[int(word) for word in line.split()[:2]]
                          for line in (data / "ml-1m.train.rating").open()])
    users, items = (int(column.max()) + 1 for column in pairs.T)
    model, theirs = train_neumf(torch, pairs, users, items, options.epochs)
    quality = hit_rate(torch, model, data)
    result = evaluate(options, "neumf", [
        "--protocol", "sampled", "--train", data / "ml-1m.train.rating",
        "--test", data / "ml-1m.test.rating", "--negatives", data / "ml-1m.test.negative",
        "--metrics", "hr@10"])
    [seconds] = result["seconds"]["train"]
    ours = seconds / len(result["epochs"])
    print(f"{'neumf':10} {theirs:8.2f} s/epoch {ours:8.2f} s/epoch {theirs / ours:6.1f}x   "
          f"HR@10 {quality:.4f} after {theirs * options.epochs:.0f} s, "
          f"{result['metrics']['hr@10']['mean']:.4f} after {seconds:.0f} s", flush=True)


def main():
    options = arguments()
    with_pytorch(options.venv)
    import torch
    torch.set_num_threads(options.threads)
    ids = {}
    strong = options.data / "strong-gen"
    histories = list(read(strong / "train.tsv", ids).values())
    known = read(strong / "test_tr.tsv", ids)
    wanted = read(strong / "test_te.tsv", ids)
    print(f"PyTorch {torch.__version__}, {options.threads} thread(s), {len(histories)} users, "
          f"{len(ids)} items, {options.epochs} epochs")
    print(f"{'model':10} {'PyTorch':>16} {'Nearline':>16} {'faster':>7}   a metric of both")
    for name in options.models.split(","):
        for seed in range(options.rounds):
            torch.manual_seed(seed)
            if name == "neumf":
                compare_neumf(torch, options)
                continue
            model, theirs = train(torch, RECIPES[name], histories, len(ids), options.epochs)
            quality = ndcg(torch, model, known, wanted, len(ids))
            ours, our_quality = nearline(options, name, RECIPES[name])
            print(f"{name:10} {theirs:8.2f} s/epoch {ours:8.2f} s/epoch {theirs / ours:6.1f}x   "
                  f"{quality:.4f} {our_quality:.4f}", flush=True)


if __name__ == "__main__":
    main()
