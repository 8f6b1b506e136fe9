# SPDX-License-Identifier: Apache-2.0
"""Settings: an option is declared once, where it belongs, and everything else is made from that."""
