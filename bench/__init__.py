# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: every figure in docs/performance.md comes from here."""
