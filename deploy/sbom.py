#!/usr/bin/env python3
"""Writes what an image holds as SPDX 2.3 (JSON): Nearline, the Debian packages
whose files are in it and PyPI's wheels, with version and download location.

usage: sbom.py --status /var/lib/dpkg/status --packages FILE --wheels DIR --version 0.1.0
"""
import argparse
import datetime
import importlib.metadata
import json
import os
import re
import uuid


def stanzas(path):
    """The fields of each installed package, by name."""
    with open(path, encoding="utf-8") as file:
        for text in file.read().split("\n\n"):
            fields = dict(re.findall(r"^(\S+): (.*)$", text, re.M))
            if fields.get("Status", "").endswith(" installed"):
                yield fields


def spdx_id(name):
    return "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", name)


def package(identifier, name, version, supplier, location, purl):
    return {"SPDXID": spdx_id(identifier), "name": name, "versionInfo": version, "supplier": supplier,
            "downloadLocation": location, "filesAnalyzed": False, "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "NOASSERTION", "copyrightText": "NOASSERTION",
            "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                              "referenceLocator": purl}]}


def debian(fields):
    name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
    source = fields.get("Source", name).split(" ")[0]
    return package(f"deb-{name}-{architecture}", name, version, "Organization: Debian",
                   f"https://tracker.debian.org/pkg/{source}", f"pkg:deb/debian/{name}@{version}?arch={architecture}")


def wheel(found):
    name, version = found.metadata["Name"], found.version
    return package(f"pypi-{name}", name, version, "NOASSERTION", f"https://pypi.org/project/{name}/{version}/",
                   f"pkg:pypi/{name.lower()}@{version}")


def with_libraries(folder):
    """The wheels of a folder whose libraries an image takes: torch and NVIDIA's."""
    for found in importlib.metadata.distributions(path=[folder]):
        if found.metadata["Name"] == "torch" or found.metadata["Name"].startswith("nvidia-"):
            yield found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--status", required=True, help="dpkg's record of what is installed")
    parser.add_argument("--packages", help="names of those that count, a line each; default: all")
    parser.add_argument("--wheels", help="what pip installed with --target; none if it is not there")
    parser.add_argument("--version", required=True, help="of Nearline")
    arguments = parser.parse_args()
    own = {"SPDXID": "SPDXRef-nearline", "name": "nearline", "versionInfo": arguments.version,
           "downloadLocation": "NOASSERTION", "filesAnalyzed": False, "licenseConcluded": "Apache-2.0",
           "licenseDeclared": "Apache-2.0", "copyrightText": "NOASSERTION"}
    names = None
    if arguments.packages:
        with open(arguments.packages, encoding="utf-8") as file:
            names = set(file.read().split())
    packages = [debian(fields) for fields in stanzas(arguments.status) if names is None or fields["Package"] in names]
    if arguments.wheels:
        packages += [wheel(found) for found in with_libraries(arguments.wheels)]
    packages.sort(key=lambda p: p["SPDXID"])
    # A build that is repeated says the same time.
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.datetime.now(datetime.timezone.utc) if epoch is None else \
        datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc)
    contents = json.dumps([own, packages], sort_keys=True)
    print(json.dumps({
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": "nearline-image",
        "documentNamespace": f"https://nearline.dev/spdx/{uuid.uuid5(uuid.NAMESPACE_URL, contents)}",
        "creationInfo": {"created": now.strftime("%Y-%m-%dT%H:%M:%SZ"), "creators": ["Tool: nearline-sbom"]},
        "packages": [own, *packages],
        "relationships": [{"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES",
                           "relatedSpdxElement": "SPDXRef-nearline"}] +
                         [{"spdxElementId": "SPDXRef-nearline", "relationshipType": "DEPENDS_ON",
                           "relatedSpdxElement": p["SPDXID"]} for p in packages]}, indent=1))


if __name__ == "__main__":
    main()
