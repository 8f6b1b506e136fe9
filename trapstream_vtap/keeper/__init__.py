# SPDX-License-Identifier: Apache-2.0
"""The keeper: a small process that stays privileged, and loads and attaches kernel programs."""
