#!/usr/bin/env python3
"""Rules, dashboard and runbooks against a real server that a real Prometheus scrapes.

usage: watching_test.py BIN [RulesTest|DashboardTest[.test_NAME] ...]
Skipped (exit 77) where Debian's prometheus (with promtool) or python3-yaml is not installed.
"""
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse
import urllib.request

try:
    import yaml
except ImportError:
    if sys.executable != "/usr/bin/python3" and os.path.exists("/usr/bin/python3"):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    print("SKIPPED: python3-yaml is not installed")
    sys.exit(77)
if not shutil.which("prometheus") or not shutil.which("promtool"):
    print("SKIPPED: prometheus is not installed")
    sys.exit(77)

BIN = pathlib.Path(sys.argv[1]).resolve()
ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus/nearline-rules.yaml"
RULES_TEST = DEPLOY / "prometheus/nearline-rules.test.yaml"
RUNBOOKS = ROOT / "docs/runbooks"

# Those of Prometheus itself.
OWN = {"ALERTS", "up"}
# Only where a control group limits it.
SOMETIMES = {"nearline_memory_limit_bytes", "nearline_memory_used_bytes"}

CONFIG = """
training:
  first: ""
  retriever: ease
  ranker: ""
  min_holdout_users: 20
store: {free_space_reserve_mb: 0}
"""
# With TLS and a backup, which some metrics need.
TLS = """
tls: {{certificate: {folder}/server.pem, key: {folder}/key.pem}}
backup: {{dir: {folder}/backups}}
retention: {{max_age: 876000h}}
log: {{audit: {folder}/audit.log}}
"""
PROMETHEUS = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: nearline
    static_configs: [{{targets: ["{target}"]}}]
"""
# What Grafana fills in.
VARIABLES = {"$__rate_interval": "10s", "$instance": ".+"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def rules():
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts():
    return [rule for rule in rules() if "alert" in rule]


def dashboard():
    return json.loads((DEPLOY / "grafana/nearline.json").read_text())


def panels():
    found = []
    waiting = list(dashboard()["panels"])
    while waiting:
        panel = waiting.pop(0)
        waiting += panel.get("panels", [])
        if panel["type"] != "row":
            found.append(panel)
    return found


def filled_in(query):
    """As Prometheus gets it."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def panel_queries():
    """(title, query) of every panel."""
    return [(p["title"], filled_in(t["expr"])) for p in panels() for t in p["targets"]]


def queries():
    """Also of what is marked on the panels, which is rare by nature."""
    marks = dashboard()["annotations"]["list"]
    return panel_queries() + [(m["name"], filled_in(m["expr"])) for m in marks if "expr" in m]


def metrics_in(query):
    """The names of metrics in a query: what is left when strings, selectors, ranges, lists of
    labels, functions and words of the language are taken away."""
    query = re.sub(r'"[^"]*"', "", query)
    query = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", query)
    query = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", query)
    words = re.findall(r"(?<![\w.])([a-zA-Z_:][\w:]*)(?!\w)(?!\s*\()", query)
    return set(words) - {"and", "or", "unless", "offset", "bool", "sum", "by", "without"}


def runbook_queries():
    """Page to its queries, one a line of a block of promql."""
    return {page: [line for block in re.findall(r"```promql\n(.*?)```", page.read_text(), re.S)
                   for line in block.splitlines() if line] for page in RUNBOOKS.glob("*.md")}


def base(name, exported):
    """The family that a series belongs to."""
    for suffix in ("_bucket", "_sum", "_count"):
        if name.endswith(suffix) and name.removesuffix(suffix) in exported:
            return name.removesuffix(suffix)
    return name


def promtool(*words):
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


class RulesTest(unittest.TestCase):
    """What can be told without a server."""

    def test_promtool_finds_the_rules_good(self):
        code, said = promtool("check", "rules", RULES)
        self.assertEqual(code, 0, said)

    def test_promtool_finds_the_configuration_good(self):
        code, said = promtool("check", "config", DEPLOY / "prometheus/prometheus.yml")
        self.assertEqual(code, 0, said)

    def test_alerts_fire_and_stay_silent_as_their_test_says(self):
        code, said = promtool("test", "rules", RULES_TEST)
        self.assertEqual(code, 0, said)

    def test_every_alert_is_tested_firing_and_silent(self):
        firing, silent = set(), set()
        for test in yaml.safe_load(RULES_TEST.read_text())["tests"]:
            for case in test["alert_rule_test"]:
                (firing if case["exp_alerts"] else silent).add(case["alertname"])
        names = [a["alert"] for a in alerts()]
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual(firing, set(names))
        self.assertEqual(silent, set(names))

    def test_every_alert_says_what_it_should(self):
        for alert in alerts():
            with self.subTest(alert["alert"]):
                self.assertIn(alert["labels"]["severity"], ("critical", "warning"))
                self.assertTrue(alert["annotations"]["summary"])
                self.assertTrue(alert["annotations"]["description"])

    def test_every_alert_has_a_runbook_and_the_index_lists_it(self):
        index = (RUNBOOKS / "README.md").read_text()
        prefixes, linked = set(), set()
        for alert in alerts():
            with self.subTest(alert["alert"]):
                prefix, _, page = alert["annotations"]["runbook_url"].rpartition("/")
                prefixes.add(prefix)
                linked.add(page)
                self.assertTrue((RUNBOOKS / page).is_file(), f"docs/runbooks/{page} is missing")
                self.assertIn(alert["alert"], (RUNBOOKS / page).read_text())
                self.assertIn(f"| [{alert['alert']}]({page}) |", index)
        self.assertEqual(len(prefixes), 1, "runbook_url has one prefix")
        pages = {p.name for p in RUNBOOKS.glob("*.md")} - {"README.md"}
        self.assertEqual(pages, linked, "pages that no alert links, or the other way round")
        for name in re.findall(r"\[(Nearline\w+)\]", index):
            self.assertIn(name, [a["alert"] for a in alerts()])

    def test_links_between_runbooks_lead_somewhere(self):
        for page in RUNBOOKS.glob("*.md"):
            for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
                self.assertTrue((page.parent / target).exists(), f"{page.name}: {target}")

    def test_queries_in_runbooks_are_queries(self):
        wrong = {"groups": [{"name": "runbooks", "rules": [
            {"record": f"of_{page.stem.replace('-', '_')}", "expr": query, "labels": {"at": str(n)}}
            for page, found in runbook_queries().items() for n, query in enumerate(found)]}]}
        self.assertGreater(len(wrong["groups"][0]["rules"]), 30)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(wrong, file)
            file.flush()
            code, said = promtool("check", "rules", file.name)
        self.assertEqual(code, 0, said)

    def test_commands_and_keys_in_runbooks_exist(self):
        """In code spans and blocks: nearline COMMAND --OPTION ..., and keys of the configuration."""
        described = yaml.safe_load(subprocess.run([BIN / "nearline-server", "--describe-config"],
                                                  capture_output=True, text=True, check=True).stdout)
        keys = {key for key in described} | {f"{section}.{key}" for section, inner in described.items()
                                             if isinstance(inner, dict) for key in inner}
        keys |= {"training.parameters"} | {key.split(".")[0] + ".*" for key in keys if "." in key}
        sections = {key.split(".")[0] for key in keys if "." in key}
        helps = {}

        def help_of(*words):
            if words not in helps:
                done = subprocess.run([BIN / words[0], *words[1:], "--help"], capture_output=True, text=True)
                helps[words] = done.stdout if done.returncode == 0 else None
            return helps[words]

        for page in RUNBOOKS.glob("*.md"):
            text = page.read_text()
            blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
            spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
            for code in [" ".join(s.split()) for s in spans] + [l for b in blocks for l in b.splitlines()]:
                with self.subTest(page=page.name, code=code):
                    code = code.split("#")[0].strip()
                    if match := re.match(r"(nearline(?:-server|-train)?) (.*)", code):
                        words = match[2].split()
                        command = [match[1]] + words[:1] * (not words[0].startswith("-"))
                        self.assertIsNotNone(help_of(*command), "no such command")
                        told = help_of(*command) + help_of(command[0])
                        for option in (w for w in words if w.startswith("--")):
                            self.assertIn(option, told)
                    elif match := re.fullmatch(r"(\w+)(\.[\w*]+)?(: \S+)?", code):
                        if match[1] in sections and match[2]:
                            self.assertIn(match[1] + match[2], keys)

    def test_provisioning_fits_together(self):
        compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
        for service in compose["services"].values():
            for port in service.get("ports", []):
                self.assertTrue(port.startswith("127.0.0.1:"), port)
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                if source.startswith("."):
                    self.assertTrue((DEPLOY / source).exists(), source)
                else:
                    self.assertIn(source, compose["volumes"])
        grafana = compose["services"]["grafana"]
        [provider] = yaml.safe_load(
            (DEPLOY / "grafana/provisioning/dashboards/nearline.yaml").read_text())["providers"]
        home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        self.assertEqual(str(pathlib.PurePath(home).parent), provider["options"]["path"])
        self.assertTrue(any(v.split(":")[1] == home for v in grafana["volumes"]))
        [source] = yaml.safe_load(
            (DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
        self.assertEqual(urllib.parse.urlsplit(source["url"]).hostname, "prometheus")
        [scrape] = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
        self.assertEqual(scrape["static_configs"][0]["targets"], ["nearline:9464"])
        self.assertIn("nearline", compose["services"])

    def test_the_dashboard_is_in_order(self):
        ids = [p["id"] for p in dashboard()["panels"]]
        self.assertEqual(len(ids), len(set(ids)))
        variables = {v["name"] for v in dashboard()["templating"]["list"]}
        self.assertEqual(variables, {"datasource", "instance"})
        taken = set()
        for panel in dashboard()["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            self.assertLessEqual(at["x"] + at["w"], 24, panel["title"])
            self.assertFalse(cells & taken, f"{panel['title']} lies on another panel")
            taken |= cells
        for panel in panels():
            self.assertEqual(panel["datasource"], {"type": "prometheus", "uid": "${datasource}"})
            self.assertTrue(panel["targets"], panel["title"])


class DashboardTest(unittest.TestCase):
    """A server under light load, scraped every second."""

    @classmethod
    def setUpClass(cls):
        cls.temp = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.temp.name)
        cls.processes = []
        cls.stop = threading.Event()
        cls.load = None
        try:
            cls.begin()
        except BaseException:
            cls.end()
            raise

    @classmethod
    def tearDownClass(cls):
        cls.end()

    @classmethod
    def begin(cls):
        cls.address, cls.metrics = (f"127.0.0.1:{free_port()}" for _ in range(2))
        config = cls.folder / "nearline.yaml"
        config.write_text(CONFIG + TLS.format(folder=cls.folder))
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "90", "-subj",
                        "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout",
                        cls.folder / "key.pem", "-out", cls.folder / "server.pem"],
                       check=True, capture_output=True)
        with open(cls.folder / "server.log", "ab") as log:
            cls.processes.append(subprocess.Popen(
                [BIN / "nearline-server", "--config", config], stderr=log,
                env={**os.environ, "NEARLINE_LISTEN": cls.address, "NEARLINE_METRICS_LISTEN": cls.metrics,
                     "NEARLINE_DATA_DIR": str(cls.folder / "data")}))
        cls.wait("the server", lambda: cls.run_cli("status", check=False).returncode == 0, 60)

        prometheus = cls.folder / "prometheus.yml"
        prometheus.write_text(PROMETHEUS.format(rules=json.dumps(str(RULES)), target=cls.metrics))
        cls.prometheus = f"127.0.0.1:{free_port()}"
        with open(cls.folder / "prometheus.log", "ab") as log:
            cls.processes.append(subprocess.Popen(
                ["prometheus", f"--config.file={prometheus}", f"--storage.tsdb.path={cls.folder / 'tsdb'}",
                 f"--web.listen-address={cls.prometheus}", "--log.level=warn"], stdout=log, stderr=log))
        cls.wait("Prometheus", cls.ready, 60)

        demo = cls.folder / "demo"
        subprocess.run([BIN / "nearline-train", "generate", demo, "--users", "300", "--items", "100",
                        "--events-a-user", "20"], check=True, capture_output=True)
        cls.run_cli("import", demo)
        cls.run_cli("retrain")
        cls.run_cli("backup")
        cls.load = threading.Thread(target=cls.keep_busy)
        cls.load.start()

    @classmethod
    def end(cls):
        cls.stop.set()
        if cls.load is not None:
            cls.load.join()
        for process in cls.processes:
            process.send_signal(signal.SIGTERM)
        for process in cls.processes:
            process.wait(timeout=60)
        cls.temp.cleanup()

    @classmethod
    def keep_busy(cls):
        """Recommends, feedback, and a call that fails by the caller's fault."""
        while not cls.stop.is_set():
            cls.run_cli("bench", "mixed", "--rate", 30, "--seconds", 2, "--repetitions", 1, "--warm-up", 0,
                        "--baseline", "none", "--connections", 1, "--users", 300, "--events", 5, check=False)
            cls.run_cli("items", "--get", "nothing", check=False)

    @classmethod
    def wait(cls, what, condition, seconds):
        deadline = time.monotonic() + seconds
        while not condition():
            if any(p.poll() is not None for p in cls.processes) or time.monotonic() > deadline:
                logs = "".join(p.read_text() for p in cls.folder.glob("*.log"))
                raise AssertionError(f"{what} did not come: {logs}")
            time.sleep(.1)

    @classmethod
    def run_cli(cls, *words, check=True):
        done = subprocess.run([BIN / "nearline", "--server", cls.address, "--ca", cls.folder / "server.pem",
                               "--json", *map(str, words)],
                              capture_output=True, text=True, timeout=120)
        if check and done.returncode != 0:
            raise AssertionError(f"nearline {' '.join(map(str, words))}: {done.stderr}{done.stdout}")
        return done

    @classmethod
    def ready(cls):
        try:
            with urllib.request.urlopen(f"http://{cls.prometheus}/-/ready", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def ask(self, path, **parameters):
        url = f"http://{self.prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def exported(self):
        """The families in a scrape."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10) as answer:
            return set(re.findall(r"^# TYPE (\S+) ", answer.read().decode(), re.M))

    def test_no_panel_is_empty(self):
        wanted = set(panel_queries())
        self.assertGreater(len(wanted), 30)
        deadline = time.monotonic() + 60

        def has_data(query):
            result = self.ask("query", query=query)["result"]
            return any(series["value"][1] != "NaN" for series in result)

        while empty := {(title, query) for title, query in wanted if not has_data(query)}:
            if time.monotonic() > deadline:
                self.fail("no data: " + "\n".join(f"{title}: {query}" for title, query in sorted(empty)))
            time.sleep(1)

    def test_queries_without_data_are_queries(self):
        for title, query in queries():
            with self.subTest(title):
                self.ask("query", query=query)

    def test_every_metric_is_exported(self):
        self.wait("a first call", lambda: "nearline_rpc_requests_total" in self.exported(), 30)
        exported = self.exported()
        recorded = {rule["record"] for rule in rules() if "record" in rule}
        used = {}
        for title, query in queries():
            for name in metrics_in(query):
                used.setdefault(base(name, exported), title)
        for rule in rules():
            for name in metrics_in(rule["expr"]):
                used.setdefault(base(name, exported), rule.get("alert") or rule["record"])
        for page, found in runbook_queries().items():
            for name in set().union(*map(metrics_in, found)):
                used.setdefault(base(name, exported), page.name)
        known = exported | recorded | OWN | SOMETIMES
        self.assertEqual({n: where for n, where in used.items() if n not in known}, {})
        own = {name for name in exported if name.startswith(("nearline_", "process_"))}
        self.assertEqual(own - used.keys(), set(), "exported, but used nowhere")

    def test_rules_are_evaluated_and_a_healthy_server_raises_no_alarm(self):
        self.wait("an evaluation", lambda: all(
            rule["lastEvaluation"] > "0002" for group in self.ask("rules")["groups"] for rule in group["rules"]), 30)
        evaluated = [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]
        self.assertEqual(len(evaluated), len(rules()))
        self.assertEqual([(r["name"], r.get("lastError")) for r in evaluated if r["health"] != "ok"], [])
        self.assertEqual([r["name"] for r in evaluated if r.get("state") == "firing"], [])


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]], verbosity=2)
