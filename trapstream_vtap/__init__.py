# SPDX-License-Identifier: Apache-2.0
"""A virtual tap that measures every flow in the kernel and streams what it measured."""

__version__ = "0.1.0"
