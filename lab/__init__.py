# SPDX-License-Identifier: Apache-2.0
"""A network laboratory on one machine: namespaces, links, traffic, captures, real collectors."""
