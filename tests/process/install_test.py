#!/usr/bin/env python3
"""Installs into an empty folder, runs the installed programs, and builds a project
of its own against the installed client.

usage: install_test.py CMAKE BUILD COMPILER
"""
import pathlib
import subprocess
import sys
import tempfile
import unittest

CMAKE, BUILD, COMPILER = sys.argv[1:4]

PROJECT = """
cmake_minimum_required(VERSION 3.25)
project(ask LANGUAGES C CXX)
find_package(nearline 0.1 REQUIRED)
add_executable(ask ask.cc)
target_link_libraries(ask PRIVATE nearline::client)
"""

PROGRAM = """
#include <iostream>

#include "client/client.h"

int main() {
  nearline::client::ClientOptions options;
  options.address = "127.0.0.1:1";
  options.attempts = 1;
  nearline::client::Client client(options);
  nearline::client::api::RecommendRequest request;
  request.set_user("ann");
  std::cout << client.Recommend(request).status() << std::endl;
}
"""


def run(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


class InstallTest(unittest.TestCase):
    def setUp(self):
        self.temp = tempfile.TemporaryDirectory()
        self.addCleanup(self.temp.cleanup)
        self.folder = pathlib.Path(self.temp.name)
        self.prefix = self.folder / "prefix"

    def test_programs_find_what_they_need(self):
        run(CMAKE, "--install", BUILD, "--prefix", self.prefix, "--component", "runtime")
        top = sorted(path.name for path in self.prefix.iterdir())
        self.assertEqual(top, ["bin", "share"])
        server = self.prefix / "bin/nearline-server"
        check = run(server, "--config", self.prefix / "share/nearline/nearline.yaml", "--check-config")
        self.assertIn("configuration is good", check)
        self.assertIn("recommend", run(self.prefix / "bin/nearline", "--help"))

    def test_another_project_links_the_client(self):
        run(CMAKE, "--install", BUILD, "--prefix", self.prefix)
        source = self.folder / "project"
        source.mkdir()
        (source / "CMakeLists.txt").write_text(PROJECT)
        (source / "ask.cc").write_text(PROGRAM)
        build = self.folder / "build"
        run(CMAKE, "-G", "Ninja", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={self.prefix}",
            f"-DCMAKE_CXX_COMPILER={COMPILER}")
        run(CMAKE, "--build", build)
        self.assertIn("UNAVAILABLE", run(build / "ask"))


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]], verbosity=2)
