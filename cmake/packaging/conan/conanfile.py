"""A Conan 2 recipe of this checkout: conan create cmake/packaging/conan"""
import os
import re

from conan import ConanFile
from conan.tools.files import copy, load


class Heed(ConanFile):
    name = "heed"
    description = "Exact and approximate attention on the CPU over Eigen matrices"
    license = "MIT"
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    no_copy_source = True

    def _checkout(self):
        return os.path.join(self.recipe_folder, "..", "..", "..")

    def set_version(self):
        header = load(self, os.path.join(self._checkout(), "include", "heed", "version.hpp"))
        self.version = ".".join(re.findall(r"#define HEED_VERSION_\w+ (\d+)", header))

    def export_sources(self):
        copy(self, "include/*", self._checkout(), self.export_sources_folder)
        copy(self, "LICENSE", self._checkout(), self.export_sources_folder)

    def requirements(self):
        self.requires("eigen/[>=3.4.0]", transitive_headers=True)

    def package_id(self):
        self.info.clear()

    def package(self):
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        copy(self, "*", os.path.join(self.source_folder, "include"), os.path.join(self.package_folder, "include"))

    def package_info(self):
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
        self.cpp_info.set_property("cmake_target_name", "heed::heed")
        self.cpp_info.set_property("pkg_config_name", "heed")
