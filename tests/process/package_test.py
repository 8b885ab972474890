#!/usr/bin/env python3
"""The Debian package: what is in it, what it needs, and a unit that systemd takes.

usage: package_test.py CPACK BUILD
Skipped (77) without dpkg-deb or file, which packing needs.
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

CPACK, BUILD = sys.argv[1], pathlib.Path(sys.argv[2])
ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(*words):
    return subprocess.run([str(w) for w in words], capture_output=True, text=True)


class PackageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temp = tempfile.TemporaryDirectory()
        folder = pathlib.Path(cls.temp.name)
        done = run(CPACK, "--config", BUILD / "CPackConfig.cmake", "-B", folder)
        assert done.returncode == 0, done.stdout + done.stderr
        [cls.package] = folder.glob("nearline_*.deb")
        cls.tree = folder / "tree"
        cls.control = folder / "control"
        assert run("dpkg-deb", "-x", cls.package, cls.tree).returncode == 0
        assert run("dpkg-deb", "-e", cls.package, cls.control).returncode == 0

    @classmethod
    def tearDownClass(cls):
        cls.temp.cleanup()

    def test_it_holds_programs_unit_and_configuration(self):
        for program in ("nearline", "nearline-server", "nearline-train"):
            self.assertTrue((self.tree / "usr/bin" / program).stat().st_mode & 0o111)
        self.assertTrue((self.tree / "usr/share/nearline/proto/nearline/v1/admin.proto").exists())
        self.assertEqual((self.control / "conffiles").read_text(), "/etc/nearline/nearline.yaml\n")

    def test_its_configuration_is_good_and_keeps_data_where_the_unit_does(self):
        config = self.tree / "etc/nearline/nearline.yaml"
        done = run(self.tree / "usr/bin/nearline-server", "--check-config", "--config", config)
        self.assertEqual(done.returncode, 0, done.stderr)
        unit = (self.tree / "usr/lib/systemd/system/nearline.service").read_text()
        state = re.search(r"^StateDirectory=(.*)$", unit, re.M)[1]
        self.assertIn(f"\ndata_dir: /var/lib/{state}/", config.read_text())
        self.assertIn("--config /etc/nearline/nearline.yaml", unit)

    def test_it_names_the_libraries_that_it_needs(self):
        depends = re.search(r"^Depends: (.*)$", (self.control / "control").read_text(), re.M)[1]
        for library in ("libtorch", "librocksdb", "libgrpc++", "libssl", "libopenblas0-pthread"):
            self.assertIn(library, depends)

    def test_its_scripts_are_sound(self):
        for script in ("postinst", "prerm"):
            self.assertEqual(run("sh", "-n", self.control / script).returncode, 0)
            self.assertTrue((self.control / script).stat().st_mode & 0o111)

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not installed")
    def test_systemd_takes_the_unit_and_its_sandbox(self):
        unit = self.tree / "usr/lib/systemd/system/nearline.service"
        done = run("systemd-analyze", "verify", unit)
        # Of the program, which is not installed where the unit says.
        left = [line for line in (done.stdout + done.stderr).splitlines()
                if "/usr/bin/nearline-server" not in line and "nearline.service" in line]
        self.assertEqual(left, [])
        done = run("systemd-analyze", "security", "--offline=yes", "--threshold=20", unit)
        self.assertEqual(done.returncode, 0, done.stdout[-500:])


if __name__ == "__main__":
    if not shutil.which("dpkg-deb") or not shutil.which("file"):
        print("SKIPPED: dpkg-deb or file is not installed")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1], verbosity=2)
