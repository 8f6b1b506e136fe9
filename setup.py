# SPDX-License-Identifier: Apache-2.0
"""Builds the native module; everything else about the package is in setup.cfg."""

from Cython.Build import cythonize
from setuptools import Extension, setup

NATIVE = Extension(
    "trapstream_vtap._native",
    sources=["trapstream_vtap/_native.pyx"],
    depends=["trapstream_vtap/_native.hpp"],
    language="c++",
    extra_compile_args=["-std=c++17", "-O2", "-g0"],
    libraries=["bpf"],
)

setup(ext_modules=cythonize([NATIVE]))
