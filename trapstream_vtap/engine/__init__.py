# SPDX-License-Identifier: Apache-2.0
"""The engine: one loop that knows no probe, a room for each that runs, a bus, one clock."""
