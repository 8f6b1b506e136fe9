# SPDX-License-Identifier: Apache-2.0
"""The kernel side: the programs, and what compiles, loads and attaches them."""
