# SPDX-License-Identifier: Apache-2.0
"""Builds the native modules; everything else about the package is in setup.cfg."""

from Cython.Build import cythonize
from setuptools import Extension, setup

NATIVE = [
    Extension(
        f"trapstream_vtap.{name}",
        sources=[f"trapstream_vtap/{name}.pyx"],
        depends=["trapstream_vtap/_native.hpp", f"trapstream_vtap/{name}.hpp"],
        language="c++",
        extra_compile_args=["-std=c++17", "-O2", "-g0"],
        libraries=["bpf"],
    )
    for name in ("_native", "_totals")
]

setup(ext_modules=cythonize(NATIVE))
