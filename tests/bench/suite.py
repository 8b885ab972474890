"""The parts of run.sh: each figure a ratio to a yardstick measured in turn with
it, with the median of the repetitions and their spread. Needs nothing but
Python's standard library.
"""
import argparse
import contextlib
import json
import os
import pathlib
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import curves

REPETITIONS = 5


def median(values):
    return sorted(values)[len(values) // 2]


class Report:
    """Figures by name, as they come."""

    def __init__(self, root, mode):
        def git(*words):
            done = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True)
            return done.stdout.strip() if done.returncode == 0 else ""

        cpu = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if "model name" in line]
        flags = next((line for line in open("/proc/cpuinfo") if line.startswith("flags")), "").split()
        self.about = {
            "mode": mode,
            "commit": git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else ""),
            "machine": f"{os.cpu_count()} x {cpu[0] if cpu else platform.machine()}",
            "instructions": [f for f in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8") if f in flags],
            "time": time.strftime("%Y-%m-%d %H:%M"),
        }
        self.figures = {}
        self.curves = {}

    def add(self, name, what, values, goal=None, least=True, unit="x", **detail):
        """`values` one a repetition; `goal` is the least, or the most, that is aimed at."""
        values = list(values)
        figure = {"what": what, "median": median(values), "low": min(values), "high": max(values),
                  "unit": unit, **detail}
        if goal is not None:
            figure |= {"goal": goal, "least": least,
                       "met": figure["median"] >= goal if least else figure["median"] <= goal}
        self.figures[name] = figure
        print(f"  {self.line(name)}", flush=True)

    def curve(self, name, title, x, y, series):
        """`series`: {label: {size: values, one a repetition}}."""
        lines = {label: [(size, median(v), min(v), max(v)) for size, v in points.items()]
                 for label, points in series.items() if points}
        self.curves[name] = {"title": title, "x": x, "y": y, "series": lines}
        print(f"  {name}: {title}, {y}")
        for label, points in lines.items():
            print(f"    {label:28} " + "  ".join(f"{size:,}: {mid:.4g}" for size, mid, _, _ in points), flush=True)

    def line(self, name):
        f = self.figures[name]
        goal = f"   goal {'>=' if f['least'] else '<='} {f['goal']:g}{'' if f['met'] else '  (missed)'}" if "goal" in f else ""
        return f"{name:36} {f['median']:10.2f} {f['unit']:4} ({f['low']:.2f} to {f['high']:.2f}){goal}"

    def markdown(self):
        a = self.about
        out = [f"# Benchmark, {a['mode']}", "",
               f"Commit {a['commit']}, {a['machine']} ({' '.join(a['instructions'])}), {a['time']}. "
               f"Medians of {REPETITIONS} repetitions and their spread.", "",
               "| figure | what | median | spread | goal |", "| --- | --- | --- | --- | --- |"]
        for name, f in self.figures.items():
            goal = f"{'>=' if f['least'] else '<='} {f['goal']:g}{'' if f['met'] else ', missed'}" if "goal" in f else ""
            out.append(f"| {name} | {f['what']} | {f['median']:.2f} {f['unit']} | {f['low']:.2f} to {f['high']:.2f} | {goal} |")
        for name, c in self.curves.items():
            out += ["", f"![{c['title']}]({name}.svg)", ""]
            sizes = sorted({point[0] for line in c["series"].values() for point in line})
            out += [f"| {c['y']}, by {c['x']} | {' | '.join(f'{size:,}' for size in sizes)} |", "| --- " * (len(sizes) + 1) + "|"]
            for label, line in c["series"].items():
                at = {point[0]: point[1] for point in line}
                out.append(f"| {label} | {' | '.join(f'{at[size]:.4g}' if size in at else '' for size in sizes)} |")
        return "\n".join(out) + "\n"


class Bins:
    def __init__(self, root, work):
        self.bin = pathlib.Path(root) / "build/release/bin"
        self.work = pathlib.Path(work)

    def run(self, program, *words):
        done = subprocess.run([self.bin / program, *map(str, words)], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{program} {' '.join(map(str, words))}: {done.stderr}{done.stdout}")
        return done.stdout

    def micro(self, pattern, seconds=0.05, repetitions=REPETITIONS):
        """Google Benchmark's results, {name: {repetition: row}}, interleaved."""
        out = self.work / "micro.json"
        done = subprocess.run(
            [self.bin / "nearline_benchmarks", f"--benchmark_filter={pattern}",
             f"--benchmark_min_time={seconds}", f"--benchmark_repetitions={repetitions}",
             "--benchmark_enable_random_interleaving=true", "--benchmark_out_format=json",
             f"--benchmark_out={out}"], capture_output=True, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.work)})
        if done.returncode != 0:
            raise SystemExit(f"nearline_benchmarks: {done.stderr}")
        rows = {}
        for row in json.loads(out.read_text())["benchmarks"]:
            if row.get("run_type") == "iteration" and not row.get("error_occurred"):
                rows.setdefault(row["run_name"], {})[row["repetition_index"]] = row
        return rows

    @contextlib.contextmanager
    def server(self, folder, **environment):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{s.getsockname()[1]}"
        log = open(folder / "server.log", "ab")
        process = subprocess.Popen(
            [self.bin / "nearline-server"], stderr=log, stdout=log,
            env={**os.environ, "NEARLINE_LISTEN": address, "NEARLINE_METRICS_LISTEN": "",
                 "NEARLINE_DATA_DIR": str(folder), "NEARLINE_STORE_FREE_SPACE_RESERVE_MB": "0",
                 **environment})

        def ask(*words, check=True):
            done = subprocess.run([self.bin / "nearline", "--server", address, "--json", *map(str, words)],
                                  capture_output=True, text=True)
            if done.returncode != 0:
                if not check:
                    return None
                raise SystemExit(f"nearline {' '.join(map(str, words))}: {done.stderr}{done.stdout}")
            return json.loads(done.stdout)

        def resident_mb():
            for line in open(f"/proc/{process.pid}/status"):
                if line.startswith("VmRSS"):
                    return int(line.split()[1]) / 1024

        ask.resident_mb = resident_mb
        try:
            deadline = time.monotonic() + 120
            while ask("status", check=False) is None:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit((folder / "server.log").read_text())
                time.sleep(0.02)
            yield ask
        finally:
            process.terminate()
            process.wait()

    def synthesize(self, name, **options):
        folder = self.work / name
        words = [f"--{key}={value}" for key, value in options.items()]
        self.run("nearline-train", "synthesize", folder, *words)
        return folder


def per_query(rows, name):
    """Microseconds of processor time a query, by repetition."""
    return {i: row["cpu_per_query"] * 1e6 for i, row in rows.get(name, {}).items()}


def over(a, b, factor=1.0):
    return [factor * a[i] / b[i] for i in sorted(a) if i in b]


def scan(bins, report, full):
    """The scan against the bare product and the plain LibTorch path."""
    batches = (8, 32, 128) if full else (32,)
    shapes = ((3500, 600), (20000, 600)) if full else ((3500, 600),)
    names = "|".join(f"items:{n}/dim:{d}/" for n, d in shapes)
    rows = bins.micro(f"BM_(Product|Scan|PlainScan)/.*({names})|BM_(PartialSort|TopK)/items:({'|'.join(str(n) for n, _ in shapes)})/",
                      0.1 if full else 0.05)
    for n, d in shapes:
        for int8, precision in ((0, "f32"), (1, "int8")):
            key = f"int8:{int8}/items:{n}/dim:{d}"
            for batch in batches:
                product = per_query(rows, f"BM_Product/{key}/batch:{batch}")
                for k in (11, 100):
                    whole = per_query(rows, f"BM_Scan/{key}/batch:{batch}/k:{k}")
                    if not whole or not product:
                        continue
                    report.add(f"scan.{precision}.{n}.batch{batch}.k{k}",
                               f"scan with masks, top-{k} and exact scores against the bare product, {n} x {d}, batch {batch}, {precision}",
                               over(whole, product), 1.3 if precision == "f32" else None, False,
                               us_a_query=median(whole.values()), product_us=median(product.values()))
            lone = per_query(rows, f"BM_Product/{key}/batch:1")
            for batch, k in ((1, 1000), (32, 1000)):
                whole = per_query(rows, f"BM_Scan/{key}/batch:{batch}/k:{k}")
                product = lone if batch == 1 else per_query(rows, f"BM_Product/{key}/batch:{batch}")
                sort = per_query(rows, f"BM_PartialSort/items:{n}/k:{k}")
                if whole and product and sort:
                    report.add(f"topk.{precision}.{n}.batch{batch}.k{k}",
                               f"what top-{k} and exact scores of its rows add to the product, against std::partial_sort over stored scores, {n} x {d}, batch {batch}, {precision}",
                               [(whole[i] - product[i]) / sort[i] for i in sorted(whole)],
                               added_us=median([whole[i] - product[i] for i in whole]), sort_us=median(sort.values()))
        sort, ours = (per_query(rows, f"BM_{program}/items:{n}/k:1000") for program in ("PartialSort", "TopK"))
        report.add(f"topk.{n}.k1000", f"std::partial_sort over {n} stored scores against the scan's selection and sort of the 1,000 best",
                   over(sort, ours), 2, us=median(ours.values()), sort_us=median(sort.values()))
        for batch in (1, 32):
            plain = per_query(rows, f"BM_PlainScan/int8:0/items:{n}/dim:{d}/batch:{batch}/k:11")
            best = per_query(rows, f"BM_Scan/int8:1/items:{n}/dim:{d}/batch:{batch}/k:11") or \
                per_query(rows, f"BM_Scan/int8:0/items:{n}/dim:{d}/batch:{batch}/k:11")
            if plain:
                report.add(f"scan.torch.{n}.batch{batch}",
                           f"LibTorch's product, mask and topk against the scan as it serves, {n} x {d}, batch {batch}",
                           over(plain, best), torch_us=median(plain.values()), scan_us=median(best.values()))


def index(bins, report, full):
    """The approximate index of large catalogues against exact scans and against hnswlib."""
    items = 1_000_000 if full else 100_000
    rows = bins.micro(f"BM_(Scan|IndexScan)/int8:[01]/items:{items}/dim:64/batch:(1|32)/k:100$|BM_(Hnsw|BuildIndex)/(items:)?{items}$", 0.1)
    ours = rows[f"BM_IndexScan/int8:1/items:{items}/dim:64/batch:32/k:100"]
    found = per_query(rows, f"BM_IndexScan/int8:1/items:{items}/dim:64/batch:32/k:100")
    exact = per_query(rows, f"BM_Scan/int8:0/items:{items}/dim:64/batch:32/k:100")
    as_served = per_query(rows, f"BM_Scan/int8:1/items:{items}/dim:64/batch:32/k:100") or exact
    graph = per_query(rows, f"BM_Hnsw/items:{items}")
    alone = per_query(rows, f"BM_IndexScan/int8:1/items:{items}/dim:64/batch:1/k:100")
    report.add(f"index.{items}", f"the exact scan in float32 against the index, {items} x 64, batch 32, the 100 best",
               over(exact, found), 10 if full else None, us_a_query=median(found.values()), exact_us=median(exact.values()))
    report.add(f"index.{items}.int8", "the exact scan as it serves smaller catalogues against it", over(as_served, found))
    report.add(f"index.{items}.recall", "of the 100 best, for queries that it was not tuned by", [row["recall"] for row in ours.values()], .95, unit="")
    if graph:
        theirs = rows[f"BM_Hnsw/items:{items}"]
        report.add(f"index.{items}.hnswlib",
                   f"hnswlib (M 16, efConstruction 200) with a recall of {median([r['recall'] for r in theirs.values()]):.3f} against it, one query at a time",
                   over(graph, alone), us_a_query=median(graph.values()),
                   build_seconds=median([r["build_seconds"] for r in theirs.values()]))
    build = rows[f"BM_BuildIndex/items:{items}"]
    report.add(f"index.{items}.build", "making it, one thread", [row["cpu_time"] / 1e9 for row in build.values()], 180, False, unit="s")


def encode(bins, report, full):
    """The first layer's gather against memory's speed."""
    rows = bins.micro("BM_(Gather|Stream)/" + ("" if full else "items:3500/rows:100"))
    for n in (3500, 20000) if full else (3500,):
        for history in (10, 100, 500) if full else (100,):
            gather = per_query(rows, f"BM_Gather/items:{n}/rows:{history}")
            stream = per_query(rows, f"BM_Stream/items:{n}/rows:{history}")
            report.add(f"gather.{n}.rows{history}",
                       f"a sum of {history} rows of 600 out of {n} against as many in order",
                       over(gather, stream), us=median(gather.values()))


def feedback(bins, report, full):
    """Durable feedback against RocksDB alone, and against the disk."""
    callers = (1, 8, 64) if full else (1, 64)
    sizes = (1, 100, 1000) if full else (1, 100)
    pattern = "BM_BareSync/real_time|BM_(DurableFeedback|BareRocksDb)/events:(%s)/real_time/threads:(%s)$" % (
        "|".join(map(str, sizes)), "|".join(map(str, callers)))
    rows = bins.micro(pattern, 0.2 if full else 0.1)
    for events in sizes:
        for threads in callers:
            key = f"events:{events}/real_time/threads:{threads}"
            ours, bare = rows[f"BM_DurableFeedback/{key}"], rows[f"BM_BareRocksDb/{key}"]
            rate = {i: row["items_per_second"] for i, row in ours.items()}
            base = {i: row["items_per_second"] for i, row in bare.items()}
            report.add(f"feedback.{events}.callers{threads}",
                       f"durable events a second, {events} a call, {threads} callers, against RocksDB alone",
                       over(rate, base), 0.8, events_a_second=median(rate.values()))
    sync = rows["BM_BareSync/real_time"]
    report.add("feedback.sync", "a bare fdatasync of 4 kB", [row["real_time"] / 1e3 for row in sync.values()], unit="us")


def rounds(result, call):
    return [r for r in result["rounds"] if r["call"] == call]


def load(ask, report, name, what, throughput, p99, seconds, floor=None, floor_goal=None):
    """Recommend on a running server against the empty call."""
    bench = ("bench", "--seconds", seconds, "--repetitions", REPETITIONS, "--users", 1000)
    result = ask(*bench, "recommend")
    empty, calls = rounds(result, "empty"), rounds(result, "recommend")
    if any(r["errors"] for r in calls) or any("popular" in r["served_by"] for r in calls):
        raise SystemExit(f"{name}: calls failed, or were not answered by the model: {calls}")
    report.add(f"{name}.throughput", f"Recommend's throughput against an empty call's: {what}",
               [c["calls_per_second"] / e["calls_per_second"] for c, e in zip(calls, empty)], throughput,
               calls_per_second=median([c["calls_per_second"] for c in calls]))
    added = [c["processor_us"] - e["processor_us"] for c, e in zip(calls, empty)]
    if floor:
        report.add(f"{name}.added", "processor time added to an empty call, client included, against that of the bare int8 product and gather",
                   [a / floor for a in added], floor_goal, False, added_us=median(added), floor_us=floor,
                   empty_us=median([e["processor_us"] for e in empty]))
    clocked = ask(*bench, "recommend", "--load", 0.5)
    report.add(f"{name}.p99", "99th percentile at half of that load against the empty call's",
               [c["p99_ms"] / e["p99_ms"] for c, e in zip(rounds(clocked, "recommend"), rounds(clocked, "empty"))],
               p99, False, p99_ms=median([c["p99_ms"] for c in rounds(clocked, "recommend")]))


def serve(bins, report, full):
    """A server under load: Mult-VAE at two sizes, and two stages."""
    amx = "amx_int8" in report.about["instructions"]
    micro = bins.micro("BM_Product/int8:[01]/items:(3500|20000)/dim:600/batch:32$|BM_Gather/items:(3500|20000)/rows:100$")
    seconds = 2 if full else 1
    plans = [("P1", 3500, "", (.75 if amx else .6, 2, 2)), ("P2b", 3500, "neumf", (None, None, None))]
    plans.insert(1, ("P2", 20000, "", (.6 if amx else .35, None, 1.5)))
    for name, items, ranker, (throughput, p99, floor_goal) in plans:
        if name == "P2" and not full:
            continue
        folder = bins.synthesize(name, items=items, **({"ranker": ranker} if ranker else {}))
        product = per_query(micro, f"BM_Product/int8:1/items:{items}/dim:600/batch:32") or \
            per_query(micro, f"BM_Product/int8:0/items:{items}/dim:600/batch:32")
        floor = median(product.values())
        if name == "P1":
            floor += median(per_query(micro, f"BM_Gather/items:{items}/rows:100").values())
        with bins.server(folder) as ask:
            ask("import", folder / "import")
            load(ask, report, name, f"{items} x 600{', NeuMF over 200' if ranker else ''}",
                 throughput, p99, seconds, None if ranker else floor, floor_goal)
            if name == "P1":
                result = ask("bench", "batched", "--seconds", seconds, "--repetitions", REPETITIONS)
                report.add("batching", "an empty call through the queue of Recommend, throughput against one answered inline",
                           [c["calls_per_second"] / e["calls_per_second"]
                            for c, e in zip(rounds(result, "batched"), rounds(result, "empty"))])
                mixed = ask("bench", "mixed", "--events", 1, "--seconds", seconds, "--repetitions", REPETITIONS)
                report.add("mixed", "nine Recommend and one durable event, throughput against an empty call's",
                           [sum(r["calls_per_second"] for r in mixed["rounds"][i + 1:i + 3]) / mixed["rounds"][i]["calls_per_second"]
                            for i in range(0, len(mixed["rounds"]), 3)])
        shutil.rmtree(folder)
    one, two = report.figures["P1.throughput"], report.figures["P2b.throughput"]
    report.add("P2b.of_P1", "two stages' throughput as a share of one stage's", [two["median"] / one["median"]], .5)


def overload(bins, report, full):
    """Twice as many calls as can be answered, each of use for 100 ms."""
    folder = bins.synthesize("overload", items=20000)
    seconds = 3 if full else 1
    with bins.server(folder) as ask:
        ask("import", folder / "import")
        shares, refused = [], []
        for _ in range(REPETITIONS):
            bench = ("bench", "recommend", "--baseline", "none", "--repetitions", 1, "--seconds", seconds, "--warm-up", 0.5)
            peak = ask(*bench)["rounds"][0]["calls_per_second"]
            round = ask(*bench, "--rate", 2 * peak, "--deadline", 0.1)["rounds"][0]
            shares.append(round["calls_per_second"] / peak)
            refused.append((round["errors"] + round["not_begun"]) / (round["errors"] + round["calls"] + round["not_begun"]))
        report.add("overload.goodput", "answers in time a second under twice the load, against the most without a clock; the generator shares the processors, and cannot send more",
                   shares, .9, not_in_time=median(refused))
    shutil.rmtree(folder)


def swap(bins, report, full):
    """Recommend while the service trains, loads, warms up and swaps."""
    folder = bins.synthesize("swap", items=3500)
    seconds = 4 if full else 1
    with bins.server(folder) as ask:
        ask("import", folder / "import")
        bench = ("bench", "recommend", "--baseline", "none", "--seconds", seconds)
        most = median([r["calls_per_second"] for r in ask(*bench, "--repetitions", 3)["rounds"]])
        bench += ("--rate", most / 4, "--warm-up", 0.5)
        for name, what, work in (("P6.swap", "a generation is loaded, warmed up and swapped in every second", ("rollback", "g-synthetic-1")),
                                 ("P6.train", "the trainer runs, with one thread", ("retrain",))):
            idle, busy, done = [], [], []
            # A training takes long: there is one.
            turns = REPETITIONS if name == "P6.swap" else 1
            for _ in range(turns):
                asked = (*bench, "--repetitions", REPETITIONS // turns)
                idle += ask(*asked)["rounds"]
                stop = threading.Event()

                def loop():
                    while not stop.is_set():
                        done.append(ask(*work, check=False))
                        stop.wait(1)

                thread = threading.Thread(target=loop)
                thread.start()
                busy += ask(*asked)["rounds"]
                stop.set()
                thread.join()
            # A retraining that the gate keeps out has trained all the same.
            if name == "P6.swap" and None in done:
                raise SystemExit("a generation could not be swapped in")
            report.add(name, f"99th percentile of Recommend at a quarter of the most while {what}, against idle",
                       [b["p99_ms"] / i["p99_ms"] for b, i in zip(busy, idle)], 1.5, False,
                       idle_ms=median([r["p99_ms"] for r in idle]), times=len(done), failed=sum(r["errors"] for r in busy), p99_ms=median([r["p99_ms"] for r in busy]))
    shutil.rmtree(folder)


def start(bins, report, full):
    """From the start of the process to its first answer, with a full store."""
    users, history = (1_000_000, 10) if full else (20_000, 10)
    folder = bins.synthesize("start", items=20000, dim=64, retriever="elsa", users=users, history=history)
    with bins.server(folder) as ask:
        ask("import", folder / "import")
    shutil.rmtree(folder / "import")
    seconds, memory = [], []
    for _ in range(REPETITIONS):
        began = time.monotonic()
        with bins.server(folder) as ask:
            ask("recommend", "user-0000007")
            seconds.append(time.monotonic() - began)
            memory.append(ask.resident_mb())
    report.add("P12.start", f"to the first answer, with {users:,} users and {users * history:,} events", seconds, 2, False, unit="s",
               resident_mb=median(memory))
    shutil.rmtree(folder)


# All users alike, in turn with empty calls.
EVENLY = ("bench", "recommend", "--seconds", 1, "--warm-up", 0.5, "--repetitions", REPETITIONS, "--skew", 0)


def added(result):
    """Microseconds of processor time beyond an empty call's, one a repetition."""
    calls = rounds(result, "recommend")
    if any(r["errors"] for r in calls) or any("popular" in r["served_by"] for r in calls):
        raise SystemExit(f"calls failed, or were not answered by the model: {calls}")
    return [max(0.1, c["processor_us"] - e["processor_us"]) for c, e in zip(calls, rounds(result, "empty"))]


def by_items(bins, report, full):
    served, exact = {}, {}
    for items in (1_000, 10_000, 100_000, 1_000_000) if full else (1_000, 10_000):
        folder = bins.synthesize("items", items=items, dim=64, retriever="elsa")
        with bins.server(folder) as ask:
            ask("import", folder / "import")
            served[items] = added(ask(*EVENLY))
        if items >= 100_000:
            with bins.server(folder, NEARLINE_SERVING_INDEX_ITEMS="0") as ask:
                exact[items] = added(ask(*EVENLY))
        shutil.rmtree(folder)
    exact = {items: served[items] for items in served if items < 100_000} | exact
    report.curve("items", "An answer, by the size of the catalogue (64 numbers an item)", "items",
                 "us of processor time beyond an empty call", {"as served": served, "without the index": exact if full else {}})


def by_history(bins, report, full):
    ways = {"history read anew": {"NEARLINE_SERVING_QUERY_CACHE_MB": "0", "NEARLINE_SERVING_ENCODER_STATES_MB": "0"},
            "its sum kept": {"NEARLINE_SERVING_QUERY_CACHE_MB": "0"},
            "the query kept": {}}
    series = {way: {} for way in ways}
    for history in (1, 10, 20, 50, 100, 200, 500) if full else (10, 100):
        folder = bins.synthesize("history", items=3500, history=history)
        with bins.server(folder) as ask:
            ask("import", folder / "import")
        for way, environment in ways.items():
            with bins.server(folder, **environment) as ask:
                series[way][history] = added(ask(*EVENLY))
        shutil.rmtree(folder)
    report.curve("history", "An answer of Mult-VAE, 3,500 x 600, by the length of the history", "items of the history",
                 "us of processor time beyond an empty call", series)


def by_batch(bins, report, full):
    rows = bins.micro("BM_(Product|Scan)/int8:1/items:3500/dim:600/batch:[0-9]*(/k:11)?$")
    batches = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    key = "int8:1/items:3500/dim:600/batch:"
    series = {name: {b: list(per_query(rows, f"BM_{program}/{key}{b}{rest}").values()) for b in batches
                     if f"BM_{program}/{key}{b}{rest}" in rows}
              for name, program, rest in (("scan, 11 best", "Scan", "/k:11"), ("bare product", "Product", ""))}
    if any(series.values()):
        report.curve("batch", "Scanning 3,500 x 600 in int8, by the size of the batch", "queries together", "us a query", series)


def by_hot_users(bins, report, full):
    cost, beyond = {}, {}
    for users in (1_000, 10_000, 100_000, 1_000_000) if full else (1_000, 10_000):
        folder = bins.synthesize("users", items=3500, dim=64, retriever="elsa", users=users, history=10)
        environment = {"NEARLINE_STORE_HOT_PROFILES_MB": "4096", "NEARLINE_SERVING_QUERY_CACHE_MB": "0"}
        with bins.server(folder, **environment) as ask:
            ask("import", folder / "import")
        with bins.server(folder, **environment) as ask:
            bench = ("bench", "recommend", "--skew", 0, "--warm-up", 0)
            ask(*bench, "--users", 1000, "--seconds", 1, "--repetitions", 1)
            bench += ("--users", users)
            few, small = ask("status")["hot_profiles"], ask.resident_mb()
            # Most come to be asked for; of a million as many as a minute allows.
            ask(*bench, "--baseline", "none", "--seconds", min(60, max(1, users / 5_000)), "--repetitions", 1)
            many, large = ask("status")["hot_profiles"], ask.resident_mb()
            if int(many) > 50_000:  # fewer are lost in what the allocator keeps
                beyond[int(many)] = [(large - small) * 1024 * 1024 / (int(many) - int(few))]
            cost[int(many)] = added(ask(*bench, "--seconds", 1, "--repetitions", REPETITIONS))
        shutil.rmtree(folder)
    report.curve("hot_users", "An answer, by the users in memory (3,500 items x 64, histories of 10)", "users",
                 "us of processor time beyond an empty call", {"served": cost})
    if beyond:
        # A history's entry has 24 bytes; the set of what was seen is in the rest.
        largest = max(beyond)
        report.add("P10.hot_user", f"resident memory a hot user beyond the 240 bytes of a history of 10, {largest:,} of them",
                   [bytes - 240 for bytes in beyond[largest]], unit="B")


def sizes(bins, report, full):
    """What an answer costs by size: items, histories, batches, users in memory."""
    by_items(bins, report, full)
    by_history(bins, report, full)
    by_batch(bins, report, full)
    by_hot_users(bins, report, full)


PARTS = {"scan": scan, "index": index, "encode": encode, "feedback": feedback, "serve": serve,
         "overload": overload, "swap": swap, "start": start, "sizes": sizes}
FULL_ONLY = ("sizes",)  # unless asked for


def compare(old, report):
    """What moved by more than both spreads, since an earlier report."""
    for what in ("mode", "machine", "instructions"):
        if old["about"][what] != report.about[what]:
            print(f"\nNot alike: {what} was {old['about'][what]}, is {report.about[what]}")
    print(f"\nAgainst {old['about']['commit']} on {old['about']['machine']}, {old['about']['time']}:")
    moved = 0
    for name, f in report.figures.items():
        before = old["figures"].get(name)
        if before is None or not (f["low"] > before["high"] or f["high"] < before["low"]):
            continue
        moved += 1
        up = f["median"] > before["median"]
        better = up == f["least"] if "least" in f else None
        word = {True: "better", False: "WORSE", None: "changed"}[better]
        print(f"  {word:8} {name:36} {before['median']:.2f} -> {f['median']:.2f}")
    if moved == 0:
        print("  nothing moved by more than its spread")


def main():
    parser = argparse.ArgumentParser(prog="run.sh")
    parser.add_argument("root")
    parser.add_argument("mode", nargs="?", choices=("quick", "full"), default="quick")
    parser.add_argument("--compare", metavar="OLD.json", help="an earlier report.json")
    parser.add_argument("--only", help="parts, by comma")
    parser.add_argument("--list", action="store_true", help="name the parts")
    args = parser.parse_args()
    if args.list:
        for name, part in PARTS.items():
            print(f"{name:10} {part.__doc__.splitlines()[0]}")
        return
    parts = args.only.split(",") if args.only else [p for p in PARTS if args.mode == "full" or p not in FULL_ONLY]
    for part in parts:
        if part not in PARTS:
            raise SystemExit(f"--only {part}: expected some of {', '.join(PARTS)}")
    old = json.loads(pathlib.Path(args.compare).read_text()) if args.compare else None
    report = Report(args.root, args.mode)
    out = pathlib.Path(args.root) / "build/bench"
    out.mkdir(parents=True, exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(prefix="work.", dir=out))
    try:
        bins = Bins(args.root, work)
        for part in parts:
            print(f"\n== {part}: {PARTS[part].__doc__.splitlines()[0]}", flush=True)
            PARTS[part](bins, report, args.mode == "full")
    finally:  # what there is, also of a run that ends early
        shutil.rmtree(work)
        (out / "report.json").write_text(json.dumps({"about": report.about, "figures": report.figures, "curves": report.curves}, indent=1))
        for name, c in report.curves.items():
            (out / f"{name}.svg").write_text(curves.picture(c["title"], c["x"], c["y"], c["series"]))
        (out / "report.md").write_text(report.markdown())
    print(f"\n{out / 'report.md'}")
    if old is not None:
        compare(old, report)


if __name__ == "__main__":
    sys.exit(main())
