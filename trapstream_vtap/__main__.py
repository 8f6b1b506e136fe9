# SPDX-License-Identifier: Apache-2.0
"""`python -m trapstream_vtap`: the command."""

from trapstream_vtap.cli import main

main(prog_name="vtap-stream")
