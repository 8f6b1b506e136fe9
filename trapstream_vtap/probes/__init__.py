# SPDX-License-Identifier: Apache-2.0
"""Probes: each loads its kernel program, attaches it, and yields batches of records."""
