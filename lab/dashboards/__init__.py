# SPDX-License-Identifier: Apache-2.0
"""Grafana's dashboards as code: one description, a dialect for each data source, JSON from it."""
