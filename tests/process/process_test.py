#!/usr/bin/env python3
"""Whole processes: start, feed, train, retrain and swap under load, kill -9, a
killed trainer, a damaged bundle, export and import.

usage: process_test.py BIN [ProcessTest.test_NAME ...]
Needs nothing but Python's standard library.
"""
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

BIN = pathlib.Path(sys.argv[1]).resolve()
FAST = """
training:
  first: ""
  retriever: mult-vae
  ranker: neumf
  min_holdout_users: 20
  parameters:
    mult-vae: {hidden: 128, latent: 32, epochs: 15}
    joint: {hidden: 64, rank: 64, epochs: 15, head_share: 0}
    neumf: {factors: 64, layer1: 32, layer2: 8, gmf_epochs: 15, mlp_epochs: 4, joint_epochs: 1}
store: {free_space_reserve_mb: 0}
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A server process with a folder of its own; `start` may be called again."""

    def __init__(self, folder, **environment):
        self.folder = pathlib.Path(folder)
        self.address = f"127.0.0.1:{free_port()}"
        self.config = self.folder / "nearline.yaml"
        self.config.write_text(FAST)
        self.environment = environment
        self.process = None

    def start(self):
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                [BIN / "nearline-server", "--config", self.config], stderr=log,
                env={**os.environ, "NEARLINE_LISTEN": self.address, "NEARLINE_METRICS_LISTEN": "",
                     "NEARLINE_DATA_DIR": str(self.folder / "data"), **self.environment})
        deadline = time.monotonic() + 60
        while self.run("status", check=False).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "server.log").read_text())
        return self

    def kill(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        return self.process.wait(timeout=60)

    def run(self, *words, check=True, timeout=600):
        done = subprocess.run(
            [BIN / "nearline", "--server", self.address, "--json", *map(str, words)],
            capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"nearline {' '.join(map(str, words))}: {done.stderr}{done.stdout}")
        return done

    def ask(self, *words, **kw):
        return json.loads(self.run(*words, **kw).stdout)


class ProcessTest(unittest.TestCase):
    def setUp(self):
        self.temp = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.temp.name)
        self.server = Server(self.folder).start()

    def tearDown(self):
        if self.server.process.poll() is None:
            self.server.kill()
        self.temp.cleanup()

    def fill(self, users=1200, items=300):
        data = self.folder / "demo"
        subprocess.run([BIN / "nearline-train", "generate", data, "--users", str(users), "--items",
                        str(items), "--events-a-user", "40"], check=True)
        return self.server.ask("import", data)

    def test_the_main_job_swaps_under_load_without_a_failed_call(self):
        filled = self.fill()
        self.assertEqual(filled["users"], 1200)
        self.assertEqual(self.server.ask("recommend", "user-00001")["served_by"], "SERVED_BY_POPULAR")
        first = self.server.ask("retrain")
        self.assertEqual(first["state"], "RUN_STATE_PUBLISHED", first)
        self.assertGreater(first["candidate"]["ndcg@10"], first["candidate"]["popularity_ndcg@10"])

        answer = self.server.ask("recommend", "user-00001")
        self.assertEqual(answer["served_by"], "SERVED_BY_RANKED")
        liked = answer["items"][0]["item"]
        self.server.ask("feedback", "user-00001", liked)
        self.assertNotIn(liked, [i["item"] for i in self.server.ask("recommend", "user-00001")["items"]])
        self.server.ask("feedback", "newcomer", liked)
        self.assertEqual(self.server.ask("recommend", "newcomer")["served_by"], "SERVED_BY_RANKED")

        stop, rounds = threading.Event(), []

        def load():
            while not stop.is_set():
                rounds.append(self.server.ask("bench", "--seconds", 0.5, "--repetitions", 1,
                                              "--in-flight", 8))

        thread = threading.Thread(target=load)
        thread.start()
        try:
            second = self.server.ask("retrain", check=False)
            # Whatever the gate said: to the other one and back, under load.
            for generation in (second["generation"], first["generation"]):
                self.server.ask("rollback", generation)
        finally:
            stop.set()
            thread.join()
        self.assertIn(second["state"], ("RUN_STATE_PUBLISHED", "RUN_STATE_REJECTED"), second)
        self.assertEqual(sum(r["errors"] for b in rounds for r in b["rounds"]), 0)
        self.assertGreater(len(rounds), 0)

        self.assertEqual(self.server.kill(signal.SIGTERM), 0)
        self.server.start()
        status = self.server.ask("status")
        self.assertEqual(status["generation"], first["generation"])
        self.assertEqual(status["sequence"], filled["events"] + 2)

        # A damaged bundle is refused while the other serves.
        good = self.folder / "data/generations" / first["generation"]
        bad = shutil.copytree(good, good.with_name("g-damaged"))
        manifest = bad / "manifest.json"
        manifest.write_text(manifest.read_text().replace(first["generation"], "g-damaged"))
        with open(bad / "weights.safetensors", "r+b") as f:
            f.seek(1000)
            f.write(b"garbage")
        refused = self.server.run("rollback", "g-damaged", check=False)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("SHA-256", refused.stderr)
        self.assertEqual(self.server.ask("status")["generation"], first["generation"])

    def test_a_ranker_that_loses_is_left_out(self):
        self.server.kill(signal.SIGTERM)
        # All but untrained, so that its order is no better than chance.
        self.server.config.write_text(FAST.replace(
            "gmf_epochs: 15, mlp_epochs: 4, joint_epochs: 1",
            "gmf_epochs: 1, gmf_learning_rate: 1e-6, mlp_epochs: 1, mlp_learning_rate: 1e-6,"
            " joint_epochs: 0"))
        self.server.start()
        self.fill(users=600, items=200)
        self.assertEqual(self.server.ask("retrain")["state"], "RUN_STATE_PUBLISHED")
        [model] = self.server.ask("models")
        self.assertEqual(model["model"], "mult-vae")
        self.assertIn("without the ranker", model["decision"])
        self.assertEqual(self.server.ask("recommend", "user-00001")["served_by"],
                         "SERVED_BY_SHORTLIST")

    def test_ease_serves_first_then_the_joint_model_which_starts_warm(self):
        self.server.kill(signal.SIGTERM)
        self.server.config.write_text(FAST.replace('  first: ""\n  retriever: mult-vae\n  ranker: neumf\n', ""))
        self.server.start()
        self.fill()
        for parent in (False, True):
            run = self.server.ask("retrain")
            self.assertEqual(run["state"], "RUN_STATE_PUBLISHED")
            models = {m["id"]: m["model"] for m in self.server.ask("models")}
            self.assertEqual(models.get(run["first_generation"]), None if parent else "ease")
            serving = next(m for m in self.server.ask("models") if m["in_service"])
            self.assertEqual(serving["model"], "joint")
            self.assertEqual(bool(serving["parent"]), parent)
        before = self.server.ask("recommend", "user-00001")
        self.assertEqual(before["served_by"], "SERVED_BY_SHORTLIST")
        best = before["items"][0]["item"]
        self.server.ask("feedback", "user-00001", best)
        after = self.server.ask("recommend", "user-00001")
        self.assertNotIn(best, [i["item"] for i in after["items"]])

    def test_kill_9_loses_and_doubles_nothing(self):
        rng = random.Random(1)
        acknowledged = set()
        for round_ in range(20):
            victims = []

            def feed(worker):
                for i in range(1000):
                    name = f"e-{round_}-{worker}-{i}"
                    done = self.server.run("feedback", "ann", name, "--event-id", name, "--timeout", 2,
                                           check=False)
                    if done.returncode != 0:
                        return
                    acknowledged.add(name)

            for worker in range(2):
                victims.append(threading.Thread(target=feed, args=(worker,)))
                victims[-1].start()
            before = len(acknowledged)
            wanted = before + rng.randrange(1, 8)
            while len(acknowledged) < wanted:
                victims[0].join(0.002)
            self.server.kill()
            for v in victims:
                v.join()
            self.server.start()
        # A repeat of everything that was acknowledged adds nothing.
        for name in rng.sample(sorted(acknowledged), 10):
            self.assertEqual(self.server.ask("feedback", "ann", name, "--event-id", name)["accepted"], 0)
        out = self.folder / "export.jsonl"
        self.server.run("export", out)
        events = [json.loads(l)["event"]["event_id"] for l in out.read_text().splitlines() if '"event"' in l]
        self.assertEqual(len(events), len(set(events)), "an event is there twice")
        self.assertLessEqual(acknowledged, set(events), "an acknowledged event is gone")

    def test_an_export_reads_back_to_the_same_state(self):
        self.fill(100, 80)
        self.server.run("feedback", "ann", "item-00003")
        self.server.run("items", "--delete", "item-00003", "film-00001")  # unlisted, listed
        out = self.folder / "export.jsonl"
        self.server.run("export", out)
        for item in ("item-00003", "film-00001"):
            self.assertIn(f'{{"deleted_item":"{item}"}}', out.read_text())
        other = tempfile.TemporaryDirectory()
        copy = Server(other.name).start()
        try:
            copy.ask("import", out)
            again = copy.ask("import", out)
            self.assertEqual(again["events"], 0)
            back = self.folder / "back.jsonl"
            copy.run("export", back)
            self.assertEqual(sorted(out.read_text().splitlines()), sorted(back.read_text().splitlines()))
            whole = back.read_text()
            # To standard output, behind what is there.
            listed = self.folder / "listed"
            listed.write_text("before\n")
            with open(listed, "a") as to:
                subprocess.run([BIN / "nearline", "--server", copy.address, "export", "-"], stdout=to, check=True)
            self.assertEqual(listed.read_text(), "before\n" + whole)
            # Without an answer the file of before stays.
            copy.kill()
            self.assertNotEqual(copy.run("export", back, "--timeout", 1, check=False).returncode, 0)
            self.assertEqual(back.read_text(), whole)
            self.assertFalse((self.folder / "back.jsonl.partial").exists())
        finally:
            copy.kill()
            other.cleanup()

    def test_of_a_file_that_has_grown_only_new_lines_count(self):
        log = self.folder / "log.csv"
        log.write_text("user,item,time\nann,heat,1700000000\nann,heat,1700000000\n")
        self.assertEqual(self.server.ask("import", log)["events"], 2)
        with log.open("a") as f:
            f.write("bob,heat,1700000001\n")
        again = self.server.ask("import", log)
        self.assertEqual((again["events"], again["duplicates"]), (1, 2))

    def test_import_names_the_wrong_line(self):
        bad = self.folder / "bad.tsv"
        bad.write_text("user\titem\tvalue\nann\theat\t4\nann\tronin\tgreat\n")
        done = self.server.run("import", bad, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn('bad.tsv:3: value "great" is no number', done.stderr)
        # What only the server can tell is named by its line too, in any batch.
        for line in (3, 10_005):
            rows = ["user\titem\ttype"] + [f"ann\ti{i % 50}\tview" for i in range(10_010)]
            rows[line - 1] = "ann\theat\thum"
            bad.write_text("\n".join(rows) + "\n")
            done = self.server.run("import", bad, check=False)
            self.assertEqual(done.returncode, 2)
            self.assertIn(f'bad.tsv:{line}: type = "hum"', done.stderr)
        # Nor can a message that is too large say where the large record stood.
        large = self.folder / "large.jsonl"
        texts = ["x" * 60_000] * 300
        large.write_text("".join(json.dumps({"id": f"i{n}", "attributes": {"tags": texts if n == 2 else ["x"]}})
                                 + "\n" for n in range(4)))
        done = self.server.run("import", large, "--kind", "items", check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("large.jsonl:3: ", done.stderr)

    def test_import_leaves_out_what_the_server_refuses(self):
        events = self.folder / "events.csv"
        lines = ["user,item,type"] + [f"ann,i{n},view" for n in range(12_000)]
        for bad in (2, 5_000, 11_000):
            lines[bad - 1] = "ann,heat,hum"
        events.write_text("\n".join(lines) + "\n")
        done = self.server.ask("import", events, "--skip-bad-lines")
        self.assertEqual((done["events"], done["skipped_lines"]), (11_997, 3))
        self.assertIn('events.csv:5000: type = "hum"', done["wrong"][1])
        items = self.folder / "items.jsonl"
        items.write_text("".join(json.dumps({"id": f"i{n}", "attributes": {"year" if n != 7 else "y" * 300: n}})
                                 + "\n" for n in range(20)))
        with items.open("a") as f:
            f.write('{"deleted_item": ""}\n{"deleted_item": "i1"}\n')
        done = self.server.ask("import", items, "--skip-bad-lines")
        self.assertEqual((done["items"], done["deleted_items"], done["skipped_lines"]), (19, 1, 2))
        self.assertIn("items.jsonl:8: ", done["wrong"][0])
        # Mended, only what was not there before counts: of lines with times wherever they stand, of
        # others what stands before.
        timed = self.folder / "timed.csv"
        timed.write_text("user,item,time\ncy,heat,1700000000\ncy\ncy,up,1700000001\ncy,up,1700000001\n")
        self.assertEqual(self.server.ask("import", timed, "--skip-bad-lines")["events"], 3)
        timed.write_text("user,item,time\ncy,heat,1700000000\ncy,ronin,1700000000\n"
                         "cy,up,1700000001\ncy,up,1700000001\n")
        again = self.server.ask("import", timed)
        self.assertEqual((again["events"], again["duplicates"]), (1, 3))
        (self.folder / "none.csv").write_text("user,item\nbob,heat\nbob,ronin\n")
        self.assertEqual(self.server.ask("import", self.folder / "none.csv")["events"], 2)
        (self.folder / "none.csv").write_text("user,item\nbob,heat\nbob,up\n")
        again = self.server.ask("import", self.folder / "none.csv")
        self.assertEqual((again["events"], again["duplicates"]), (1, 1))
        # A number and a text that looks like one are both found by a filter.
        self.server.ask("import", self.put_items({"a": 1999, "b": "1999", "c": 2000}), "--kind", "items")
        self.server.ask("feedback", "dora", "a", "b", "c")
        found = self.server.ask("recommend", "eve", "--filter", "made=1999|nan")
        self.assertEqual({i["item"] for i in found["items"]}, {"a", "b"})

    def put_items(self, made):
        path = self.folder / "made.jsonl"
        path.write_text("".join(json.dumps({"id": id, "attributes": {"made": value}}) + "\n"
                                for id, value in made.items()))
        return path

    def test_the_client_says_what_it_could_not_write(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([BIN / "nearline", "--server", self.server.address, "status"], stdout=full,
                                  stderr=subprocess.PIPE, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot write standard output", done.stderr)
        for address in ("http://localhost:50051", "localhost"):
            done = subprocess.run([BIN / "nearline", "--server", address, "status"], capture_output=True, text=True)
            self.assertEqual(done.returncode, 2)
            self.assertIn("expected host:port", done.stderr)
        frames = self.server.run("top", "--frames", 2, "--every", 0.1).stdout.splitlines()
        self.assertEqual([json.loads(frame)["device"] for frame in frames], ["cpu", "cpu"])

    def test_import_reads_every_layout(self):
        def put(name, *lines, encoding="utf-8"):
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(line + "\n" for line in lines), encoding=encoding)
            return path

        def counts(*words):
            done = self.server.ask("import", *words)
            return done["items"], done["users"], done["events"]

        put("1m/movies.dat", "1::Misérables, Les (1995)::Drama|Musical", encoding="latin-1")
        put("1m/users.dat", "u1::F::1::10::48067")
        put("1m/ratings.dat", "u1::1::5::978824268", "u2::1::1::978824269")
        self.assertEqual(counts(self.folder / "1m"), (1, 1, 2))
        movie = self.server.ask("items", "--get", "1")["attributes"]
        self.assertEqual(movie, {"title": "Misérables, Les (1995)", "year": 1995,
                                 "genres": ["Drama", "Musical"]})

        put("100k/u.item", "7|Twelve Monkeys (1995)|01-Jan-1995||http://x|" + "|".join("0" * 18) + "|1")
        put("100k/u.user", "u3|24|M|technician|85711")
        put("100k/u.data", "u3\t7\t4\t881250949")
        self.assertEqual(counts(self.folder / "100k"), (1, 1, 1))
        self.assertEqual(self.server.ask("items", "--get", "7")["attributes"]["genres"], ["Western"])

        csv = put("a.csv", "userId,movieId,rating,timestamp", 'u4,"7",3.5,964982703', "u4,1,5,964982704")
        self.assertEqual(counts(csv), (0, 0, 2))
        self.assertEqual(self.server.ask("import", csv)["duplicates"], 2)  # the same file again
        swapped = put("b.tsv", "1\tu5\tx", "7\tu5\tx")
        self.assertEqual(counts(swapped, "--columns", "user=2,item=1,value=0", "--type", "view"),
                         (0, 0, 2))
        os.utime(swapped, (1, 1))  # it has no times of its own
        again = self.server.ask("import", swapped, "--columns", "user=2,item=1,value=0", "--type", "view")
        self.assertEqual((again["events"], again["duplicates"]), (0, 2))
        # The smaller MovieLens of today, with quotes, a BOM and a file of tags.
        put("latest/movies.csv", "\ufeffmovieId,title,genres", '11,"American President, The (1995)",Comedy|Drama')
        put("latest/ratings.csv", "userId,movieId,rating,timestamp", "u6,11,4.5,964982703")
        put("latest/tags.csv", "userId,movieId,tag,timestamp", "u6,11,fun,964982703")
        self.assertEqual(counts(self.folder / "latest"), (1, 0, 1))
        self.assertEqual(self.server.ask("items", "--get", "11")["attributes"],
                         {"title": "American President, The (1995)", "year": 1995,
                          "genres": ["Comedy", "Drama"]})
        # No header, columns in another place, and one that is not asked for.
        plays = put("plays.tsv", "u7\ta-1\tBjörk\t120", "u7\ta-2\tCan\t3")
        self.assertEqual(counts(plays, "--columns", "user=1,item=2,value=4", "--type", "view"), (0, 0, 2))
        self.assertEqual([e["value"] for e in self.server.ask("users", "--history", "u7")], [3, 120])
        book = put("book.csv", '"User-ID";"ISBN";"Book-Rating"', '"u8";"0345";"5"')
        self.assertEqual(counts(book), (0, 0, 1))
        amazon = put("amazon.json", '{"reviewerID": "u9", "asin": "B0", "overall": 5.0, '
                     '"unixReviewTime": 1252800000, "summary": "fine"}')
        self.assertEqual(counts(amazon, "--columns", "user=reviewerID,item=asin,value=overall,time=unixReviewTime"),
                         (0, 0, 1))
        self.assertEqual(self.server.ask("users", "--history", "u9")[0]["time"][:10], "2009-09-13")
        shop = put("shop.csv", "", "userId,sku,price", "ub,x1,9.5")  # after an empty line
        self.assertEqual(counts(shop, "--columns", "item=sku", "--type", "purchase"), (0, 0, 1))
        put("shop.csv", "", "userId,sku,price", "ub,x1,9.5", "ub,x2,3")  # it has grown
        again = self.server.ask("import", shop, "--columns", "item=sku", "--type", "purchase")
        self.assertEqual((again["events"], again["duplicates"]), (1, 1))
        self.assertIn("shop.csv: not read: price; no column holds times", again["remarks"][0])
        marked = put("marked.jsonl", '\ufeff{"user": 7, "item": "x1", "type": "view"}')
        self.assertEqual(counts(marked), (0, 0, 1))
        mixed = put("mixed.csv", "user,item,value,time", "ua,1,5,2010-10-19 23:55:27", 'ua,"2,5,1',
                    "ua,,5,964982703", "ua,3,5,1287532527000")
        done = self.server.run("import", mixed, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("mixed.csv:3: a quote is not closed", done.stderr)
        self.assertNotEqual(self.server.run("users", "--get", "ua", check=False).returncode, 0)
        done = self.server.ask("import", mixed, "--skip-bad-lines")
        self.assertEqual((done["events"], done["skipped_lines"]), (2, 2))
        self.assertIn("mixed.csv:4: column 2, the item, is empty", done["wrong"][1])
        lines = put("c.jsonl", '{"id": "9", "attributes": {"year": 1999, "embedding": [0.5, -1]}}')
        self.assertEqual(counts(lines, "--kind", "items"), (1, 0, 0))
        self.assertEqual(self.server.ask("items", "--get", "9")["attributes"],
                         {"year": 1999, "embedding": [0.5, -1]})
        times = [e["time"] for e in self.server.ask("users", "--history", "u4")]
        self.assertEqual([t[:10] for t in times], ["2000-07-30", "2000-07-30"])

    def test_sigterm_under_load_ends_in_order(self):
        self.fill(users=50, items=50)
        bench = threading.Thread(target=self.server.run, args=("bench", "--seconds", 3),
                                 kwargs={"check": False})
        bench.start()
        time.sleep(2)
        self.assertEqual(self.server.kill(signal.SIGTERM), 0)
        bench.join()
        self.server.start()
        self.assertEqual(self.server.ask("status")["users"], 50)

    def test_the_documented_configuration_is_the_real_one(self):
        described = subprocess.run([BIN / "nearline-server", "--describe-config"], capture_output=True,
                                   text=True, check=True).stdout
        self.assertEqual(described, (pathlib.Path(__file__).parents[2] / "deploy/nearline.yaml").read_text())

    def test_exit_codes_tell_what_happened(self):
        self.assertEqual(self.server.run("--help").returncode, 0)
        self.assertEqual(self.server.run("recomend", "ann", check=False).returncode, 2)
        self.assertEqual(self.server.run("similar", "nothing", check=False).returncode, 1)
        self.server.kill()
        self.assertEqual(self.server.run("status", "--timeout", "1", check=False).returncode, 3)
        for program in ("nearline-server", "nearline-train"):
            done = subprocess.run([BIN / program, "--nonsense"], capture_output=True)
            self.assertEqual(done.returncode, 2)

    def trainer(self, script):
        """Restarts the server with a shell script for a trainer."""
        program = self.folder / "trainer"
        program.write_text("#!/bin/sh\n" + script)
        program.chmod(0o755)
        self.server.kill(signal.SIGTERM)
        self.server.environment = {"NEARLINE_TRAINING_PROGRAM": str(program),
                                   "NEARLINE_TRAINING_HANG_CPU": "10s"}
        self.server.start()
        self.server.ask("feedback", "ann", "heat")

    def test_a_trainer_killed_in_mid_run_leaves_serving_untouched(self):
        self.fill()
        first = self.server.ask("retrain")
        self.assertEqual(first["state"], "RUN_STATE_PUBLISHED", first)
        trainers = pathlib.Path(f"/proc/{self.server.process.pid}/task/")

        def kill_when_it_trains():
            while True:
                children = {child for task in trainers.glob("*/children") for child in task.read_text().split()}
                reading = any((self.folder / "data/checkpoints").glob("*/store"))
                if children and not reading and self.server.ask("status")["run_id"]:
                    for child in children:
                        os.kill(int(child), signal.SIGKILL)
                    return
                time.sleep(.05)

        thread = threading.Thread(target=kill_when_it_trains)
        thread.start()
        done = self.server.run("retrain", check=False)
        thread.join()
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("killed by signal 9", done.stdout + done.stderr)
        self.assertEqual(self.server.ask("status")["generation"], first["generation"])
        self.assertEqual(self.server.ask("recommend", "user-00001")["served_by"], "SERVED_BY_RANKED")
        self.assertEqual(list((self.folder / "data/checkpoints").glob("*")), [])

    def test_a_trainer_that_dies_hangs_or_stalls_is_reported(self):
        for script, words in (("kill -9 $$", "killed by signal 9"), ("exit 3", "exited with code 3"),
                              ("exec sleep 1000", "hung"),
                              ("echo '{\"error\": \"out of memory\"}'; exit 1", "out of memory")):
            with self.subTest(script):
                self.trainer(script)
                done = self.server.run("retrain", check=False)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(words, done.stdout + done.stderr)
                self.assertEqual(self.server.ask("status")["run_id"], "")
                self.assertEqual(list((self.folder / "data/checkpoints").glob("*")), [])

    def test_a_trainer_in_a_process_of_its_own(self):
        self.fill(users=400, items=150)
        self.server.kill(signal.SIGTERM)
        self.server.environment = {"NEARLINE_TRAINING_SOCKET": str(self.folder / "trainer.sock"),
                                   "NEARLINE_TRAINING_RANKER": ""}
        self.server.start()
        # Whoever starts first waits for the other.
        asked = subprocess.Popen([BIN / "nearline", "--server", self.server.address, "--json", "retrain"],
                                 stdout=subprocess.PIPE, text=True)
        command = [BIN / "nearline-server", "trainer", "--config", self.server.config]
        environment = {**os.environ, "NEARLINE_DATA_DIR": str(self.folder / "data"), **self.server.environment}
        trainer = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        told = asked.communicate(timeout=300)[0]
        self.assertEqual(json.loads(told)["state"], "RUN_STATE_PUBLISHED", told)
        self.assertEqual(self.server.ask("recommend", "user-00001")["served_by"], "SERVED_BY_SHORTLIST")

        # Its end in mid-run is an error in words, and not the server's.
        asked = subprocess.Popen([BIN / "nearline", "--server", self.server.address, "--json", "retrain", "--cold"],
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        log = self.folder / "data/runs"
        deadline = time.monotonic() + 60
        while len(list(log.glob("*.log"))) < 2:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
        trainer.kill()
        trainer.wait()
        failed = json.loads(asked.communicate(timeout=120)[0])
        self.assertEqual(failed["state"], "RUN_STATE_FAILED")
        self.assertIn("the trainer's container ended during the run", failed["message"])
        self.assertEqual(self.server.ask("recommend", "user-00001")["served_by"], "SERVED_BY_SHORTLIST")

        # Another one takes its place.
        trainer = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        self.addCleanup(trainer.wait)
        self.addCleanup(trainer.terminate)
        self.assertNotEqual(self.server.ask("retrain", "--cold", check=False)["state"], "RUN_STATE_FAILED")

    def test_json_logs_are_json_whatever_they_say(self):
        self.server.kill(signal.SIGTERM)
        (self.folder / "server.log").unlink()
        self.server.environment = {"NEARLINE_LOG_FORMAT": "json",
                                   "NEARLINE_TRAINING_PROGRAM": '/no "such" program'}
        self.server.start()
        self.server.run("retrain", check=False)
        self.assertEqual(self.server.kill(signal.SIGTERM), 0)
        lines = [json.loads(l) for l in (self.folder / "server.log").read_text().splitlines()]
        self.assertTrue(any("failed" in l["message"] for l in lines), lines)

    def test_a_file_size_limit_is_answered_and_recovered_from(self):
        self.server.kill(signal.SIGTERM)
        self.server.start()
        subprocess.run(["prlimit", f"--pid={self.server.process.pid}", "--fsize=30000:"], check=True)
        failed = 0
        for i in range(40):
            lines = "".join(f"ann\titem-{i}-{n}\tlike\t0\t{1_700_000_000 + n}\n" for n in range(200))
            path = self.folder / f"part-{i}.tsv"
            path.write_text("user\titem\ttype\tvalue\ttime\n" + lines)
            done = self.server.run("import", path, "--timeout", 3, check=False)
            failed += done.returncode != 0
            if done.returncode != 0:
                self.assertIn("free some disk space", done.stderr)
        self.assertGreater(failed, 0, "the limit was never met")
        subprocess.run(["prlimit", f"--pid={self.server.process.pid}", "--fsize=unlimited:"], check=True)
        for i in range(40):
            self.server.ask("import", self.folder / f"part-{i}.tsv")
        self.assertEqual(self.server.ask("status")["sequence"] >= 8000, True)
        out = self.folder / "export.jsonl"
        self.server.run("export", out)
        ids = [json.loads(l)["event"]["event_id"] for l in out.read_text().splitlines() if '"event"' in l]
        self.assertEqual(len(ids), 8000)
        self.assertEqual(len(set(ids)), 8000)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]], verbosity=2)
